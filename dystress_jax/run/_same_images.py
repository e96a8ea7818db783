"""Whether the images are those that a run began with, and what it remembers where they are gone."""

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from .. import data
from ..data.tokenizer import Tokenizer
from ..files import parse_json, write_json
from ..run_files import IMAGES_FILE, UNREADABLE_FILE
from ..training import checkpoint
from .config import ConfigError
from .data import Sources

PARTS = {"train": "training", "test": "test", "holdout": "held-out"}
IMAGES_COMPARED = 64  # spread over the data: all of them may take long to read


def describe(sources: Sources, tokenizer: Tokenizer | None = None) -> str:
    """A fingerprint of the data, to detect changes when a run goes on; see `_parts_of`."""
    train = _describe(sources["train"])
    if tokenizer is not None:
        train += f", vocabulary {tokenizer.fingerprint}"
    others = (name for name in PARTS if name in sources and name != "train")
    return train + "".join(f"; {name}: {_describe(sources[name])}" for name in others)


def _parts_of(description: str) -> dict[str, str]:
    """What is said of the images of each split.

    Example:
        >>> _parts_of("4 of [8, 8, 3]; test: 2 of [8, 8, 3]")
        {'train': '4 of [8, 8, 3]', 'test': '2 of [8, 8, 3]'}
    """
    train, *others = re.split(r"; (test|holdout): ", description)
    return {"train": train, **dict(zip(others[::2], others[1::2], strict=True))}


def _describe(source: data.Source) -> str:
    """What is cheap to look at in full, and the pixels of some images."""
    some = data.subset(source, IMAGES_COMPARED)
    images = some.gather(np.arange(len(some)))
    content = hashlib.sha256(json.dumps(source.class_names).encode())
    labels = images["label"]
    if source.stored_labels is not None:
        labels = source.stored_labels[source.index]
    for array in (source.index, images["image"], labels):
        content.update(np.ascontiguousarray(array).tobytes())
    said = f"{len(source)} of {list(source.image_shape)} in {source.num_classes} classes, "
    if source.stamp is not None:
        said += f"{source.stamp()}, "
    said += f"content {content.hexdigest()[:12]}"
    if source.captions is not None:
        captions = hashlib.sha256()
        for stored in source.index:  # JSON says where the captions of each image end
            captions.update(json.dumps(source.captions[int(stored)]).encode())
        said += f", captions {captions.hexdigest()[:12]}"
    return said


def remember(train: data.Source, workdir: pathlib.Path, described: Mapping[str, str]) -> None:
    """Write what the parts of a run need to know of its training images, without them.

    Args:
        train: the training images.
        workdir: of the run.
        described: fingerprints of all its images, by which they are known at another path.

    Raises:
        FileError: it cannot be written.
    """
    height, width, channels = train.image_shape
    known = {
        "height": height,
        "width": width,
        "channels": channels,
        "images": len(train),
        "stored": train.num_stored,
        "class_names": list(train.class_names),
        "described": dict(described),
    }
    write_json(workdir / IMAGES_FILE, known)


def remembered(workdir: pathlib.Path) -> data.Source:
    """What stands for the training images of a run where nobody looks at them.

    Raises:
        ConfigError: the run has not written what they were like.
    """
    path = workdir / IMAGES_FILE
    try:
        known = parse_json(path.read_bytes())
        height, width, channels = (int(known[side]) for side in ("height", "width", "channels"))
        stored, names = int(known["stored"]), tuple(map(str, known["class_names"]))
        images = int(known["images"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: found nothing that says what the training images were like ({error}); "
            "allowed: the file that the run has written. The command that began the run writes it "
            "again, if the images are still there."
        ) from error

    return as_remembered(
        (height, width, channels), images=images, num_stored=stored, class_names=names
    )


def as_remembered(
    image_shape: tuple[int, int, int],
    *,
    images: int,
    num_stored: int | None = None,
    class_names: tuple[str, ...] = (),
) -> data.Source:
    """Images that are known, but not there."""

    def nothing(rows):
        raise RuntimeError("the images of a run that was loaded without them are looked at")

    return data.Source(
        read=nothing,
        index=np.arange(images, dtype=np.int32),
        num_stored=images if num_stored is None else num_stored,
        image_shape=image_shape,
        class_names=class_names,
    )


def check_same(now: str, checkpoints: pathlib.Path) -> str:
    """Refuse training data that are not those of the run, as its checkpoints remember them.

    Files of other sizes are the same data if the run has stopped at an image that cannot be read,
    and all else that is compared is as it was: the image was mended.

    Returns:
        What is to be told: that the test or held-out images, or the sizes of the files, are others;
        "" = nothing.

    Raises:
        ConfigError: with both descriptions.
    """
    changed = changed_images(now, checkpoints)
    train, told = changed.pop("training", ""), []
    if train:
        if not _is_mended(now, checkpoints):
            raise ConfigError(
                f"config.data: the run has trained on other images: {train}. Compared are labels, "
                f"captions, the pixels of {IMAGES_COMPARED} images, and of all images the pixels "
                "or the sizes of the files where these are at hand. Give it the same images, "
                "captions and vocabulary, or a new --workdir."
            )
        told.append(
            "files of training images have other sizes since an image could not be read; nothing "
            "else that is compared has changed, so the run goes on"
        )
    told += [
        f"warning: the {of} images, or their labels, are others than before: {change}; results of "
        "both cannot be compared"
        for of, change in changed.items()
    ]
    return "\n".join(told)


def _is_mended(now: str, checkpoints: pathlib.Path) -> bool:
    """Whether the run has stopped at a faulty image, and only sizes of files are others now."""
    then = checkpoint.newest_record(checkpoints).get("data", now)
    try:
        stopped = parse_json((checkpoints.parent / UNREADABLE_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    # The next checkpoint remembers the mended files, and from then on every size counts again.
    here = isinstance(stopped, dict) and stopped.get("data") == then
    train_then, train_now = (_parts_of(description)["train"] for description in (then, now))
    return here and without_file_sizes(train_then) == without_file_sizes(train_now)


def without_file_sizes(description: str) -> str:
    """A description of images that stays the same when a file is replaced by one of another size.

    Example:
        >>> without_file_sizes("4 of [8, 8, 3] in 2 classes, file sizes 0123456789ab, content 12")
        '4 of [8, 8, 3] in 2 classes, content 12'
    """
    return re.sub(r"file sizes [0-9a-f]{12}, ", "", description)  # as `data` calls them


def changed_images(now: str, checkpoints: pathlib.Path) -> dict[str, str]:
    """How the images of a run differ from those that it had, by what they are for.

    What it did not have, or an earlier version did not remember, is no change.
    """
    had = _parts_of(checkpoint.newest_record(checkpoints).get("data", now))
    have = _parts_of(now)
    return {
        PARTS[name]: f"{then} then, {have.get(name, 'none')} now"
        for name, then in had.items()
        if have.get(name) != then
    }
