"""What stands out in a run, in plain sentences; each comes from a rule that is said beside it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..microscope import KINDS, Watched
from ._next import longer, measured, other_temperatures, without_gradient
from ._run import CurveOverSteps, Run

FEWEST = 5  # negatives, of which a share says something


class Sentence(NamedTuple):
    """A sentence with its numbers, and the rule that it comes from.

    Attributes:
        text: the sentence.
        rule: when it is said.
        next: a command that finds out more; "": there is none.
    """

    text: str
    rule: str
    next: str = ""


def stand_out(run: Run) -> list[Sentence]:
    """All that a run gives reason to say, in the order of the report.

    Args:
        run: of `gather` or `of_embeddings`.

    Returns:
        The sentences; there may be none.

    Example:
        >>> from dystress_jax import report
        >>> [run] = report.gather(["runs/quickstart"])
        >>> all(sentence.text for sentence in report.stand_out(run))
        True
    """
    return [found for rule in RULES if (found := rule(run)) is not None]


def against_baselines(run: Run) -> Sentence | None:
    """Whether the encoder is better than the best of what it must beat."""
    others = {name: value for name, value in run.baselines.items() if name != "trained"}
    if "trained" not in run.baselines or not others:
        return None
    best = max(others, key=lambda name: others[name])
    trained, other = run.baselines["trained"], others[best]
    points = 100 * (trained - other)
    if points >= 5:
        verdict = f"training has helped: {points:.1f} points more than the best baseline"
    elif points > -5:
        verdict = f"that is no clear gain over the best baseline ({points:+.1f} points)"
    else:
        verdict = f"the best baseline is better by {-points:.1f} points"
    return Sentence(
        f"Nearest neighbours recognise {percent(trained)} of the images by the trained encoder, "
        f"and {percent(other)} by the baseline “{best}”: {verdict}.",
        "the trained encoder against the best baseline; a clear gain is 5 points or more",
        "" if points >= 5 else measured(run, "linear_probe"),
    )


def still_learning(run: Run) -> Sentence | None:
    """Whether the loss was still falling at the end."""
    loss = run.curves.get("loss")
    if not run.ended or loss is None or len(loss.values) < 12:
        return None
    quarter = len(loss.values) // 4
    before, after = loss.values[-2 * quarter : -quarter], loss.values[-quarter:]
    fall, spread = before.mean() - after.mean(), after.std(ddof=1)
    if fall <= 2 * spread / np.sqrt(quarter):
        return None
    return Sentence(
        f"The loss was still falling at the end, from {before.mean():.3f} to {after.mean():.3f} "
        "over the last half: a longer run may learn more.",
        "the mean over the last quarter of the logged steps is below that of the quarter before "
        "by more than two standard errors",
        longer(run),
    )


def hardest(run: Run) -> Sentence | None:
    """How few negatives carry the gradient."""
    count, of = last_of(run, "hardest_for_80_percent"), negatives_of(run)
    if count is None or of < FEWEST:
        return None
    share, follows = count / of, ""
    if share < 0.05:
        follows = other_temperatures(run, higher=True)
        verdict = "the temperature is low for this batch: the others hardly count"
    elif share > 0.6:
        follows = other_temperatures(run, higher=False)
        verdict = "the temperature is high for this batch: easy and hard negatives count alike"
    else:
        verdict = "neither a few of them nor most of them"
    return Sentence(
        f"{count:.0f} of {of:.0f} negatives carry 80 % of the gradient of an anchor "
        f"({percent(share)}): {verdict}.",
        "the most similar negatives that hold 80 % of the weights, mean over the anchors of the "
        f"last record; low below 5 %, high above 60 %; said from {FEWEST} negatives on",
        follows,
    )


def falling_logit(run: Run) -> Sentence | None:
    """Whether negatives lie where a more similar one has the lower logit."""
    if run.records is None or "curve_logit" not in run.records.arrays:
        return None
    logit = run.records["curve_logit"][-1]
    counts = of_kind(run, "similarity", "negative")
    if counts is None or counts.sum() <= 0 or not np.isfinite(logit).all():
        return None
    share = float(counts[falls(logit)].sum() / counts.sum())
    if share < 0.01:
        return None
    return Sentence(
        f"{percent(share)} of the negatives lie where the logit falls as they become more "
        "similar: tau grows faster there than s, so that the harder of two negatives has the "
        "smaller logit. If the gradient goes through tau, they are pulled closer.",
        "the share of negatives of the last record in bins over which s / tau(s) decreases; "
        "said from 1 %",
        without_gradient(run),
    )


def false_negatives(run: Run) -> Sentence | None:
    """What images of the anchor's own class have of the gradient."""
    same = [of_kind(run, name, "false_negative") for name in ("similarity", "gradient")]
    all_of = [of_kind(run, name, "negative") for name in ("similarity", "gradient")]
    found = [x for x in (*same, *all_of) if x is not None and np.isfinite(x).all()]
    if len(found) < 4 or not all(x.sum() > 0 for x in found):
        return None
    of_pairs, of_gradient = (a.sum() / b.sum() for a, b in zip(found[:2], found[2:], strict=True))
    factor = of_gradient / of_pairs
    return Sentence(
        f"{percent(of_pairs)} of the negatives are of the anchor's own class (false negatives), "
        f"and they have {percent(of_gradient)} of the gradient, {factor:.1f} times their share: "
        + (
            "what is alike is pushed apart most."
            if factor > 1.2
            else "they are pushed less than the others."
            if factor < 0.8
            else "they are pushed about as much as the others."
        ),
        "the share of the weights over the share of the pairs, last record; most above 1.2, less "
        "below 0.8",
        other_temperatures(run, higher=True) if factor > 1.2 else "",
    )


