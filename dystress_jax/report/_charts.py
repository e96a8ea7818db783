"""The charts of a report, by bokeh; what they show at each step is plain data beside them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    DataRange1d,
    FixedTicker,
    HoverTool,
    LassoSelectTool,
    LinearAxis,
    PanTool,
    Range1d,
    ResetTool,
    Span,
    TapTool,
    WheelZoomTool,
)
from bokeh.plotting import figure
from jaxtyping import Float, Int

from ..microscope import KINDS
from ._groups import Group, groups_of, value_of
from ._overview import Overview, Row
from ._run import CurveOverSteps, Run
from ._sentences import falls, gaps_of

# Told apart by people who see colours differently, on white, and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07d00", "#777777")
IN_THE_DARK = ("#56b4e9", "#ff8c42", "#2fd6a3", "#e08bd8", "#e6b800", "#b0b0b0")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star", "plus")
DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
BAD = "#cc1111"
SOFT = "#8a8a8a"
BINS, POINTS = 50, 100  # of a histogram and of a curve in the page


class Key(NamedTuple):
    """One entry of the key of a chart."""

    label: str
    colour: str
    dash: str = "solid"


class Chart(NamedTuple):
    """A chart and what is said of it.

    Attributes:
        name: of its place in the page.
        title: a line above it.
        about: what it shows, for those who cannot see it too.
        figure: of bokeh.
        keys: what its lines are.
        is_wide: whether it takes the width of the page.
    """

    name: str
    title: str
    about: str
    figure: Any
    keys: tuple[Key, ...] = ()
    is_wide: bool = False


def style_of(number: int) -> tuple[str, str]:
    """Colour and dash of a group of runs."""
    return COLOURS[number % len(COLOURS)], DASHES[(number // len(COLOURS)) % len(DASHES)]


def inks(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Colour and dash of each run, which are those of its group in every chart.

    Example:
        >>> runs = [Run("a", "a", {"seed": 0}), Run("b", "b"), Run("c", "c", {"seed": 1})]
        >>> [colour for colour, _ in inks(runs)] == [COLOURS[0], COLOURS[1], COLOURS[0]]
        True
    """
    numbers = {i: number for number, group in enumerate(groups_of(runs)) for i in group.runs}
    return [style_of(numbers[i]) for i in range(len(runs))]


def plain(*, x: str, y: str, height: int = 260, **options: Any) -> Any:
    """A figure without tools, as wide as its place, that takes the colours of the page."""
    made = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_axis_label=x,
        y_axis_label=y,
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0,
        min_width=200,
        **options,
    )
    made.xgrid.grid_line_color = None
    return made


# Of metrics.jsonl, the names that a report draws, with what they are called there.
CURVES = {
    "loss": "loss",
    "knn": "kNN accuracy on held-out images",
    "probe_accuracy": "accuracy of the online probe",
    "positive_similarity": "similarity of positive pairs",
    "negative_similarity": "similarity of negative pairs",
    "gradient_norm": "norm of the gradient",
    "features_uniformity": "uniformity of held-out features (lower: more even)",
    "features_tolerance": "tolerance of held-out features (higher: classes closer)",
    "features_effective_rank": "effective rank of held-out features",
}


