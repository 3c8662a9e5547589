"""What ``cptlite sweep`` prints: the plan before it, tables and failures after it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cptlite.cli.console import invocation, note, print_results, print_table, some
from cptlite.datasets.text_files import shown_lines
from cptlite.shots import say_shots

if TYPE_CHECKING:
    from cptlite.config import RunConfig
    from cptlite.reporting import Table
    from cptlite.runs.sweep_choice import Candidate
    from cptlite.runs.sweep_plan import SweepPlan
    from cptlite.runs.sweep_run import Outcome, Share, SweepWays

__all__ = ["configuration_lines", "plan_lines", "show_outcomes", "show_plan"]


def configuration_lines(plan: SweepPlan, runs: int, ways: SweepWays) -> list[str]:
    """Say what a sweep of so many runs is made of, and how it is carried out."""
    shots, seeds = (",".join(map(str, numbers)) for numbers in (map(say_shots, plan.shots), plan.seeds))
    settings = [f"{name} {', '.join(map(str, values))}" for name, values in plan.settings]
    how = f"{ways.engine}, {ways.jobs} job{'s' if ways.jobs > 1 else ''}" + (", together" if ways.together else "")
    how += f", on GPUs {', '.join(ways.gpus)}" if len(ways.gpus) > 1 and ways.jobs > 1 else ""
    return [
        f"{some(plan.methods)} on {some(plan.suites)}; shots {shots}; seeds {seeds} ({runs} runs)",
        f"backbone {plan.backbone}; {how}" + (f"; {'; '.join(settings)}" if settings else ""),
        f"into {ways.out} (every setting: -v)",
    ]


def _label(config: RunConfig, out: Path) -> str:
    """Suite and configuration, as the folder of its runs says them."""
    from cptlite.runs.folders import run_folder

    return run_folder(out, config).parents[1].relative_to(out).as_posix()


def plan_lines(shares: Sequence[Share], out: Path) -> list[str]:
    """Say what is done, what is left and how long that takes, a line each; then the sum, and what is short."""
    from cptlite.reporting import duration

    labels = [_label(share.configs[0], out) for share in shares]
    lines = []
    for label, share in zip(labels, shares, strict=True):
        words = f"{_runs(len(share.configs))}, {len(share.configs) - len(share.left)} done"
        if share.problem:
            words += f"; cannot run: {share.problem}"
        elif share.left:
            words += "; fitted at once" if share.seconds is None else f"; about {duration(share.seconds)}"
        lines.append(f"  {label:<{max(map(len, labels))}}  {words}")
    runs, left = (
        sum(len(part) for part in parts) for parts in zip(*((s.configs, s.left) for s in shares), strict=True)
    )
    seconds = sum(share.seconds or 0.0 for share in shares)
    lines.append(
        f"{_runs(runs)}, {runs - left} done, {left} left" + (f": about {duration(seconds)}" if seconds else "")
    )
    short = dict.fromkeys(line for share in shares for line in share.warnings)
    return lines + [f"warning: {line}" for line in short]


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"


def show_plan(shares: Sequence[Share], out: Path, json: bool, **beside: Any) -> None:
    """Print the plan on stdout; as JSON with what else is told."""
    from cptlite.runs.folders import run_folder

    if not json:
        typer.echo(shown_lines("\n".join(plan_lines(shares, out))))
        return
    plan = [
        {
            "configuration": _label(share.configs[0], out),
            "runs": [str(run_folder(out, config)) for config in share.configs],
            "left": [str(run_folder(out, config)) for config in share.left],
            "seconds": share.seconds,
            "problem": share.problem,
        }
        for share in shares
    ]
    print_results(plan, **beside)


def show_outcomes(
    outcomes: Sequence[Outcome], candidates: Sequence[Candidate] | None, ways: SweepWays, json: bool
) -> None:
    """Print the report's tables and what was chosen, then each failure with the command that makes this run alone."""
    from cptlite.reporting import group_results, summary_table
    from cptlite.runs.folders import run_folder
    from cptlite.runs.sweep_run import Failure

    results = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    failed = [
        {"run": str(run_folder(ways.out, each.config)), "message": each.message, "command": _alone(each.config, ways)}
        for each in outcomes
        if isinstance(each, Failure)
    ]
    if json:
        chosen = {} if candidates is None else {"choices": _choices(candidates, ways.out)}
        print_results(results, failed=failed, **chosen)
    else:
        for title, group in group_results(results).items():
            print_table(summary_table(group, title))
        if candidates:
            print_table(_choice_table(candidates, ways.out))
    for each in failed:
        note(f"failed: {each['run']}\n  {each['message']}\n  alone: {each['command']}")


def _choices(candidates: Sequence[Candidate], out: Path) -> list[dict[str, Any]]:
    return [
        {
            "configuration": _label(each.config, out),
            "shots": say_shots(each.config.shots),
            "seeds": each.seeds,
            "validation": each.validation,
            "test": each.test,
            "chosen": each.chosen,
        }
        for each in candidates
    ]


def _choice_table(candidates: Sequence[Candidate], out: Path) -> Table:
    """One row per configuration and number of shots; the chosen ones' validation scores are stressed."""
    from cptlite.reporting import Table

    rows = [
        (
            _label(each.config, out),
            str(say_shots(each.config.shots)),
            f"{100 * each.validation:.1f}",
            f"{100 * each.test:.1f}",
            "chosen" if each.chosen else "",
        )
        for each in candidates
    ]
    return Table(
        title="Chosen on validation rows (%)",
        columns=("configuration", "shots", "validation", "test", ""),
        rows=tuple(rows),
        best=frozenset((row, 2) for row, each in enumerate(candidates) if each.chosen),
        caption="mean over seeds; test scores have no part in the choice",
        words=(0, 4),
    )


def _alone(config: RunConfig, ways: SweepWays) -> str:
    from cptlite.runs.sweep_run import train_words

    where = [f"--cache-dir={ways.cache_dir}", f"--out={ways.out}", *([] if ways.lock else ["--no-lock"])]
    return f"{invocation()} train {shlex.join([*train_words(config), *where])}"
