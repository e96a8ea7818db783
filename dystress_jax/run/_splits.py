"""What an evaluation is measured on: the split of the images, and the names of their classes."""

from collections.abc import Callable
from typing import NamedTuple

from .. import data
from .config import ConfigError
from .experiment import Experiment
from .fields import as_fields

LABELS_ELSEWHERE = (
    "labelled images of another source, by --on.source and --on.path of dystress eval"
)
WITHOUT_LABELS = f"--evaluation=representation, which needs no labels; or {LABELS_ELSEWHERE}"
ZERO_SHOT_LABELS = "--config.zero_shot.classes=labels, which takes the classes of the images"


class EvaluationError(ConfigError):
    """The run has nothing that this evaluation could measure by."""


def measured_split(
    experiment: Experiment,
    fits: Callable[[data.Source], bool],
    needed: str,
    *,
    instead: str = "",
) -> str:
    """The images to measure on, of those that are not learned from.

    Args:
        experiment: the parts of the run.
        fits: whether images can be measured.
        needed: what they must have, for the error.
        instead: what the error allows beside them.
    """
    split = experiment.measured_split(fits)
    if split is None:
        there = [s for s in ("test", "holdout") if s in experiment.sources]
        found = (
            f"{' and '.join(there)} images without {needed}" if there else "only training images"
        )
        raise EvaluationError(
            f"config.data: found {found}; allowed: test or held-out images with {needed}, which "
            f"this evaluation measures by{instead and f'; or {instead}'}."
        )
    return split


def labelled_split(experiment: Experiment) -> str:
    """The images that are measured by their labels, where those of training have labels too."""
    any_images = experiment.measured_split(lambda source: True) is not None
    instead = WITHOUT_LABELS if any_images else LABELS_ELSEWHERE
    if not experiment.train.has_labels:
        raise EvaluationError(
            "config.data: found training images without labels; allowed: labelled ones, which this "
            f"evaluation learns from; or {instead}."
        )
    return measured_split(experiment, lambda source: source.has_labels, "labels", instead=instead)


def validation(experiment: Experiment, split: str) -> data.Source | None:
    """The held-out images, where they have labels and are not what is measured."""
    holdout = experiment.sources.get("holdout") if split == "test" else None
    return holdout if holdout is not None and holdout.has_labels else None


def captioned_split(experiment: Experiment, *, instead: str = "") -> str:
    """The images that retrieval is measured on.

    Args:
        experiment: the parts of the run.
        instead: what an error allows beside captions, where images have labels.
    """
    has_labels = experiment.measured_split(lambda source: source.has_labels) is not None
    return measured_split(
        experiment,
        lambda source: source.captions is not None,
        "captions",
        instead=instead if has_labels else "",
    )


class ZeroShotTask(NamedTuple):
    """What zero-shot classification is measured on.

    Attributes:
        split: which images.
        source: the split, labelled with what is to be told apart.
        class_names: one for each label.
    """

    split: str
    source: data.Source
    class_names: tuple[str, ...]


def zero_shot_task(experiment: Experiment) -> ZeroShotTask:
    """The images and the names of their classes.

    Raises:
        EvaluationError: there are no images with classes.
        ConfigError: the file of class names does not fit.
    """
    z = experiment.config.zero_shot
    if z.classes == "captions":
        split = captioned_split(experiment, instead=ZERO_SHOT_LABELS)
        source = data.classes_from_captions(experiment.sources[split])
    else:
        split = experiment.measured_split(lambda source: source.has_labels)
        if split is None:
            measured_split(experiment, lambda source: True, "labels or captions")
            raise EvaluationError(
                "config.data: found no labels to classify by; allowed: "
                "config.zero_shot.classes=captions"
            )
        source = experiment.sources[split]
    if not z.class_names:
        return ZeroShotTask(split, source, source.class_names)
    with as_fields("zero_shot", path="zero_shot.class_names"):
        names = data.read_class_names(z.class_names, source.num_classes)
    return ZeroShotTask(split, source, names)