def baselines(runs: Sequence[Run]) -> Chart | None:
    """The trained encoder beside what it must beat; of several seeds the mean, and all of them."""
    groups = [g for g in groups_of(runs) if any(runs[i].baselines for i in g.runs)]
    if not groups:
        return None
    names = list(dict.fromkeys(n for g in groups for i in g.runs for n in runs[i].baselines))
    rows, made, keys = [], None, []
    for name in names:
        for number, group in enumerate(groups):
            values = [
                100 * runs[i].baselines[name] for i in group.runs if name in runs[i].baselines
            ]
            if values:
                label = name if len(groups) == 1 else f"{name} · {runs[group.runs[0]].name}"
                rows.append((label, values, number))
    labels = [label for label, *_ in rows]
    made = plain(
        x="accuracy of nearest neighbours, %",
        y="",
        height=60 + 34 * len(rows),
        name="bars",
        y_range=labels[::-1],
        x_range=Range1d(start=0, end=125),  # room for the number beside a bar of 100 %
    )
    made.xaxis.ticker = FixedTicker(ticks=list(range(0, 101, 20)))
    made.ygrid.grid_line_color = None
    for number, group in enumerate(groups):
        own = [row for row in rows if row[2] == number]
        colour = inks(runs)[group.runs[0]][0]
        source = ColumnDataSource(
            {
                "label": [label for label, *_ in own],
                "mean": [float(np.mean(values)) for _, values, _ in own],
                "end": [float(np.max(values)) for _, values, _ in own],
                "alpha": [0.9 if label.startswith("trained") else 0.45 for label, *_ in own],
                "text": [f"{np.mean(values):.1f}" for _, values, _ in own],
            }
        )
        made.hbar(
            y="label",
            right="mean",
            height=0.62,
            source=source,
            fill_color=colour,
            fill_alpha="alpha",
            line_color=colour,
        )
        made.text(
            x="end",
            y="label",
            text="text",
            source=source,
            x_offset=6,
            text_baseline="middle",
            text_font_size="12px",
            name="ink",
        )
        seeds = [(label, v) for label, values, _ in own if len(values) > 1 for v in values]
        made.scatter(
            x=[v for _, v in seeds],
            y=[label for label, _ in seeds],
            size=5,
            fill_color="white",
            line_color="black",
        )
        if len(groups) > 1:
            keys.append(Key(group.name, colour))
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
    told = "; ".join(f"{label} {np.mean(values):.1f} %" for label, values, _ in rows)
    title = "Nearest neighbours, and what they must beat"
    # The names of several runs take much of a line.
    return Chart("baselines", title, told, made, tuple(keys), is_wide=len(groups) > 1)


def curves(runs: Sequence[Run]) -> list[Chart]:
    """What was logged, the mean over the seeds and the range between the lowest and the highest."""
    groups, charts = groups_of(runs), []
    for name, title in CURVES.items():
        made, keys, told = None, [], []
        for group in groups:
            found = [runs[i].curves[name] for i in group.runs if name in runs[i].curves]
            if not found:
                continue
            steps, values = together(found)
            if not len(steps):
                continue
            made = made or plain(x="step", y="")
            ink = inks(runs)[group.runs[0]]
            mean = _with_band(made, steps, values, ink, group)
            keys.append(Key(group.name, *ink))
            told.append(f"{group.name}: from {mean[0]:.3g} to {mean[-1]:.3g}")
        if made is not None:
            about = f"{title} over the steps. {'; '.join(told)}."
            charts.append(
                Chart(f"curve-{name}", title, about, made, tuple(keys) if len(runs) > 1 else ())
            )
    return charts


