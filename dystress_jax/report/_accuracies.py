"""The charts of accuracies: beside the baselines, and over a number that was varied."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from bokeh.models import FixedTicker, Range1d, Span
from jaxtyping import Float

from ._charts import COLOURS, DASHES, SOFT, Chart, Key, inks, plain, style_of
from ._groups import Group, groups_of, value_of
from ._overview import Overview, Row
from ._run import Run

TICKS = 8  # values of a setting that are written below an axis, at most


class Bar(NamedTuple):
    """One accuracy, or the mean of those of several seeds."""

    label: str
    values: list[float]
    colour: str
    is_trained: bool


def baselines(runs: Sequence[Run]) -> Chart | None:
    """The trained encoder beside what it must beat; of several seeds the mean, and all of them."""
    groups = [g for g in groups_of(runs) if any(runs[i].baselines for i in g.runs)]
    if not groups:
        return None
    bars, keys = _bars(runs, groups), []
    made = plain(
        x="accuracy of nearest neighbours, %",
        y="",
        height=60 + 40 * len(bars),
        name="bars",
        y_range=Range1d(start=len(bars) - 0.4, end=-0.6),  # the first one on top
        x_range=Range1d(start=0, end=125),  # room for the number beside a bar of 100 %
    )
    made.xaxis.ticker = FixedTicker(ticks=list(range(0, 101, 20)))
    made.ygrid.grid_line_color, made.yaxis.visible = None, False
    for y, bar in enumerate(bars):
        _draw(made, bar, y)
    # Runs of other classes are guessed at another rate.
    chances: dict[float, list[str]] = {}
    for group in groups:
        for chance in dict.fromkeys(runs[i].chance for i in group.runs):
            if chance is not None:
                chances.setdefault(chance, []).append(group.name)
    for number, (chance, names) in enumerate(chances.items()):
        dash = ("dashed", "dotted")[number % 2]
        made.add_layout(
            Span(location=100 * chance, dimension="height", line_dash=dash, line_color=SOFT)
        )
        of = f" of {', '.join(names)}: {100 * chance:.1f} %" if len(chances) > 1 else ""
        keys.append(Key(f"chance{of}", SOFT, dash))
    told = "; ".join(f"{bar.label} {np.mean(bar.values):.1f} %" for bar in bars)
    title = "Nearest neighbours, and what they must beat"
    # The names of several runs take much of a line.
    return Chart("baselines", title, told, made, tuple(keys), is_wide=len(groups) > 1)


def _bars(runs: Sequence[Run], groups: Sequence[Group]) -> list[Bar]:
    """A bar for each accuracy of each group; one for all where it is the same in all."""
    colours, bars = inks(runs), []
    for name in dict.fromkeys(n for g in groups for i in g.runs for n in runs[i].baselines):
        found = [
            [100 * run.baselines[name] for run in group.seeds if name in run.baselines]
            for group in groups
        ]
        if len(groups) > 1 and all(values == found[0] for values in found):
            bars.append(Bar(f"{name} · all", found[0], SOFT, name == "trained"))
            continue
        for group, values in zip(groups, found, strict=True):
            if values:
                label = name if len(groups) == 1 else f"{name} · {group.name}"
                bars.append(Bar(label, values, colours[group.runs[0]][0], name == "trained"))
    return bars


def _draw(made: Any, bar: Bar, y: int) -> None:
    """The bar, its name above it, where a narrow page has room, and its number at its end."""
    mean = float(np.mean(bar.values))
    made.hbar(
        y=[y],
        right=[mean],
        height=0.45,
        fill_color=bar.colour,
        fill_alpha=0.9 if bar.is_trained else 0.45,
        line_color=bar.colour,
    )
    if len(bar.values) > 1:
        made.scatter(
            x=bar.values,
            y=[y] * len(bar.values),
            size=5,
            fill_color="white",
            line_color="black",
        )
    write = functools.partial(made.text, text_font_size="12px", name="ink")
    end = float(np.max(bar.values))
    write(x=[end], y=[y], text=[f"{mean:.1f}"], x_offset=6, text_baseline="middle")
    write(x=[0], y=[y - 0.25], text=[bar.label], text_baseline="bottom")


def over_setting(runs: Sequence[Run], found: Overview) -> list[Chart]:
    """Each accuracy over the number that is varied, where three values or more of one are there.

    Settings that would ignore the number are a line from side to side. Where there are too many
    settings for a colour each, those that differ in the number only share one.
    """
    numbers = {
        name: {row.settings[i] for row in found.rows if _is_number(row.settings[i])}
        for i, name in enumerate(found.settings)
    }
    name = max(numbers, key=lambda name: len(numbers[name]), default="")
    if not name or len(numbers[name]) < 3 or not found.comparable:
        return []
    at = found.settings.index(name)
    low, high = min(numbers[name]), max(numbers[name])
    others: dict[tuple[str, ...], list[Row]] = {}
    for row in found.rows:
        fixed = tuple(value_of(x) for j, x in enumerate(row.settings) if j != at)
        others.setdefault(fixed, []).append(row)
    charts, colours, share = [], inks(runs), len(found.rows) > len(COLOURS)
    for number, measure in enumerate(found.measures):
        made = plain(x=name, y="%", x_axis_type="log" if low > 0 and high >= 8 * low else "linear")
        every = sorted(numbers[name])
        made.xaxis.ticker = FixedTicker(ticks=every[:: math.ceil(len(every) / TICKS)])
        keys, told = [], []
        for line, (fixed, of) in enumerate(others.items()):
            dash = DASHES[line % len(DASHES)]
            rows = [row for row in of if measure in row.measured]
            along = [row for row in rows if _is_number(row.settings[at])]
            _joined(made, sorted((row.settings[at], _mean(row, measure)) for row in along), dash)
            for row in rows:
                if not _is_number(row.settings[at]) and row.settings[at] is not None:
                    continue
                colour = style_of(line)[0] if share else colours[row.group.runs[0]][0]
                values = 100 * row.measured[measure]
                tag = " ".join(f"r{run}" for run in row.group.runs)
                spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
                _point(made, row.settings[at], (low, high), values, spread, colour, tag)
                if not share:
                    keys.append(Key(row.group.name, colour))
                told.append(f"{row.group.name} {values.mean():.1f} %, sd {spread:.1f}")
            if share and rows and len(others) > 1:
                pairs = zip((x for x in found.settings if x != name), fixed, strict=True)
                said = ", ".join(f"{setting}={value}" for setting, value in pairs)
                keys.append(Key(said, style_of(line)[0], dash))
        if told:
            about = f"{measure} over {name}: {'; '.join(told)}."
            title = f"{measure} over {name}, mean and standard deviation over the seeds"
            charts.append(Chart(f"over-setting-{number}", title, about, made, tuple(keys)))
    return charts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(row: Row, measure: str) -> float:
    return 100 * float(row.measured[measure].mean())


def _joined(made: Any, points: list[tuple[float, float]], dash: str) -> None:
    """The line through settings that differ in the one number only."""
    made.line(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        line_color=SOFT,
        line_dash=dash,
        line_width=1.5,
    )


def _point(
    made: Any,
    x: Any,
    ends: tuple[float, float],
    values: Float[np.ndarray, " seeds"],
    spread: float,
    colour: str,
    tag: str,
) -> None:
    """Mean, deviation and seeds at a place, or from side to side where the place says nothing."""
    mean = float(values.mean())
    if not _is_number(x):
        band = {"y1": [mean - spread] * 2, "y2": [mean + spread] * 2}
        made.varea(x=list(ends), **band, fill_color=colour, fill_alpha=0.2, name=tag)
        made.line(x=list(ends), y=[mean] * 2, line_color=colour, line_width=2, name=tag)
        return
    made.segment(
        x0=[x],
        x1=[x],
        y0=[mean - spread],
        y1=[mean + spread],
        line_color=colour,
        line_width=2,
        name=tag,
    )
    made.scatter(x=[x], y=[mean], size=9, fill_color=colour, line_color=colour, name=tag)
    made.scatter(
        x=[x] * len(values),
        y=list(values),
        size=4,
        fill_color=None,
        line_color=colour,
        name=tag,
    )
