"""Where a step's time goes, operation by operation; and the tests that need a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from cptlite.methods.prompts.softcpt import SoftCPT, SoftCPTOptions
from cptlite.timing.tasks import make_problem, make_rows
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe
from cptlite.training.state import TrainingState
from gpu_parts.setting import Row, Setting

__all__ = ["gpu_tests", "step_profile"]

STEPS = 10
MOST_ROWS = 40
CHECKOUT = Path(__file__).parents[2]


def step_profile(setting: Setting) -> Iterator[Row]:
    """Microseconds a step of SoftCPT's training spends in each operation, on the device and on the host."""
    backbone = setting.backbone()
    for suite in setting.suites:
        setting.tell(suite)
        names = setting.names(suite, backbone)
        method = SoftCPT(make_problem(backbone, names), SoftCPTOptions())
        rows = make_rows(backbone, len(method.problem.class_names), 1, seed=1)
        recipe = Recipe(epochs=1 if setting.small else STEPS, batch_size=0)

        def run(method: SoftCPT = method, rows=rows, recipe: Recipe = recipe) -> None:  # type: ignore[no-untyped-def]
            start = method.start(torch.Generator().manual_seed(1))
            state = TrainingState(start, rows, recipe, seed=1, task_sizes=method.problem.task_sizes)
            train(method, [state], cuda_graphs=False)

        run()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.place.type == "cuda" else [])]
        with profile(activities=kinds, acc_events=True) as profiled:
            run()
        events = profiled.key_averages()
        events = sorted(events, key=lambda event: (event.self_device_time_total, event.self_cpu_time_total))
        for event in events[: -MOST_ROWS - 1 : -1]:
            yield {
                "suite": suite,
                "operation": event.key,
                "calls": event.count / recipe.epochs,
                "device_us": event.self_device_time_total / recipe.epochs,
                "host_us": event.self_cpu_time_total / recipe.epochs,
            }


def gpu_tests(setting: Setting) -> Iterator[Row]:
    """Run ``pytest -m gpu`` on all tests, or where all is small on a file; where there is no GPU they are skipped."""
    where = ["tests/training/test_graph.py"] if setting.small else []
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *where]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    yield {"passed": done.returncode == 0, "said": lines[-1] if lines else "", "failed": failed}