def over_setting(runs: Sequence[Run], found: Overview) -> list[Chart]:
    """Each accuracy over the number that is varied, where three values or more of one are there.

    Settings that would ignore the number are a line from side to side.
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
    charts = []
    for number, measure in enumerate(found.measures):
        made = plain(x=name, y="%", x_axis_type="log" if low > 0 and high >= 20 * low else "linear")
        keys, told = [], []
        for dash, of in zip(DASHES * len(others), others.values(), strict=False):
            rows = [row for row in of if measure in row.measured]
            along = [row for row in rows if _is_number(row.settings[at])]
            _joined(made, sorted((row.settings[at], _mean(row, measure)) for row in along), dash)
            for row in rows:
                colour = inks(runs)[row.group.runs[0]][0]
                values = 100 * row.measured[measure]
                tag = " ".join(f"r{run}" for run in row.group.runs)
                spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
                _point(made, row.settings[at], (low, high), values, spread, colour, tag)
                keys.append(Key(row.group.name, colour))
                told.append(f"{row.group.name} {values.mean():.1f} %, sd {spread:.1f}")
        if keys:
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


def _with_band(
    made: Any, steps: Any, values: Any, ink: tuple[str, str], group: Group
) -> Float[np.ndarray, " n"]:
    """Draw the mean over the seeds and, of several, the range of their values; return the mean."""
    (colour, dash), tag = ink, " ".join(f"r{i}" for i in group.runs)
    mean = values.mean(axis=0)
    if len(values) > 1:
        band = {"y1": values.min(axis=0), "y2": values.max(axis=0)}
        made.varea(x=steps, **band, fill_color=colour, fill_alpha=0.2, name=tag)
    made.line(x=steps, y=mean, line_color=colour, line_dash=dash, line_width=2, name=tag)
    if len(steps) == 1:  # a line of one point is not seen
        made.scatter(x=steps, y=mean, size=8, fill_color=colour, line_color=colour, name=tag)
    return mean


def together(
    found: Sequence[CurveOverSteps],
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "seeds n"]]:
    """Curves at the steps that all of them have.

    Example:
        >>> from ._run import CurveOverSteps
        >>> a = CurveOverSteps(np.array([1, 2, 3]), np.array([5.0, 6.0, 7.0]))
        >>> steps, values = together([a, CurveOverSteps(np.array([2, 3]), np.array([8.0, 9.0]))])
        >>> steps.tolist(), values.tolist()
        ([2, 3], [[6.0, 7.0], [8.0, 9.0]])
    """
    steps = found[0].steps
    for curve in found[1:]:
        steps = np.intersect1d(steps, curve.steps)
    return steps, np.stack([c.values[np.isin(c.steps, steps)] for c in found])


def frames(run: Run) -> list[dict[str, dict[str, list[float | None]]]]:
    """What the charts of the temperature show of a run, a frame for each record.

    Returns:
        For each record the columns of `pairs` (a row a bin) and of `curves` (a row an edge).
    """
    records = run.records
    if records is None or "similarity" not in records.arrays:
        return []
    found = []
    for t in range(len(records.steps)):
        whole = np.asarray(records["similarity_edges"][t], np.float64)
        by, fine = _step(len(whole) - 1, BINS), _step(len(whole) - 1, POINTS)
        merged = lambda x, by=by: np.asarray(x, np.float64).reshape(len(x), -1, by).sum(axis=-1)
        edges = whole[::by]
        kinds = dict(zip(KINDS, merged(records["similarity"][t]), strict=True))
        negatives = kinds["negative"].sum()
        columns = {"left": edges[:-1], "right": edges[1:]}
        for kind, counts in kinds.items():
            total = counts.sum() if kind == "positive" else negatives
            columns[kind] = counts / total if total > 0 else np.full(len(counts), np.nan)
        columns["gradient"] = np.full(len(edges) - 1, np.nan)
        if "gradient" in records.arrays:
            mass = merged(records["gradient"][t])[KINDS.index("negative")]
            if mass.sum() > 0:
                columns["gradient"] = mass / mass.sum()
        at = {"s": whole[::fine]}
        for name in ("tau", "logit", "log_weight"):
            at[name] = np.full(len(at["s"]), np.nan)
            if f"curve_{name}" in records.arrays:
                at[name] = np.asarray(records[f"curve_{name}"][t], np.float64)[::fine]
        down = falls(at["logit"])
        at["falling"] = np.where(
            np.append(down, False) | np.append(False, down), at["logit"], np.nan
        )
        middle = at["log_weight"][len(at["s"]) // 2]
        at["weight"] = (at["log_weight"] - middle) / np.log(10)
        found.append({"pairs": _rounded(columns), "curves": _rounded(at)})
    return found


def _step(bins: int, at_most: int) -> int:
    """How many bins become one, so that no more than these are left and none is left over."""
    return next(by for by in range(max(1, bins // at_most), bins + 1) if not bins % by)


def _rounded(columns: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    """Five digits; what is no number is null, which leaves a gap."""
    return {
        name: [float(f"{x:.5g}") if np.isfinite(x) else None for x in values]
        for name, values in columns.items()
    }


class _Lines(NamedTuple):
    """What the charts of the temperature draw of one run.

    Attributes:
        name: of the run.
        tag: by which the page shows and hides what is drawn.
        ink: colour and dash of the run among others.
        pairs: a row a bin.
        curves: a row an edge.
    """

    name: str
    tag: str
    ink: tuple[str, str]
    pairs: ColumnDataSource
    curves: ColumnDataSource


def of_temperature(runs: Sequence[Run], of: Sequence[list[Any]]) -> list[Chart]:
    """The charts that the slider moves, of the last record of each run.

    Args:
        runs: all runs of the report.
        of: the `frames` of each.
    """
    shown = [
        _Lines(
            run.name,
            f"r{i}",
            inks(runs)[i],
            _source(of[i][-1]["pairs"], f"pairs-{i}"),
            _source(of[i][-1]["curves"], f"curves-{i}"),
        )
        for i, run in enumerate(runs)
        if of[i]
    ]
    pairs = [run for run in shown if _has(run.pairs, "left", "positive")]
    pairs += [run for run in shown if run not in pairs and _has(run.pairs, "left", "negative")]
    drawn = {
        _similarities: pairs,
        _logits: [run for run in shown if _has(run.curves, "s", "logit")],
        _gradients: [run for run in shown if _has(run.pairs, "left", "gradient")],
    }
    return [draw(having) for draw, having in drawn.items() if having]


def _source(columns: Mapping[str, Sequence[float | None]], name: str) -> ColumnDataSource:
    """What is drawn, a gap where there is no number."""
    data: dict[str, Any] = {
        column: [np.nan if x is None else x for x in values] for column, values in columns.items()
    }
    return ColumnDataSource(data, name=name)


def _has(source: ColumnDataSource, *names: str) -> bool:
    """Whether there is anything to draw: axes without any number would have no ends."""
    return all(np.isfinite(source.data[name]).any() for name in names)


def _similarities(shown: list[_Lines]) -> Chart:
    """Where the pairs lie, by their kind, and tau(s) over them."""
    alone, warm = len(shown) == 1, [run for run in shown if _has(run.curves, "tau")]
    made = _with_right_axis("share of the pairs", "temperature τ(s)" if warm else "")
    kinds = {"positive": "positive pairs", "negative": "negative pairs"}
    kinds["false_negative"] = "negatives of the anchor's own class"
    has = lambda kind: any(x > 0 for run in shown for x in run.pairs.data[kind])
    kinds = {kind: label for kind, label in kinds.items() if has(kind)}
    dashes = {"positive": "dashed", "negative": "solid", "false_negative": "dotted"}
    inks = dict(zip(dashes, COLOURS, strict=False))
    for run in shown:
        for kind in kinds:
            made.step(
                x="left",
                y=kind,
                source=run.pairs,
                name=run.tag,
                mode="after",
                line_color=inks[kind] if alone else run.ink[0],
                line_dash=dashes[kind],
                line_width=1.8,
            )
    for run in warm:
        made.line(
            x="s",
            y="tau",
            source=run.curves,
            name=run.tag,
            line_color=COLOURS[3] if alone else run.ink[0],
            line_width=3.5,
            line_alpha=0.7,
            y_range_name="right",
        )
    keys = [Key(label, inks[k] if alone else SOFT, dashes[k]) for k, label in kinds.items()]
    if warm:
        keys.append(Key("τ(s), right axis", COLOURS[3] if alone else SOFT, "thick"))
    about = (
        "Histograms of the similarities of positive and negative pairs of a batch, as shares of "
        "each, and the temperature of a negative pair at each similarity."
    )
    title = "Which pairs there are, and their temperature"
    return Chart("similarities", title, about, _fitted(made), (*keys, *_keys_of_runs(shown)))


def _logits(shown: list[_Lines]) -> Chart:
    """The logit, red where it falls, over the negatives."""
    alone, against = len(shown) == 1, [run for run in shown if _has(run.pairs, "negative")]
    right = "share of the negatives" if against else ""
    made = _with_right_axis("logit s / τ(s)", right, from_zero=False)
    for run in shown:
        colour, dash = run.ink
        if run in against:
            _negatives(made, run, alone, y_range_name="right")
        options = {"x": "s", "source": run.curves, "name": run.tag}
        made.line(y="logit", line_color=colour, line_dash=dash, line_width=2.5, **options)
        made.line(y="falling", line_color=BAD, line_dash="dashed", line_width=6, **options)
    keys = [Key("logit", COLOURS[0])] if alone else _keys_of_runs(shown)
    keys.append(Key("where it no longer increases", BAD, "dashed"))
    if against:
        keys.append(Key("negatives, right axis", SOFT, "area"))
    about = (
        "The logit that a negative has at each similarity, over the histogram of the negatives. "
        "Red and dashed where a more similar negative has no higher logit."
    )
    return Chart("logits", "The logit over the negatives", about, _fitted(made), tuple(keys))


def _gradients(shown: list[_Lines]) -> Chart:
    """Where the gradient lies, where the negatives lie, and what one of them weighs."""
    alone, weighed = len(shown) == 1, [run for run in shown if _has(run.curves, "weight")]
    made = _with_right_axis("share", "weight of one negative, 10^" if weighed else "")
    for run in shown:
        colour, dash = run.ink
        _negatives(made, run, alone)
        made.step(
            x="left",
            y="gradient",
            source=run.pairs,
            name=run.tag,
            mode="after",
            line_color=colour,
            line_dash=dash,
            line_width=2.2,
        )
    keys = [
        Key("share of the gradient", COLOURS[0] if alone else SOFT),
        Key("share of the negatives", SOFT, "area"),
    ]
    if weighed:
        made.extra_y_ranges = {"right": DataRange1d()}  # powers may be negative
        about = "weight of one negative over that of one in the middle, right axis: powers of 10"
        keys.append(Key(about, COLOURS[3] if alone else SOFT, "dotted"))
    for run in weighed:
        made.line(
            x="s",
            y="weight",
            source=run.curves,
            name=run.tag,
            line_color=COLOURS[3] if alone else run.ink[0],
            line_dash="dotted",
            line_width=2,
            y_range_name="right",
        )
    about = (
        "At which similarities the negatives lie, and at which the gradient that pushes an anchor "
        "away; and how much one negative weighs at each similarity."
    )
    title = "Where the gradient comes from"
    return Chart("gradients", title, about, _fitted(made), (*keys, *_keys_of_runs(shown)))


def _negatives(made: Any, run: _Lines, alone: bool, **options: Any) -> None:
    made.quad(
        left="left",
        right="right",
        top="negative",
        bottom=0,
        source=run.pairs,
        name=run.tag,
        fill_color=SOFT if alone else run.ink[0],
        fill_alpha=0.25,
        line_alpha=0,
        **options,
    )


def _keys_of_runs(shown: list[_Lines]) -> list[Key]:
    return [Key(run.name, *run.ink) for run in shown] if len(shown) > 1 else []


def _with_right_axis(left: str, right: str, *, from_zero: bool = True) -> Any:
    """A figure of similarities with two scales, or with one where the right has no label."""
    made = plain(x="similarity s", y=left)
    made.y_range = DataRange1d(start=0) if from_zero else DataRange1d()
    if not right:
        return made
    made.extra_y_ranges = {"right": DataRange1d(start=0)}
    made.add_layout(LinearAxis(y_range_name="right", axis_label=right), "right")
    return made


def _fitted(made: Any) -> Any:
    """The figure, each scale of which follows its own lines only."""
    for name, scale in {"default": made.y_range, **made.extra_y_ranges}.items():
        scale.renderers = [drawn for drawn in made.renderers if drawn.y_range_name == name]
    return made


OVER_TIME = {
    "effective": (
        "How many negatives count",
        "negatives",
        {
            "effective_negatives": "effective number of negatives",
            "hardest_for_80_percent": "hardest negatives with 80 % of the gradient",
        },
    ),
    "shares": (
        "What the hardest negatives have of the gradient",
        "share",
        {"hardest_1_percent": "hardest 1 %", "hardest_10_percent": "hardest 10 %"},
    ),
    "distances": (
        "How far apart the histograms of similarities are",
        "earth mover's distance",
        {
            "emd_positive_negative": "positives from negatives",
            "emd_true_false": "negatives of other classes from those of the own",
            "emd_positive_true": "positives from negatives of other classes",
            "emd_positive_false": "positives from negatives of the own class",
        },
    ),
}


def over_time(runs: Sequence[Run]) -> list[Chart]:
    """The single numbers of the records, as `curves`; a line marks the step of the slider."""
    groups, charts = groups_of(runs), []
    for name, (title, unit, lines) in OVER_TIME.items():
        made, told = None, []
        keys: dict[str, Key] = {}
        for group in groups:
            for number, (scalar, label) in enumerate(lines.items()):
                found = [curve for i in group.runs if (curve := _of_records(runs[i], scalar))]
                if not found:
                    continue
                steps, values = together(found)
                known = values.mean(axis=0)
                known = known[np.isfinite(known)]
                if len(known) < 2:
                    continue
                made = made or plain(x="step", y=unit, y_range=DataRange1d(start=0))
                own = inks(runs)[group.runs[0]][0]
                ink = COLOURS[number] if len(groups) == 1 else own, DASHES[number]
                _with_band(made, steps, values, ink, group)
                prefix = "" if len(groups) == 1 else f"{group.name}: "
                keys[label] = Key(label, ink[0] if len(groups) == 1 else SOFT, ink[1])
                if len(groups) > 1:
                    keys[group.name] = Key(group.name, own)
                told.append(f"{prefix}{label} from {known[0]:.3g} to {known[-1]:.3g}")
        if made is not None:
            made.add_layout(Span(dimension="height", location=0, line_color=SOFT, name="now"))
            about = f"{title}, over the steps: {'; '.join(told)}."
            charts.append(Chart(f"over-{name}", title, about, made, tuple(keys.values())))
    return charts


def _of_records(run: Run, scalar: str) -> CurveOverSteps | None:
    """A single number of the records, with NaN where there is none; None: nowhere is one."""
    if run.records is None or scalar not in run.records.arrays:
        return None
    values = np.asarray(run.records[scalar], np.float64)
    return CurveOverSteps(run.records.steps, values) if np.isfinite(values).any() else None


def modality_gap(runs: Sequence[Run]) -> Chart | None:
    """How far images and texts lie apart over the steps."""
    made, keys, told = None, [], []
    for i, run in enumerate(runs):
        found = None if run.images is None else gaps_of(run.images)
        if found is None or len(found[0].steps) < 2:
            continue
        made = made or plain(x="step", y="distance", y_range=DataRange1d(start=0))
        labels = "mean image to mean text: the gap", "an image to its own text, on average"
        for number, (label, curve) in enumerate(zip(labels, found, strict=True)):
            colour = COLOURS[number] if len(runs) == 1 else inks(runs)[i][0]
            made.line(
                x=curve.steps,
                y=curve.values,
                line_color=colour,
                line_dash=DASHES[number],
                line_width=2,
                name=f"r{i}",
            )
            name = label if len(runs) == 1 else f"{run.name}: {label}"
            keys.append(Key(name, colour, DASHES[number]))
            told.append(f"{name} from {curve.values[0]:.3g} to {curve.values[-1]:.3g}")
    if made is None:
        return None
    title = "Modality gap: how far images and texts lie apart"
    return Chart("modality-gap", title, f"{'; '.join(told)}.", made, tuple(keys))


HOVER = """<div style="max-width: 180px"><img src="@picture" alt="" style="width: 96px;
image-rendering: pixelated; display: @display"><div>@label</div></div>"""