def few_classes(run: Run) -> Sentence | None:
    """Whether there are classes to tell apart."""
    if run.images is None:
        return None
    known = np.unique(run.images.labels[run.images.labels >= 0])
    if len(known) > 1:
        return None
    if len(known):
        name = dict(enumerate(run.images.class_names)).get(int(known[0]), f"class {known[0]}")
        said = f"All images with a label that are watched are of one class, “{name}”"
        said += ": there is nothing to tell apart among them"
    else:
        said = "No image that is watched has a label: what is said of classes is left out"
    return Sentence(f"{said}.", "the labels of the images that are watched; fewer than two classes")


def collapsed(run: Run) -> Sentence | None:
    """Whether all images have nearly the same features."""
    if run.images is None or len(run.images.ids) < 2:
        return None
    step, records = int(run.images.steps[-1]), run.records
    if step == 1 and records is not None and records.steps[-1] > 1:
        return None  # what an encoder makes of images that has learned from one batch
    x = np.asarray(run.images.features[-1], np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    n = len(x)
    mean = float((np.linalg.norm(x.sum(axis=0)) ** 2 - n) / (n * (n - 1)))
    if mean < 0.9:
        return None
    return Sentence(
        f"At step {step} the features of two images have a cosine of {mean:.2f} on average: all "
        "point nearly the same way. Either they have collapsed, or a large mean hides what "
        "differs.",
        "the mean cosine of two different images that are watched; said from 0.9",
        measured(run, "representation"),
    )


def modality_gap(run: Run) -> Sentence | None:
    """How far images and texts lie from each other as a whole."""
    found = None if run.images is None else gaps_of(run.images)
    if found is None:
        return None
    gap, pairs = (float(curve.values[-1]) for curve in found)
    return Sentence(
        f"The modality gap is {gap:.2f}: so far apart are the mean image and the mean text, where "
        f"an image and its own text are {pairs:.2f} apart on average.",
        "Euclidean distances of the images that are watched and their texts, at length 1",
    )


def gaps_of(images: Watched) -> tuple[CurveOverSteps, CurveOverSteps] | None:
    """The distance of the mean image and the mean text, and of an image and its text on average.

    None where there are no texts.
    """
    if images.partner != "text" or images.partners is None:
        return None
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    a, b = (unit(np.asarray(x, np.float64)) for x in (images.embeddings, images.partners))
    between_means = np.linalg.norm(a.mean(axis=1) - b.mean(axis=1), axis=-1)
    of_pairs = np.linalg.norm(a - b, axis=-1).mean(axis=1)
    return CurveOverSteps(images.steps, between_means), CurveOverSteps(images.steps, of_pairs)


def weakest_class(run: Run) -> Sentence | None:
    """Which class is recognised least."""
    for name, found in run.evaluations.items():
        known = {n: x for n, x in found.per_class.items() if x is not None}
        if len(set(known.values())) < 2:
            continue
        low, high = min(known, key=lambda n: known[n]), max(known, key=lambda n: known[n])
        of = found.about.get("per_class_of")
        by = f"{name} ({of})" if of else name
        return Sentence(
            f"By {by}, the class recognised least is “{low}” ({percent(known[low])}), the one "
            f"recognised most “{high}” ({percent(known[high])}).",
            "the lowest and the highest accuracy of a class, first evaluation that has them",
        )
    return None


def not_finite(run: Run) -> Sentence | None:
    """Whether records hold numbers that are none."""
    if run.records is None or "uniformity" not in run.records.arrays:
        return None
    lost = ~np.isfinite(np.asarray(run.records["uniformity"], np.float64))
    if not lost.any():
        return None
    return Sentence(
        f"{lost.sum()} of {len(lost)} records are not finite: embeddings were NaN or infinite "
        "there, and the charts have gaps.",
        "the uniformity of a record is NaN or infinite",
    )


RULES: tuple[Callable[[Run], Sentence | None], ...] = (
    against_baselines,
    still_learning,
    hardest,
    falling_logit,
    false_negatives,
    few_classes,
    not_finite,
    collapsed,
    modality_gap,
    weakest_class,
)


def falls(logit: Float[np.ndarray, " edges"]) -> np.ndarray:
    """Which bins between edges have a logit that does not increase.

    Example:
        >>> falls(np.array([0.0, 1.0, 0.5, 2.0])).tolist()
        [False, True, False]
    """
    return np.diff(logit) <= 0


def of_kind(run: Run, name: str, kind: str) -> Float[np.ndarray, " bins"] | None:
    if run.records is None or name not in run.records.arrays:
        return None
    return np.asarray(run.records[name][-1, KINDS.index(kind)], np.float64)


def last_of(run: Run, name: str) -> float | None:
    if run.records is None or name not in run.records.arrays:
        return None
    value = float(run.records[name][-1])
    return value if np.isfinite(value) else None


def negatives_of(run: Run) -> float:
    """Negatives of an anchor."""
    pairs, anchors = (of_kind(run, "similarity", kind) for kind in ("negative", "positive"))
    if pairs is None or anchors is None:
        return 0.0
    if anchors.sum() > 0:
        return float(pairs.sum() / anchors.sum())
    return float(len(run.images.ids) - 1) if run.images is not None else 0.0


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
