"""``cptlite reproduce``: the paper's table in one command, from data to report; or the same on the demo's tasks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cptlite.cli.console import invocation, note, print_table, progress, show_configuration, some
from cptlite.cli.doctor import finding_row, print_advice
from cptlite.cli.options import HOW, WHAT, WHERE, JsonOption, VerboseOption, complete_method, split_at_commas
from cptlite.cli.sweep_shown import plan_lines, show_outcomes, show_plan
from cptlite.datasets.text_files import shown_lines
from cptlite.errors import DataError, UsageError
from cptlite.process import keep_freed_memory, loading

if TYPE_CHECKING:
    from cptlite.backbones import Backbone
    from cptlite.config import RunConfig
    from cptlite.datasets import DatasetSpec
    from cptlite.doctor import Finding
    from cptlite.reproduction import Forecast
    from cptlite.runs.sweep_run import Share, SweepWays

__all__ = ["reproduce"]

PAPER, DEMO = "paper", "demo"
VIEWS, DEMO_VIEWS = 8, 1  # of a training image: the original draws one an epoch; as `cptlite demo` caches them


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What is reproduced, of which data, and where it goes."""

    suite: str
    specs: Sequence[DatasetSpec]
    backbone: str
    root: Path
    cache_dir: Path
    out: Path


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
    target = _find_target(what, suite, backbone, root, cache_dir, out)
    views = views or (DEMO_VIEWS if what == DEMO else VIEWS)
    with loading():
        from cptlite.reproduction import PAPER_METHODS, paper_plan
        from cptlite.runs.sweep_plan import expand
        from cptlite.runs.sweep_run import SweepWays
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
    if what == DEMO and not dry_run:
        _draw(target.root)
    findings, costs, shares = _look_ahead(target, configs, views, patches)
    if dry_run:
        _show(findings, costs, shares, target, json)
        return
    note("\n".join([*map(finding_row, findings), *_cost_lines(costs), *plan_lines(shares, target.out)]))
    _refuse(findings)
    _cache(target, views, patches)
    _train(target, configs, replace(ways, together=_on_gpu()), json)


def _find_target(
    what: str, suite: str | None, backbone: str | None, root: Path | None, cache_dir: Path | None, out: Path | None
) -> _Target:
    """Settle what was left out: of the demo, the places that ``cptlite demo`` fills."""
    from cptlite.datasets import load_catalog

    if what not in (PAPER, DEMO):
        raise UsageError(f"wanted {PAPER} or {DEMO} to reproduce, got {what!r}")
    of_demo = what == DEMO
    if of_demo and suite not in (None, DEMO):
        raise UsageError(f"the demo has one suite, got --suite {suite}: leave it out, or reproduce {PAPER}")
    if suite is None and not of_demo:
        raise UsageError("wanted a suite of the paper, got none: give --suite general10, plant6 or fashion20")
    base = Path(DEMO) if of_demo else Path()
    name = suite or DEMO
    return _Target(
        suite=name,
        specs=load_catalog().resolve([name]),
        backbone=backbone or (DEMO if of_demo else "RN50"),
        root=root or base / "data",
        cache_dir=cache_dir or base / "cache",
        out=out or base / ("reproduced" if of_demo else "runs"),
    )


def _sum_up(target: _Target, configs: Sequence[RunConfig], recipe: str, views: int) -> list[str]:
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


def _look_ahead(
    target: _Target, configs: Sequence[RunConfig], views: int, patches: bool
) -> tuple[list[Finding], Forecast, list[Share]]:
    """Check what is needed, and time what it takes, by random weights where the real ones are not here yet."""
    from cptlite.reproduction import check_needs, foresee, foresee_runs, suite_tasks

    keep_freed_memory()
    cached = _cached(target)
    encoder = _stand_in(target.backbone)
    missing = [spec for spec in target.specs if spec.name not in cached]
    costs = foresee(missing, target.root, encoder, views=views, patches=patches)
    places = {"root": target.root, "cache_dir": target.cache_dir, "out": target.out}
    findings = check_needs(
        target.specs, **places, cached=cached, backbone=target.backbone, cache_bytes=costs.cache_bytes
    )
    tasks = suite_tasks(target.suite, target.specs, target.root, encoder)
    return list(findings), costs, list(foresee_runs(configs, encoder, tasks, target.out))