def map_of_images() -> Chart:
    """An empty map; the page fills it with the images of a run at a step."""
    columns = ("x", "y", "colour", "marker", "size", "picture", "display", "label")
    source = ColumnDataSource({name: [] for name in columns}, name="map")
    made = plain(
        x="",
        y="",
        height=480,
        x_range=Range1d(start=-1.08, end=1.08),
        y_range=Range1d(start=-1.08, end=1.08),
    )
    made.axis.visible = False
    made.grid.visible = False
    drawn = made.scatter(
        x="x",
        y="y",
        marker="marker",
        fill_color="colour",
        line_color="colour",
        fill_alpha=0.75,
        nonselection_alpha=0.2,
        size="size",
        source=source,
    )
    thumbs = ColumnDataSource({"x": [], "y": [], "picture": [], "alpha": []}, name="thumbs")
    made.image_url(
        url="picture",
        x="x",
        y="y",
        w=20,
        h=20,
        w_units="screen",
        h_units="screen",
        anchor="center",
        global_alpha="alpha",
        source=thumbs,
    )
    ring = ColumnDataSource({"x": [], "y": []}, name="anchor")
    made.scatter(x="x", y="y", size=20, fill_alpha=0, line_width=3, line_color=BAD, source=ring)
    lasso = LassoSelectTool(renderers=[drawn])
    hover = HoverTool(renderers=[drawn], tooltips=HOVER, limit=3)
    made.add_tools(hover, lasso, TapTool(renderers=[drawn]))
    made.add_tools(WheelZoomTool(), PanTool(), ResetTool())
    made.toolbar_location, made.toolbar.logo = "above", None
    made.toolbar.active_drag, made.toolbar.active_scroll = lasso, None
    about = (
        "A map of the images that the run watches: near each other is what the encoder takes for "
        "alike. The list of images and the tables below say the same in words."
    )
    return Chart("map", "Map of images", about, made)
