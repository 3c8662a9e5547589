"""``cptlite reproduce``: the paper's table in one command, from data to report; or the same on the demo's tasks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cptlite.cli.console import invocation, note, print_table, progress, show_configuration, some
from cptlite.cli.doctor import finding_row, print_advice
from cptlite.cli.options import HOW, WHAT, WHERE, JsonOption, VerboseOption, complete_method, split_at_commas
from cptlite.cli.sweep_shown import plan_lines, show_outcomes, show_plan
from cptlite.datasets.text_files import shown_lines
from cptlite.process import keep_freed_memory, loading

if TYPE_CHECKING:
    from cptlite.config import RunConfig
    from cptlite.reproduction import Outlook, Target
    from cptlite.runs.sweep_run import SweepWays

__all__ = ["reproduce"]

VIEWS, DEMO_VIEWS = 8, 1  # of a training image: the original draws one an epoch; as `cptlite demo` caches them


def reproduce(
    what: Annotated[str, typer.Argument(help="paper, or demo: the same on the six small tasks of the demo.")],
    suite: Annotated[
        str | None, typer.Option("--suite", help="general10, plant6 or fashion20.", rich_help_panel=WHAT)
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods",
            "-m",
            help="Some of the paper's methods, with commas; by default all.",
            autocompletion=complete_method,
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    shots: Annotated[
        str, typer.Option("--shots", help="Training images per class.", rich_help_panel=WHAT)
    ] = "1,2,4,8,16",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, such as 1-3.", rich_help_panel=WHAT)] = "1-3",
    recipe: Annotated[
        str,
        typer.Option("--recipe", help="paper, as it is stated, or released, as its code steps.", rich_help_panel=HOW),
    ] = "paper",
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="The paper's is RN50.", rich_help_panel=WHAT, show_default="RN50")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", envvar="CPTLITE_DATA", help="Folder of the datasets.", rich_help_panel=WHERE),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option("--cache-dir", envvar="CPTLITE_CACHE", help="Folder of the caches.", rich_help_panel=WHERE),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the runs.", rich_help_panel=WHERE)] = None,
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            min=1,
            help="Views of a training image in the caches.",
            rich_help_panel=HOW,
            show_default="8; of the demo 1",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Processes at a time; they share the cores.", rich_help_panel=HOW)
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what is missing, and what disk and time it takes.", rich_help_panel=HOW),
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make the table of SoftCPT's paper anew: check data and weights, cache, train, report beside its figures.

    What is done is not done again: stopped, the same command goes on.
    """
    with loading():
        from cptlite.reproduction import PAPER_METHODS, Target, look_ahead, paper_plan, refuse_failed
        from cptlite.runs.sweep_plan import expand
        from cptlite.runs.sweep_run import SweepWays
    target = Target.find(what, suite, backbone=backbone, root=root, cache_dir=cache_dir, out=out)
    views = views or (DEMO_VIEWS if target.of_demo else VIEWS)
    names = [spec.name for spec in target.specs]
    plan = paper_plan(
        target.suite,
        names,
        target.backbone,
        recipe=recipe,
        methods=split_at_commas(methods or []) or PAPER_METHODS,
        shots=shots,
        seeds=seeds,
    )
    configs = expand(plan, [(target.suite, names)], target.backbone)
    patches = any(config.entry.needs_patches for config in configs)
    ways = SweepWays(cache_dir=target.cache_dir, out=target.out, jobs=jobs)
    told = vars(plan) | vars(ways) | {"root": target.root, "views": views, "patches": patches}
    show_configuration("reproduce", _sum_up(target, configs, recipe, views), told if verbose else None)
    if target.of_demo and not dry_run:
        _draw(target.root)
    keep_freed_memory()
    outlook = look_ahead(target, configs, views=views, patches=patches)
    if dry_run:
        _show(outlook, target, json)
        return
    note("\n".join([*map(finding_row, outlook.findings), *_plan_lines(outlook, target)]))
    refuse_failed(outlook.findings)
    _cache(target, views, patches)
    _train(target, configs, replace(ways, together=_on_gpu()), json)


def _sum_up(target: Target, configs: Sequence[RunConfig], recipe: str, views: int) -> list[str]:
    methods = list(dict.fromkeys(config.method for config in configs))
    return [
        f"{target.suite}: {some(methods)} ({len(configs)} runs)",
        f"backbone {target.backbone}, {views} views, recipe {recipe}",
        f"from {target.root} by {target.cache_dir} into {target.out} (every setting: -v)",
    ]


def _draw(root: Path) -> None:
    from cptlite.drawings import draw_suite

    with progress("drawing", "images") as bar:
        draw_suite(root, on_progress=lambda done, total: bar(done, total))


def _plan_lines(outlook: Outlook, target: Target) -> list[str]:
    """Say what caching and training take."""
    from cptlite.reporting import duration

    caching, lines = outlook.caching, []
    if caching.images:
        lines.append(
            f"  caching: {caching.images:,} images, views counted, about {duration(caching.seconds)} of the encoder, "
            f"{caching.cache_bytes / 2**30:.1f} GiB"
        )
    if caching.unknown:
        lines.append(f"  caching: not counted before its files are here: {some(caching.unknown)}")
    return [*(lines or ["  every dataset is cached"]), *plan_lines(outlook.shares, target.out)]


def _show(outlook: Outlook, target: Target, json: bool) -> None:
    """Print the plan on stdout."""
    findings = [asdict(each) for each in outlook.findings]
    if json:
        show_plan(outlook.shares, target.out, json, findings=findings, caching=asdict(outlook.caching))
        return
    for finding in outlook.findings:
        print(finding_row(finding))
    print_advice("What to do", [each for each in outlook.findings if each.advice])
    print(shown_lines("\n".join(["", *_plan_lines(outlook, target)])))


def _cache(target: Target, views: int, patches: bool) -> None:
    from cptlite.reproduction import encode_missing

    with progress("caching", "images") as bar:
        encode_missing(
            target,
            views=views,
            patches=patches,
            on_progress=lambda done, total, dataset: bar(done, total, f"caching {dataset}", "images"),
        )


def _on_gpu() -> bool:
    from cptlite.environment import find_device

    return find_device("auto").type != "cpu"


def _train(target: Target, configs: Sequence[RunConfig], ways: SweepWays, json: bool) -> None:
    """Run all, report beside the paper, and end with 1 where a run came to nothing."""
    from cptlite.runs.sweep_run import Failure, run_sweep

    with progress("training", "steps") as bar:
        outcomes = run_sweep(
            configs, ways, lambda far: bar(far.steps_done, far.steps, said=f"{far.runs_done} of {far.runs} runs")
        )
    results: list[dict[str, Any]] = [each for each in outcomes if not isinstance(each, Failure)]
    show_outcomes(outcomes, None, ways, json)
    of_paper = not target.of_demo
    if results and of_paper and not json:
        from cptlite.reporting import group_results, of_the_paper, paper_table

        for title, group in of_the_paper(group_results(results)).items():
            print_table(paper_table(group, title))
    beside = " --paper" if of_paper else ""
    note(f"Next:\n  {invocation()} report {shlex.quote(str(target.out))}{beside} --format markdown")
    if len(results) < len(outcomes):
        lost = len(outcomes) - len(results)
        note(f"error: {lost} of {len(configs)} runs came to nothing, the same command tries them again")
        raise typer.Exit(1)
