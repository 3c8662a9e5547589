"""Charts as Vega-Lite, whose colours and symbols the page's style sheet brings, and what they are drawn from.

Words of files are values of data alone: no name, title or expression of a chart holds any.

Axes: C classes of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cptlite.datasets.text_files import shown
from cptlite.metrics import mean_and_std
from cptlite.reporting.page.libraries import import_altair
from cptlite.reporting.plots import shot_places
from cptlite.reporting.results import Result
from cptlite.reporting.summaries import Line, shots_label
from cptlite.shots import say_shots

__all__ = ["COLOURS", "SYMBOLS", "curve_data", "curve_spec", "few_shot_numbers", "matrix_spec"]

SYMBOLS = (
    "M0,-1A1,1,0,1,1,0,1A1,1,0,1,1,0,-1Z",
    "M-.9,-.9H.9V.9H-.9Z",
    "M0,-1L1,.8H-1Z",
    "M0,-1.15L1.15,0L0,1.15L-1.15,0Z",
    "M0,1L1,-.8H-1Z",
    "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
    "M0,-1.1L1.05,-.34L.65,.89H-.65L-1.05,-.34Z",
)
"""Outlines of markers, from -1 to 1, one fewer than colours, so that pairs repeat late."""
COLOURS = 8  # that the style sheet has
FAINT = 0.3  # of what they are, lines that the pointer is not near
FEW, BAND = 6, (0.14, 0.07)  # lines, and how opaque their bands are: of so many, of more
MARGIN = 0.35  # in log2 shots, left and right of the data


def few_shot_numbers(lines: Iterable[Line]) -> list[int | None]:
    """Count the lines that have shots, which have colours and markers; None of those that have none."""
    numbers, count = [], 0
    for line in lines:
        few_shot = any(line.runs)
        numbers.append(count if few_shot else None)
        count += few_shot
    return numbers


def curve_spec(lines: Sequence[Line], *, height: int, title: str) -> dict[str, Any]:
    """Accuracy against shots: a band, a line and markers each; that near the pointer stands out, with a figure.

    Parameters
    ----------
    lines : sequence of Line
        All of the group, so that its charts have the same axis.
    height : int
        In pixels; it is as wide as its place.
    title : str
        Of the vertical axis; nothing of a file.

    Returns
    -------
    dict
        Vega-Lite, for the data of `curve_data`.
    """
    alt = import_altair()
    places = shot_places(shots for line in lines for shots in line.runs)
    ticks = list(places.values())
    ends = [round(ticks[0] * 2**-MARGIN, 4), round(ticks[-1] * 2**MARGIN, 4)]
    names = " : ".join(f"datum.value == {place} ? '{say_shots(shots)}'" for shots, place in places.items())
    x = alt.X(
        "x:Q",
        scale=alt.Scale(type="log", base=2, domain=ends, nice=False),
        axis=alt.Axis(values=ticks, labelExpr=f"{names} : ''", title="images per class", grid=False),
    )
    above = {"titleAngle": 0, "titleAlign": "left", "titleX": -26, "titleY": -14}
    axis = alt.Axis(title=title or None, tickCount=height // 45, domain=False, ticks=False, **above)
    y = alt.Y("y:Q", scale=alt.Scale(zero=False), axis=axis)
    colour = alt.Color(
        "colour:N", scale=alt.Scale(domain=list(range(COLOURS)), range="category"), legend=None, sort=None
    )
    symbol = alt.Shape("symbol:N", scale=alt.Scale(domain=list(range(len(SYMBOLS))), range="symbol"), legend=None)
    told = alt.Tooltip("told:N")
    near = alt.selection_point(name="near", fields=["line"], on="pointerover", nearest=True, clear="pointerout")
    clear, band = (
        alt.condition(near, alt.value(most), alt.value(FAINT * most)) for most in (1, BAND[len(lines) > FEW])
    )
    points = alt.Chart(alt.NamedData(name="points"))
    layers = [
        points.mark_area().encode(x=x, y="low:Q", y2="high:Q", color=colour, detail="line:N", opacity=band),
        points.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, detail="line:N", opacity=clear),
        points.mark_point(filled=True, size=62)
        .encode(x=x, y=y, color=colour, shape=symbol, opacity=clear, tooltip=told)
        .add_params(near),
    ]
    if None in few_shot_numbers(lines):
        flat = alt.Chart(alt.NamedData(name="flat"))
        layers.append(flat.mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y=y, tooltip=told))
    return _finish(alt.layer(*layers).properties(width="container", height=height))


def curve_data(lines: Sequence[Line], score: Callable[[Result], float | None]) -> dict[str, list[dict[str, Any]]]:
    """Mean and standard deviation over seeds of some score in [0, 1], by line and shots, in percent.

    Returns
    -------
    dict
        ``points`` of methods with shots, ``flat`` of those without.
    """
    places = shot_places(shots for line in lines for shots in line.runs)
    data: dict[str, list[dict[str, Any]]] = {"points": [], "flat": []}
    for number, line in zip(few_shot_numbers(lines), lines, strict=True):
        for shots, by_seed in line.runs.items():
            scores = [value for value in map(score, by_seed.values()) if value is not None]
            if not scores:
                continue
            mean, std = (round(100 * value, 3) for value in mean_and_std(scores))
            told = f"{mean:.1f} ± {std:.1f} %" if len(scores) > 1 else f"{mean:.1f} %"
            words = (line.label, f"{shots_label(shots)}: {told}", f"seed{'s' * (len(scores) > 1)} {_some(by_seed)}")
            point = {"told": "\n".join(map(shown, words)), "y": mean}
            if shots and number is not None:
                band = {"x": places[shots], "low": round(mean - std, 3), "high": round(mean + std, 3)}
                look = {"line": number, "colour": number % COLOURS, "symbol": number % len(SYMBOLS)}
                data["points"].append({**point, **band, **look})
            else:
                data["flat"].append(point)
    return data


def _some(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def matrix_spec() -> dict[str, Any]:
    """How often each class is taken for each, of a task; the page's script fills in the rows.

    Returns
    -------
    dict
        Vega-Lite for data ``cells``: ``label`` and ``predicted``, ``share`` of the images of the class in [0, 1], and
        ``told``, a text.
    """
    alt = import_altair()
    axis = {"labelLimit": 96, "labelFontSize": 10, "labelOverlap": True, "ticks": False, "domain": False}
    chart = (
        alt.Chart(alt.NamedData(name="cells"))
        .mark_rect()
        .encode(
            x=alt.X("predicted:N", sort=None, axis=alt.Axis(title="predicted", labelAngle=-90, **axis)),
            y=alt.Y("label:N", sort=None, axis=alt.Axis(title="class", **axis)),
            color=alt.Color("share:Q", scale=alt.Scale(domain=[0, 1], range="heatmap", interpolate="rgb"), legend=None),
            tooltip=alt.Tooltip("told:N"),
        )
    )
    return _finish(chart.properties(width="container", height=320))


def _finish(chart: Any) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    return {name: value for name, value in spec.items() if name not in ("$schema", "config", "name")}
