"""The images of a run: opened as the settings say, and compared with what it began with."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import data, evaluation
from ..data.tokenizer import Tokenizer
from ..training import checkpoint
from .config import Config, ConfigError, arguments
from .fields import as_fields
from .methods import ALL_LOSSES
from .tables import is_own, make

Sources = dict[str, data.Source]
IMAGES_COMPARED = 64  # spread over the data: all of them may take long to read


def open_sources(config: Config, opener: data.Opener) -> Sources:
    """The splits that the data has: `train`, and `holdout` and `test` where there are any.

    Args:
        config: the settings.
        opener: of the data that they name.

    Raises:
        ConfigError: there are no such data, or they do not fit the settings.
    """
    d = config.data

    def splits() -> Any:
        return make(config, "data.source", opener)

    splits.__name__ = d.source  # as the answer to what it returns calls it
    with as_fields("data"), _reporting_files_below(d.path):
        sources = data.open_splits(splits, imbalance_ratio=d.imbalance_ratio, limit=d.limit)
        if d.prompts:
            templates = evaluation.templates(d.prompts)
            with as_fields("data", source="data.prompts", templates="data.prompts"):
                sources = {
                    split: data.captions_from_labels(source, templates)
                    if source.has_labels or split == "train"
                    else source
                    for split, source in sources.items()
                }
    loss = ALL_LOSSES.get(config.loss.name)
    if loss and "labels" in arguments(loss) and not sources["train"].has_labels:
        raise ConfigError(
            f"config.loss.name: found {config.loss.name} with images without labels; allowed: "
            "softmax, dcl or rgcl, which need none."
        )
    return sources


@contextlib.contextmanager
def _reporting_files_below(path: str) -> Iterator[None]:
    """An error of the system about the user's files is for the user, any other is a fault of ours.

    Raises:
        ConfigError: which file, and why.
    """
    try:
        yield
    except OSError as error:
        if not path or not str(error.filename).startswith(path):
            raise
        raise ConfigError(
            f"config.data.path: {error.filename} cannot be read ({error.strerror}); allowed: files "
            "and directories that you may read."
        ) from error


@contextlib.contextmanager
def reporting_unreadable_images() -> Iterator[None]:
    """For all that reads images: one that cannot be read is for the user to put right.

    Raises:
        ConfigError: which image, and why it cannot be read.
    """
    try:
        yield
    except data.UnreadableError as error:
        raise ConfigError(
            f"config.data: {error}. What was saved before is whole: replace the file, and the same "
            "command goes on; or start in a new --workdir with config.data.on_error=skip, which "
            "leaves such images out."
        ) from error


def describe(source: data.Source, tokenizer: Tokenizer | None = None) -> str:
    """A fingerprint of the training data, to detect changes when a run goes on."""
    some = data.subset(source, IMAGES_COMPARED)
    images = some.gather(np.arange(len(some)))
    content = hashlib.sha256(json.dumps(source.class_names).encode())
    for array in (source.index, images["image"], images["label"]):
        content.update(np.ascontiguousarray(array).tobytes())
    said = (
        f"{len(source)} of {list(source.image_shape)} in {source.num_classes} classes, "
        f"content {content.hexdigest()[:12]}"
    )
    if source.captions is not None:
        captions = hashlib.sha256()
        for stored in source.index:  # JSON says where the captions of each image end
            captions.update(json.dumps(source.captions[int(stored)]).encode())
        said += f", captions {captions.hexdigest()[:12]}"
    return said if tokenizer is None else f"{said}, vocabulary {tokenizer.fingerprint}"


def check_same(now: str, checkpoints: pathlib.Path) -> None:
    """Refuse training data that are not those of the run, as its checkpoints remember them.

    Raises:
        ConfigError: with both descriptions.
    """
    then = checkpoint.newest_record(checkpoints).get("data", now)
    if now != then:
        raise ConfigError(
            f"config.data: the run has trained on other images: {then} then, {now} now. Give it "
            "the same images, captions and vocabulary, or a new --workdir."
        )


def with_absolute_paths(config: Config) -> Config:
    """The same files from any directory: the run may go on, and be evaluated, from another."""
    d, t, z = config.data, config.text, config.zero_shot

    def absolute(path: str) -> str:
        if not path or "://" in path:  # of one's own source, not of this machine
            return path
        return str(pathlib.Path(path).expanduser().absolute())

    captions = d.captions
    if d.source == "folder" and captions:
        below = [pathlib.Path(d.path, part, captions).is_file() for part in (".", "train")]
        if not any(below) and pathlib.Path(captions).expanduser().is_file():
            captions = absolute(captions)
    path = d.path if is_own(d.source) else absolute(d.path)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(d, path=path, captions=captions),
        text=dataclasses.replace(t, vocabulary=absolute(t.vocabulary)),
        zero_shot=dataclasses.replace(z, class_names=absolute(z.class_names)),
    )
