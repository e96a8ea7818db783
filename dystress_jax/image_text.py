"""What an image-text run is judged by: retrieval and zero-shot classification, from its parts.

The closing table of a run and its evaluations measure the same things here.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from . import data, evaluation
from .config import ConfigError
from .evaluation import Embedded
from .experiment import Experiment
from .state import TrainState


def make_towers(parts: Experiment, state: TrainState) -> evaluation.Towers:
    """The trained towers of a run of clip, ready to embed."""
    language = parts.language
    assert language is not None, "not a run of clip"
    trained = (state.params, state.stats)
    return evaluation.Towers(
        functools.partial(language.embed_images, *trained),
        functools.partial(language.embed_texts, *trained),
        language.tokenizer.encode,
        language.similarity,
    )


def embedder(parts: Experiment, state: TrainState) -> Callable[[str], Embedded]:
    """``split -> its images as the trained towers embed them``, each split embedded once."""
    towers = make_towers(parts, state)

    @functools.cache
    def embed(split: str) -> Embedded:
        return evaluation.embed_images(towers, parts.sources[split], mesh=parts.mesh)

    return embed


def captioned_split(parts: Experiment) -> str | None:
    """The images that retrieval is measured on; None if there are none with captions."""
    return parts.measured_split(lambda source: source.captions is not None)


class ZeroShotTask(NamedTuple):
    """What zero-shot classification is measured on."""

    split: str
    source: data.Source  # of the split, labelled with what is to be told apart
    class_names: tuple[str, ...]


def zero_shot_task(parts: Experiment) -> ZeroShotTask | None:
    """The images and the names of their classes; None if there are none with classes.

    Raises:
        ConfigError: the file of class names does not fit.
    """
    z = parts.config.zero_shot
    by_caption = z.classes == "captions"
    split = (
        captioned_split(parts)
        if by_caption
        else parts.measured_split(lambda source: source.has_labels)
    )
    if split is None:
        return None
    source = parts.sources[split]
    if by_caption:
        source = data.classes_from_captions(source)
    if not z.class_names:
        return ZeroShotTask(split, source, source.class_names)
    try:
        names = data.read_class_names(z.class_names, source.num_classes)
    except ValueError as error:
        raise ConfigError(f"config.zero_shot.class_names: {error}") from error
    return ZeroShotTask(split, source, names)


def zero_shot(
    parts: Experiment, embed: Callable[[str], Embedded]
) -> tuple[str, evaluation.Result] | None:
    """Zero-shot accuracy of the `zero_shot_task`, and the split it is measured on.

    Raises:
        ConfigError: the file of class names does not fit.
    """
    task = zero_shot_task(parts)
    if task is None:
        return None
    result = evaluation.evaluate_zero_shot(
        embed(task.split)._replace(source=task.source),
        templates=evaluation.templates(parts.config.zero_shot.prompts),
        class_names=task.class_names,
    )
    return task.split, result
