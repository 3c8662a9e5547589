"""``cptlite sweep``: a grid of methods, shots, seeds and options, from a plan to the report's tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cptlite.cli.console import invocation, note, progress, show_configuration
from cptlite.cli.options import (
    CACHE_DIR,
    HOW,
    WHAT,
    WHERE,
    CacheDirOption,
    DatasetOption,
    JsonOption,
    VerboseOption,
    complete_method,
    split_at_commas,
)
from cptlite.cli.sweep_given import choose_gpus, expand_given, read_given, spread_gpus
from cptlite.cli.sweep_shown import configuration_lines, plan_lines, show_outcomes, show_plan
from cptlite.errors import UsageError
from cptlite.process import keep_freed_memory, loading

if TYPE_CHECKING:
    from cptlite.config import RunConfig
    from cptlite.runs.sweep_plan import SweepPlan
    from cptlite.runs.sweep_run import SweepWays

__all__ = ["sweep"]

HEAD = "# What `cptlite sweep` ran into this folder; given to it, this file does the same, or goes on.\n"


def sweep(
    plan: Annotated[
        Path | None, typer.Argument(help="A TOML file with the plan; flags override it.", show_default=False)
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods",
            "-m",
            help="Methods to train, with commas.",
            autocompletion=complete_method,
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option("--shots", help="Training images per class, or all. (default: 1,2,4,8,16)", rich_help_panel=WHAT),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Seeds, such as 1-3 or 1,5. (default: 1-3)", rich_help_panel=WHAT)
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            help="Suites to train on, each by itself; with --dataset the results' folder in --out.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    dataset: DatasetOption = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="Whose features to train on; by default the one that is cached.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An option of train and its values: lr=0.002,0.02. Repeated, every combination.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    cache_dir: CacheDirOption = CACHE_DIR,
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs.", rich_help_panel=WHERE)] = Path("runs"),
    engine: Annotated[
        str, typer.Option("--engine", help="What carries runs out: loky, dask or ray.", rich_help_panel=HOW)
    ] = "loky",
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Processes at a time; they share the cores. (default: 1, or one for each of --gpus)",
            rich_help_panel=HOW,
            show_default=False,
        ),
    ] = None,
    gpus: Annotated[
        str,
        typer.Option(
            "--gpus",
            help="GPUs of this machine that processes are spread over, such as 0,1; by default all.",
            rich_help_panel=HOW,
        ),
    ] = "",
    scheduler: Annotated[
        str,
        typer.Option(
            "--scheduler", help="Address of a Dask scheduler or Ray cluster; by default one here.", rich_help_panel=HOW
        ),
    ] = "",
    together: Annotated[
        bool | None,
        typer.Option(
            "--together/--no-together",
            help="Train runs that differ in shots and seed as an axis of one forward; by default on a GPU.",
            rich_help_panel=HOW,
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        float,
        typer.Option("--memory", min=0.001, help="GiB for the rows of runs that train together.", rich_help_panel=HOW),
    ] = 8.0,
    lock: Annotated[
        bool,
        typer.Option(
            "--lock/--no-lock",
            help="Hold each run's folder against other processes; --no-lock on file systems without locks.",
            rich_help_panel=HOW,
        ),
    ] = True,
    choose: Annotated[
        bool,
        typer.Option(
            "--choose",
            help="Choose among the values of --set, for each method and shots, on validation rows.",
            rich_help_panel=HOW,
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.", rich_help_panel=HOW)] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a grid of methods, shots, seeds and options, and print the report's tables.

    What is finished is not trained again: stopped, or with runs that failed, the same command goes on. The plan is
    kept beside the runs as sweep-*.toml, which this command takes too.
    """
    with loading():
        from cptlite.cache import CacheFolder
        from cptlite.runs.engines import check_engine
        from cptlite.runs.sweep import shared_backbone
        from cptlite.runs.sweep_run import SweepWays, forecast

    flags = {"methods": methods, "suites": suite, "datasets": dataset}
    listed = {name: split_at_commas(words) for name, words in flags.items() if words}
    wanted = read_given(plan, {**listed, "shots": shots, "seeds": seeds, "backbone": backbone}, settings or [])
    seen = choose_gpus(gpus, scheduler)
    check_engine(engine, scheduler)
    if choose and "held_out_tasks" in dict(wanted.settings):
        raise UsageError("a task that is held out has no validation rows to choose on: leave --choose out")
    with CacheFolder(cache_dir) as cached:
        wanted, configs = expand_given(wanted, cached)
        keep_freed_memory(large=all(config.text_path == "fused" for config in configs))
        loaded = shared_backbone(*_how(configs[0]))
        if loaded.remark:
            note(loaded.remark)
        together = loaded.device.type != "cpu" if together is None else together
        ways = SweepWays(
            cache_dir=cache_dir,
            out=out,
            engine=engine,
            jobs=jobs or max(1, len(seen)),
            scheduler=scheduler,
            gpus=spread_gpus(configs[0].device, seen),
            together=together,
            memory=memory,
            lock=lock,
        )
        lines = configuration_lines(wanted, len(configs), ways)
        show_configuration("sweep", lines, vars(wanted) | vars(ways) if verbose else None)
        shares = list(
            forecast(
                configs,
                out,
                lambda config: shared_backbone(*_how(config)),
                lambda config: cached.open(loaded, config.datasets),
            )
        )
    if dry_run:
        show_plan(shares, out, json)
        return
    note("\n".join(plan_lines(shares, out)))
    _carry_out(wanted, configs, ways, choose, json)


def _how(config: RunConfig) -> tuple[str, str, str, str]:
    return config.backbone, config.device, config.precision, config.linear_backend


def _carry_out(plan: SweepPlan, configs: Sequence[RunConfig], ways: SweepWays, choose: bool, json: bool) -> None:
    """Run all, print what came out, and end with 1 where a run came to nothing."""
    from cptlite.files import write_alone
    from cptlite.runs.folders import run_folder
    from cptlite.runs.sweep_choice import choose_options, validation_score
    from cptlite.runs.sweep_plan import plan_file
    from cptlite.runs.sweep_run import Failure, run_sweep

    kept = plan_file(plan, ways.out)
    write_alone(kept, (HEAD + plan.to_toml()).encode())
    with progress("training", "steps") as bar:
        outcomes = run_sweep(
            configs,
            ways,
            lambda far: bar(far.steps_done, far.steps, said=f"{far.runs_done} of {far.runs} runs"),
        )
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    done = [config for config, outcome in zip(configs, outcomes, strict=True) if not isinstance(outcome, Failure)]
    candidates = None
    if choose:
        results = [None if isinstance(outcome, Failure) else outcome for outcome in outcomes]
        score = partial(validation_score, out=ways.out, cache_dir=ways.cache_dir)
        candidates = choose_options(list(zip(configs, results, strict=True)), score)
    show_outcomes(outcomes, candidates, ways, json)
    note(f"plan: {kept}")
    if done:
        example = max(done, key=lambda config: config.shots)
        note(
            f"Next:\n  {invocation()} report {shlex.quote(str(ways.out))} --tasks\n"
            f"  {invocation()} predict {shlex.quote(str(run_folder(ways.out, example)))} photos/"
        )
    if failed:
        note(f"error: {len(failed)} of {len(configs)} runs came to nothing, the same command tries them again")
        raise typer.Exit(1)