def _cached(target: _Target) -> set[str]:
    """Names of the suite's datasets whose caches are whole."""
    from cptlite.backbones import backbone_slug
    from cptlite.cache import CacheFolder

    with CacheFolder(target.cache_dir, backbone_slug(target.backbone)) as folder:
        return {each.dataset for each in folder.summaries if each.complete}


def _stand_in(backbone: str) -> Backbone:
    """Load a backbone to time steps with: of OpenAI's that are not here, one of random weights."""
    from cptlite.backbones import load_backbone
    from cptlite.reproduction import weights_are_missing

    return load_backbone(f"random:{backbone}" if weights_are_missing(backbone) else backbone)


def _cost_lines(costs: Forecast) -> list[str]:
    from cptlite.reporting import duration

    unknown = [f"  caching: how many images {some(costs.unknown)} has is known when its files are here"] * bool(
        costs.unknown
    )
    if not costs.images:
        return unknown or ["  every dataset is cached"]
    return [
        f"  caching: {costs.images:,} images, views counted, about {duration(costs.seconds)} of the encoder, "
        f"{costs.cache_bytes / 2**30:.1f} GiB",
        *unknown,
    ]


def _show(findings: Sequence[Finding], costs: Forecast, shares: Sequence[Share], target: _Target, json: bool) -> None:
    """Print the plan on stdout."""
    if json:
        show_plan(shares, target.out, json, findings=[asdict(each) for each in findings], caching=asdict(costs))
        return
    for finding in findings:
        print(finding_row(finding))
    print_advice("What to do", [each for each in findings if each.advice])
    lines = ["", *_cost_lines(costs), *plan_lines(shares, target.out)]
    print(shown_lines("\n".join(lines)))


def _refuse(findings: Sequence[Finding]) -> None:
    from cptlite.doctor import FAILED

    failed = [each for each in findings if each.state == FAILED]
    if failed:
        first = f"{failed[0].name}: {failed[0].found}: {failed[0].advice}"
        more = f" (and {len(failed) - 1} more above)" if len(failed) > 1 else ""
        raise DataError(f"the table cannot be made yet: {first}{more}")


def _cache(target: _Target, views: int, patches: bool) -> None:
    """Encode what is not cached; a stopped pass goes on."""
    from cptlite.backbones import load_backbone
    from cptlite.cache.encode import encode_dataset
    from cptlite.datasets import ViewConfig, read_dataset
    from cptlite.datasets.locate import find_dataset

    encoder = load_backbone(target.backbone)
    kept: dict[str, Any] = {"views": ViewConfig(views=views), "patches": patches}
    for spec in target.specs:
        if find_dataset(spec, target.root):
            with progress(spec.name, "images") as bar:
                kept["on_progress"] = lambda done, total, split, bar=bar: bar(done, total)
                encode_dataset(read_dataset(spec, target.root), encoder, target.cache_dir, **kept)


def _on_gpu() -> bool:
    from cptlite.environment import find_device

    return find_device("auto").type != "cpu"


def _train(target: _Target, configs: Sequence[RunConfig], ways: SweepWays, json: bool) -> None:
    """Run all, report beside the paper, and end with 1 where a run came to nothing."""
    from cptlite.runs.sweep_run import Failure, run_sweep

    with progress("training", "steps") as bar:
        outcomes = run_sweep(
            configs, ways, lambda far: bar(far.steps_done, far.steps, said=f"{far.runs_done} of {far.runs} runs")
        )
    results: list[dict[str, Any]] = [each for each in outcomes if not isinstance(each, Failure)]
    show_outcomes(outcomes, None, ways, json)
    of_paper = target.suite != DEMO
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
