"""The charts that the slider moves: the pairs of a record, and what its temperature does to them.

What they show at each step is plain data beside them, the `frames`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from bokeh.models import ColumnDataSource, DataRange1d, LinearAxis

from ..microscope import KINDS
from ._charts import BAD, COLOURS, SOFT, Chart, Key, inks, plain
from ._run import Run
from ._sentences import falls

BINS, POINTS = 50, 100  # of a histogram and of a curve in the page


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
    inks_of = inks(runs)
    shown = [
        _Lines(
            run.name,
            f"r{i}",
            inks_of[i],
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
