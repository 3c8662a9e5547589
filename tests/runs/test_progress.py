"""How far many runs are: counted by steps, in whichever process."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_bench import RunBench, configure, least

from cptlite.cache import CacheFolder
from cptlite.runs.progress import FINISHED, STEPS, Progress, counting
from cptlite.runs.rows import count_steps
from cptlite.runs.sweep import run_all


def test_what_groups_count_is_added_up() -> None:
    told: list[Progress] = []
    with counting([[10, 20], [1, 1, 1]], [False, True], told.append) as (stepped, fitted):
        stepped.open()[STEPS] = 7
        fitted.open()[STEPS] = 2
    assert told[0] == Progress(runs_done=0, runs=5, steps_done=0, steps=33)
    assert told[-1] == Progress(runs_done=2, runs=5, steps_done=9, steps=33)
    with counting([[10, 20], [1, 1, 1]], [False, True], told.append) as (stepped, fitted):
        stepped.open()[FINISHED] = 1  # before this call, perhaps: no step was counted
    assert told[-1] == Progress(runs_done=2, runs=5, steps_done=30, steps=33)


@pytest.mark.parametrize("what", [{}, {"separate": True}])
def test_every_step_is_told(bench: RunBench, what: dict[str, bool]) -> None:
    configs = [configure("coop-ca", shots=shots, seed=seed, **what) for shots, seed in ((1, 1), (2, 1), (2, 2))]
    with CacheFolder(bench.caches) as folder:
        caches = folder.open(bench.backbone, configs[0].datasets)
        total = sum(count_steps(caches, config) for config in configs)
    steps: list[int] = []
    bench.train_together("counted", configs, on_step=steps.append)
    assert steps == sorted(steps) and steps[-1] == total > 3
    assert max(after - before for before, after in zip(steps, steps[1:], strict=False)) <= len(configs)


def test_a_sweep_tells_its_steps_and_runs(bench: RunBench, tmp_path: Path) -> None:
    configs = [least("coop-ca"), least("prototype", seed=1), least("prototype", seed=2)]
    told: list[Progress] = []
    run_all(configs, cache_dir=bench.caches, out=tmp_path, together=True, on_progress=told.append)
    assert (told[0].runs_done, told[0].runs) == (0, 3)
    assert told[-1].runs_done == 3 and told[-1].steps_done == told[-1].steps >= 3
    again: list[Progress] = []
    run_all(configs, cache_dir=bench.caches, out=tmp_path, together=True, on_progress=again.append)
    assert again[-1] == told[-1], "what is done already counts as done"
