"""The images of a run: opened as the settings say, and what there is to tell of them."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import data, evaluation
from ..errors import ArgumentError, causes
from ..files import FileError, write_json
from ..run_files import CHECKPOINTS, UNREADABLE_FILE
from ..training import checkpoint
from .config import Config, ConfigError, Data
from .fields import as_fields, fields, put
from .meaning import arguments
from .methods import ALL_LOSSES
from .tables import is_own, make, needed

Sources = dict[str, data.Source]
OWN_IMAGE = 0.05  # share of queries whose own image is a negative: above it, a warning
CLASSES_NAMED = 5  # in the lines that a run begins with
OTHER_IMAGES = "--on.source and --on.path"  # the flags that name them


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
                    split: data.captions_from_labels(
                        source if split == "train" else data.labelled(source), templates
                    )
                    if source.has_labels or split == "train"
                    else source
                    for split, source in sources.items()
                }
    return sources


def check_labels(config: Config, train: data.Source) -> None:
    """Refuse a loss that needs labels on images without.

    Raises:
        ConfigError: naming losses that need none.
    """
    loss = ALL_LOSSES.get(config.loss.name)
    if loss and "labels" in needed(loss) and not train.has_labels:
        raise ConfigError(
            f"config.loss.name: found {config.loss.name} with images without labels; allowed: "
            "softmax, dcl or rgcl, which need none."
        )


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
def reporting_unreadable_images(
    config: Config, workdir: pathlib.Path, *, on: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """An image that cannot be read is the user's to mend.

    Args:
        config: names the images.
        workdir: of the run.
        on: other images in place of those of the config.

    Raises:
        ConfigError: in place of an `UnreadableError`: which image, why, and how to go on.
    """
    try:
        yield
    except data.UnreadableError as error:
        where = "--on" if on else "config.data"
        if (setting := _refused_by_a_setting(error)) is not None:
            raise ConfigError(f"{where}.{setting}") from error
        source = on.get("source", Data().source) if on else config.data.source
        if not on:
            _note_unreadable(workdir, str(error))
        mend = "What was saved before is whole: replace the image, and the same command goes on"
        start = "start with --on" if on else "start in a new --workdir with --config.data"
        if not checkpoint.steps(workdir / CHECKPOINTS):
            mend = "Nothing was saved before: replace the image, and give the same command"
            start = "add to it --config.data"
        skip = f"; or {start}.on_error=skip, which leaves such images out"
        skip = skip if may_skip(source) else ""
        raise ConfigError(f"{where}: {error}. {mend}{skip}.") from error


@contextlib.contextmanager
def reporting_unreadable_images_of(name: str, on: Mapping[str, Any]) -> Iterator[None]:
    """As `reporting_unreadable_images`, of further images that a run is measured on.

    Args:
        name: theirs in `config.eval_on`.
        on: their fields.

    Raises:
        ConfigError: in place of an `UnreadableError`.
    """
    try:
        yield
    except data.UnreadableError as error:
        field = f"config.eval_on.{name}"
        if (setting := _refused_by_a_setting(error)) is not None:
            raise ConfigError(f"{field}.{setting}") from error
        skip = f"; or add --{field}.on_error=skip, which leaves such images out"
        skip = skip if may_skip(on.get("source", Data().source)) else ""
        raise ConfigError(
            f"{field}: {error}. Replace the image, and the same command goes on{skip}."
        ) from error


def _refused_by_a_setting(error: data.UnreadableError) -> ArgumentError | None:
    """What refuses an image that is whole, as one outside of its folder is."""
    return next((cause for cause in causes(error) if isinstance(cause, ArgumentError)), None)


def _note_unreadable(workdir: pathlib.Path, image: str) -> None:
    """Let the run go on once the image is mended, though its file may have another size."""
    record = checkpoint.newest_record(workdir / CHECKPOINTS)
    if "data" in record:
        with contextlib.suppress(FileError):  # the image is what is to be told
            write_json(workdir / UNREADABLE_FILE, {"image": image, "data": record["data"]})


def may_skip(source: str) -> bool:
    """Whether a source of this name can leave out images that cannot be read."""
    opener = data.SOURCES.get(source)
    return opener is not None and "on_error" in arguments(opener)


def lines_about(config: Config, sources: Sources) -> list[str]:
    """What the images are and what follows from it, for the lines that a run begins with."""
    train, counts = sources["train"], []
    names, count = train.class_names[:CLASSES_NAMED], train.num_classes
    for split, source in sources.items():
        known = len(data.labelled(source))
        some = f" ({known:,} labelled)" if known < len(source) and count else ""
        counts.append(f"{len(source):,} {split}{some}")
    more = ", ..." * (count > len(names))
    classes = f"{count:,} classes: {', '.join(names)}{more}" if count else "no classes"
    lines = [f"images: {', '.join(counts)}; {' x '.join(map(str, train.image_shape))}; {classes}"]
    lines += [note for source in sources.values() for note in source.notes]
    if train.stored_labels is not None and count:
        empty = count - len(np.unique(data.labelled(train).labels()))
        if empty:
            lines.append(f"{empty:,} of {count:,} classes have no training image")
    if config.method == "clip" and train.captions is not None and not config.data.prompts:
        texts, owners, _ = data.list_captions(train)
        of_images = {*zip(owners.tolist(), texts, strict=True)}
        distinct = len({*texts})
        if distinct < len(of_images):
            lines.append(
                f"captions: {distinct:,} distinct of {len(of_images):,}. Two images with the same "
                "caption in a batch count as negatives of each other."
            )
    height, width, _ = train.image_shape
    if height != width and not config.augment.size:
        lines.append(
            f"images of {height} x {width} are no squares: views have the shorter side, "
            f"{min(height, width)}, and features are those of the central square "
            "(config.augment.size, config.data.image_size)"
        )
    share = own_image_in_queue(config.moco.queue_size, len(train))
    if config.method == "moco_v2" and share > OWN_IMAGE:
        lines.append(
            f"warning: config.moco.queue_size {config.moco.queue_size:,} is not small beside "
            f"{len(train):,} training images: for {share:.0%} of the queries it holds an embedding "
            "of the same image, which counts as a negative. A fifth of the images or fewer makes "
            "that rare."
        )
    return lines


def own_image_in_queue(queue: int, images: int) -> float:
    r"""How often a queue of the last images holds the image that is looked up.

    $$P(d \le Q) = 1 - \tfrac12 (2 - Q / n)^2 \text{ from } Q = n \text{ on},
      \qquad \tfrac12 (Q / n)^2 \text{ below},$$

    where d, how long ago an image came last, is the sum of two even distributions over an epoch.

    Example:
        >>> own_image_in_queue(4096, 5000), own_image_in_queue(5000, 5000)
        (0.336, 0.5)
    """
    ratio = min(queue / images, 2.0)
    return ratio**2 / 2 if ratio < 1 else 1 - (2 - ratio) ** 2 / 2


def open_own(config: Config, opener: data.Opener, checkpoints: pathlib.Path) -> Sources:
    """The images of a run that was trained before.

    Args:
        config: of the run; an import that names its images has some.
        opener: of the data that it names.
        checkpoints: of the run, which say what it was trained on.

    Raises:
        ConfigError: they are gone, or the run was imported without images; with what to give.
    """
    record = checkpoint.newest_record(checkpoints)
    if record and "data" not in record and config.data.source == Data().source:
        raise ConfigError(
            f"{OTHER_IMAGES}: found none, and the run in {checkpoints.parent} is imported weights, "
            f"which have no images of their own; allowed: {OTHER_IMAGES} of the images that are "
            "meant."
        )
    try:
        return open_sources(config, opener)
    except ConfigError as error:
        raise ConfigError(f"{error} To use other images than the run's: {OTHER_IMAGES}.") from error


def with_absolute_paths(config: Config) -> Config:
    """The same files from any directory: the run may go on, and be evaluated, from another."""
    for field in fields():
        value = field.value(config)
        of_images = field.name.startswith("data.")  # whose source says what is a path
        if field.meaning.of_a_machine and isinstance(value, str) and not of_images:
            config = put(config, field.name, _absolute(value))
    return dataclasses.replace(
        config,
        eval_on={name: images_from_anywhere(on) for name, on in config.eval_on.items()},
        data=Data(**images_from_anywhere(vars(config.data))),
    )


def images_from_anywhere(images: Mapping[str, Any]) -> dict[str, Any]:
    """The same images from any directory.

    Args:
        images: fields of `config.data` by their names, as many as are set.

    Returns:
        The fields, those that name files with absolute paths.

    Example:
        >>> found = images_from_anywhere({"source": "folder", "path": "photos"})
        >>> pathlib.Path(found["path"]).is_absolute()
        True
    """
    found = dict(images)
    source, path, captions = (found.get(n, "") for n in ("source", "path", "captions"))
    elsewhere = source == "folder" and captions and not data.lies_below(path, captions)
    if elsewhere and pathlib.Path(captions).expanduser().is_file():
        found["captions"] = _absolute(captions)
    if path and not is_own(source):
        found["path"] = _absolute(path)
    return found


def _absolute(path: str) -> str:
    if not path or "://" in path:  # of one's own source, not of this machine
        return path
    return str(pathlib.Path(path).expanduser().absolute())
