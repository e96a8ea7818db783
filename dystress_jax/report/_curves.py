"""The charts over the steps of a run: what was logged, and the single numbers of the records."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import DataRange1d, Span
from jaxtyping import Float, Int

from ._charts import COLOURS, DASHES, SOFT, Chart, Key, inks, plain
from ._groups import Group, groups_of
from ._run import CurveOverSteps, Run
from ._sentences import gaps_of

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


def curves(runs: Sequence[Run]) -> list[Chart]:
    """What was logged, the mean over the seeds and the range between the lowest and the highest."""
    groups, charts, inks_of = groups_of(runs), [], inks(runs)
    for name, title in CURVES.items():
        made, keys, told = None, [], []
        for group in groups:
            seeds, without = _drawn(group)
            found = [run.curves[name] for run in seeds if name in run.curves]
            if not found:
                continue
            steps, values = together(found)
            if not len(steps):
                continue
            made = made or plain(x="step", y="")
            ink = inks_of[group.runs[0]]
            mean = _with_band(made, steps, values, ink, group)
            keys.append(Key(f"{group.name}{without}", *ink))
            told.append(f"{group.name}: from {mean[0]:.3g} to {mean[-1]:.3g}{without}")
        if made is not None:
            about = f"{title} over the steps. {'; '.join(told)}."
            charts.append(
                Chart(f"curve-{name}", title, about, made, tuple(keys) if len(runs) > 1 else ())
            )
    return charts


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


def _drawn(group: Group) -> tuple[list[Run], str]:
    """The seeds whose curves are drawn, and words about the others.

    Those that have come to their end, if one has: a mean over others would end where the first of
    them stopped.
    """
    ended = [run for run in group.seeds if run.ended]
    left_out = len(group.seeds) - len(ended)
    if not ended or not left_out:
        return list(group.seeds), ""
    return ended, f" (left out: {left_out} that {'has' if left_out == 1 else 'have'} not ended)"


def together(
    found: Sequence[CurveOverSteps],
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "seeds n"]]:
    """Curves at all steps where each is known; between its own steps one is a straight line.

    Example:
        >>> from dystress_jax.report._run import CurveOverSteps
        >>> a = CurveOverSteps(np.array([1, 3, 5]), np.array([5.0, 6.0, 7.0]))
        >>> steps, values = together([a, CurveOverSteps(np.array([2, 5]), np.array([8.0, 9.5]))])
        >>> steps.tolist(), values.tolist()
        ([2, 3, 5], [[5.5, 6.0, 7.0], [8.0, 8.5, 9.5]])
    """
    first, last = max(c.steps[0] for c in found), min(c.steps[-1] for c in found)
    steps = np.unique(np.concatenate([curve.steps for curve in found]))
    steps = steps[(steps >= first) & (steps <= last)]
    return steps, np.stack([np.interp(steps, curve.steps, curve.values) for curve in found])


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
    groups, charts, inks_of = groups_of(runs), [], inks(runs)
    for name, (title, unit, lines) in OVER_TIME.items():
        made, told = None, []
        keys: dict[str, Key] = {}
        for group in groups:
            for number, (scalar, label) in enumerate(lines.items()):
                found = [curve for run in _drawn(group)[0] if (curve := _of_records(run, scalar))]
                if not found:
                    continue
                steps, values = together(found)
                known = values.mean(axis=0)
                known = known[np.isfinite(known)]
                if len(known) < 2:
                    continue
                made = made or plain(x="step", y=unit, y_range=DataRange1d(start=0))
                own = inks_of[group.runs[0]][0]
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
    made, keys, told, inks_of = None, [], [], inks(runs)
    for i, run in enumerate(runs):
        found = None if run.images is None else gaps_of(run.images)
        if found is None or len(found[0].steps) < 2:
            continue
        made = made or plain(x="step", y="distance", y_range=DataRange1d(start=0))
        labels = "mean image to mean text: the gap", "an image to its own text, on average"
        for number, (label, curve) in enumerate(zip(labels, found, strict=True)):
            colour = COLOURS[number] if len(runs) == 1 else inks_of[i][0]
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
