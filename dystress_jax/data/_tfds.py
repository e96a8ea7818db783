"""tensorflow-datasets, read through its random-access data source, without TensorFlow."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from ..errors import ArgumentError
from ._captions import Captions
from ._holdout import split_holdout
from ._images import (
    check_image_size,
    fit_array,
    on_canvas,
    read_image,
    read_whole_image,
    whole_shape,
)
from ._source import UNLABELLED, Source
from ._stamps import stamp_of_files
from ._stored import from_reader
from ._unreadable import check_on_error, leave_out_unreadable

LEAST_BYTES = 2**16  # of an array_record file
LOOKED_AT = 1_000  # examples at most, whether a split has labels

if TYPE_CHECKING:  # imported when a data set is opened: it takes long, and most runs have no use
    import tensorflow_datasets


def open_tfds(
    *,
    name: str = "",
    path: str = "",
    captions: str = "",
    image_size: int = 0,
    whole: bool = True,
    holdout: float = 0.1,
    on_error: str = "raise",
) -> dict[str, Source]:
    """A data set that tensorflow-datasets has prepared in the array_record format.

    It has a feature `image`, uint8 with 1 or 3 channels, and may have a ClassLabel `label`. Image
    files are decoded as those of `open_folder` are, to as many channels as the feature has. The
    training images are its split `train`. The test images are its split `test` or, if there is
    none or it has no labels (as in ImageNet), `validation`.

    Args:
        name: of the data set; "" = `path` is the folder with its dataset_info.json.
        path: the data directory; "" = the default directory of tensorflow-datasets.
        captions: a feature that is a text, a sequence of texts, or a sequence of dictionaries with
            a `text`, as in coco_captions. All texts are read here, without decoding the images. A
            test split whose images have no captions is passed over. "" = no captions.
        image_size: side of the square that every image is brought to, in pixels: the shorter side
            is resized, then the centre kept. 0 = as stored, which must be one size.
        whole: whether training draws its crops from whole pictures, whose shorter side is reduced
            to `image_size`, and not from their central squares. Pictures longer than 3 : 2 are
            reduced further. Without an `image_size` images are whole anyway.
        holdout: share of the training images that is kept out, [0, 1).
        on_error: "raise" for an image that cannot be read, when it is read. "skip" leaves it out
            and lists it in `Source.skipped`; for that every image is decoded once here.

    Returns:
        The splits, as `open_splits` has them.

    Raises:
        ArgumentError: there is no such data set, or its features cannot be used.
    """
    import tensorflow_datasets as tfds

    check_image_size(image_size)
    check_on_error(on_error)
    builder = _prepared(name, path)
    image_shape = _image_shape(builder, image_size)
    label = _features(builder).get("label")
    class_names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    texts = functools.cache(lambda split: _captions(builder, split, captions) if captions else None)

    def as_source(split: str) -> Source:
        stored = _data_source(builder, split)
        place = f"of {split} of {builder.info.full_name}"
        of_files = _holds_files(builder)

        def example(row: int) -> tuple[Any, int]:
            found = _example(stored, row, place)
            return found["image"], found["label"] if class_names else UNLABELLED

        def decoded(read: Callable[..., Any], image: bytes, row: int) -> Any:
            try:
                return read(image, image_size, gray=image_shape[-1] == 1)
            except ValueError as error:
                raise ValueError(f"example {row} {place}: {error}") from error

        def read_whole(row):
            image, known = example(row)
            if of_files:
                picture, extent = decoded(read_whole_image, image, row)
            else:
                picture, extent = on_canvas(image, image_size)
            return picture, known, extent

        def read_one(row):
            image, known = example(row)
            if not of_files:
                return fit_array(image, image_size), known
            image = decoded(read_image, image, row)
            if image.shape != image_shape:
                found, said = (" x ".join(map(str, s[:2])) for s in (image.shape, image_shape))
                raise ValueError(
                    f"example {row} {place} is {found}, where the data set says {said}"
                )
            return image, known

        source = from_reader(
            read_one,
            read_picture=read_whole if whole and image_size else None,
            picture_shape=whole_shape(image_shape),
            length=len(stored),
            image_shape=image_shape,
            class_names=class_names,
            captions=texts(split),
        )
        stamp = lambda: stamp_of_files(_record_files(builder, split))
        source = dataclasses.replace(source, stamp=stamp, of_files=of_files)
        if split == "train" and label is not None and not class_names:
            note = f"the feature label is a {label}, no ClassLabel: the images have no labels"
            source = dataclasses.replace(source, notes=(note,))
        return leave_out_unreadable(source) if on_error == "skip" else source

    def fits(split: str) -> bool:
        """Whether it can be tested on: not all test images have labels and captions."""
        found, stored = texts(split), _data_source(builder, split)
        some = range(0, len(stored), -(-len(stored) // LOOKED_AT))
        label_of = lambda row: _looked_at(stored, row, builder, split)["label"]
        labelled = not class_names or any(label_of(row) != UNLABELLED for row in some)
        return labelled and (found is None or bool(found.texts))

    splits = [split for split in ("train", "test", "validation") if split in builder.info.splits]
    if "train" not in splits:
        raise ArgumentError(
            "name",
            f"{builder.info.full_name} has no split train; it has "
            f"{', '.join(builder.info.splits)}.",
        )
    train = as_source("train")
    if train.captions is not None and not train.captions.texts:
        raise ArgumentError(
            "captions", f"the feature {captions!r} of {builder.info.full_name} is empty."
        )
    sources = split_holdout(train, holdout)
    tests = [split for split in splits[1:] if fits(split)]
    return sources | {"test": as_source(tests[0])} if tests else sources


def _captions(
    builder: "tensorflow_datasets.core.DatasetBuilder", split: str, name: str
) -> Captions:
    """The texts of every example of a split; of all or of none."""
    data_set, features = builder.info.full_name, _features(builder)
    if name not in features:
        has = ", ".join(sorted(features))
        raise ArgumentError("captions", f"{data_set} has no feature {name!r}; it has {has}.")
    examples = _data_source(builder, split)
    found = [
        _texts(_looked_at(examples, row, builder, split)[name]) for row in range(len(examples))
    ]
    for row, texts in enumerate(found):
        if texts is None:
            raise ArgumentError(
                "captions",
                f"the feature {name!r} of {data_set} is {features[name]}; allowed: a text, a "
                "sequence of texts, or a sequence of dictionaries with a text.",
            )
        if not texts and any(found):
            raise ArgumentError(
                "captions",
                f"the feature {name!r} of {data_set} has no text for example {row} of {split}; "
                "allowed: at least one text an example that is not empty.",
            )
    return Captions.of(texts or () for texts in found)


def _looked_at(
    stored: Any, row: int, builder: "tensorflow_datasets.core.DatasetBuilder", split: str
) -> dict[str, Any]:
    """An example that is read while the data set is opened."""
    try:
        return _example(stored, row, f"of {split} of {builder.info.full_name}")
    except ValueError as error:
        raise ArgumentError("path", f"{error}; copy the data set anew.") from error


def _example(stored: Any, row: int, place: str) -> dict[str, Any]:
    try:
        return stored[row]
    except RuntimeError as error:  # of the reader of damaged record files
        raise ValueError(f"cannot read example {row} {place}: {error}") from error


def _texts(value: Any) -> list[str] | None:
    """The texts of an example that are not empty; None = it is of another kind."""
    if isinstance(value, dict):
        value = value.get("text")
    values = list(value) if isinstance(value, list | np.ndarray) else [value]
    if not all(isinstance(text, bytes | str) for text in values):
        return None
    decoded = [text.decode("utf-8") if isinstance(text, bytes) else text for text in values]
    return [text.strip() for text in decoded if text.strip()]


def _features(builder: "tensorflow_datasets.core.DatasetBuilder") -> dict[str, Any]:
    """The features of an example by name."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    return dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}


def _image_shape(
    builder: "tensorflow_datasets.core.DatasetBuilder", image_size: int
) -> tuple[int, int, int]:
    """The shape of every image once it is brought to `image_size`."""
    import tensorflow_datasets as tfds

    data_set, features = builder.info.full_name, _features(builder)
    if "image" not in features:
        has = ", ".join(features) or "none"
        raise ArgumentError("name", f"{data_set} has no feature 'image'; it has {has}.")
    image = features["image"]
    arrays: Any = tfds.features.Tensor | tfds.features.Image
    is_array = isinstance(image, arrays)
    if not is_array:
        raise ArgumentError(
            "name",
            f"the feature 'image' of {data_set} is a {type(image).__name__}; allowed: images, "
            "uint8 [height, width, channels] with 1 or 3 channels.",
        )
    if len(image.shape) != 3 or image.np_dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise ArgumentError(
            "name",
            f"the images of {data_set} are {np.dtype(image.np_dtype)} {list(image.shape)}; "
            "allowed: uint8 [height, width, channels] with 1 or 3 channels.",
        )
    height, width, channels = image.shape
    if image_size:
        return image_size, image_size, channels
    if height is None or width is None:
        raise ArgumentError(
            "image_size",
            f"found 0, which keeps the sizes of the images, but those of {data_set} differ; "
            "allowed: a side in pixels, to which all images are brought, such as 224.",
        )
    return height, width, channels


def _prepared(name: str, path: str) -> "tensorflow_datasets.core.DatasetBuilder":
    """The builder of a data set that is on disk."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming

    if not name and not path:
        raise ArgumentError(
            "name",
            "found '' without `path`; allowed: a name of tensorflow-datasets, such as 'cifar10', "
            "or in `path` the folder of a prepared data set.",
        )
    try:
        if name:
            naming.parse_builder_name_kwargs(name)
    except ValueError as error:  # a name with more than letters, digits and what divides them
        raise ArgumentError(
            "name",
            f"found {name!r}; allowed: NAME, NAME/CONFIG or NAME:VERSION of tensorflow-datasets; "
            "`limit` takes a part of the training images.",
        ) from error
    try:
        if not name:
            return tfds.builder_from_directory(path)
        builder = tfds.builder(name, data_dir=path or None)
    except tfds.core.DatasetNotFoundError as error:
        raise ArgumentError(
            "name",
            f"tensorflow-datasets knows no {name!r}, and none is prepared in "
            f"{path or 'its default directory'}.",
        ) from error
    except OSError as error:
        raise ArgumentError("path", f"no prepared data set in {path}: {error}.") from error
    except Exception as error:  # no such config or version; readers of damaged files raise anything
        why = " ".join(str(error).split())
        raise ArgumentError(
            "name" if name else "path",
            f"found {name or path!r}, which tensorflow-datasets cannot open: {why}",
        ) from error
    with _without_warnings():
        is_prepared = builder.is_prepared()
    if not is_prepared:
        raise ArgumentError(
            "name",
            f"{name!r} is not prepared in {builder.data_path}. Once, with TensorFlow installed: "
            f"{_prepare_command(name, path)}. Without it: write the arrays into an .npz, and take "
            "`source` npz.",
        )
    return builder


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave to our own errors what is said of a folder that is not there."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _holds_files(builder: "tensorflow_datasets.core.DatasetBuilder") -> bool:
    """Whether the images are stored as image files, not as plain arrays."""
    import tensorflow_datasets as tfds

    return isinstance(_features(builder).get("image"), tfds.features.Image)


def _record_files(
    builder: "tensorflow_datasets.core.DatasetBuilder", split: str
) -> list[pathlib.Path]:
    """The files with the examples of a split."""
    return sorted(pathlib.Path(str(builder.data_path)).glob(f"*-{split}.array_record*"))


def _data_source(builder: "tensorflow_datasets.core.DatasetBuilder", split: str) -> Any:
    """Random access to the examples of a split; image files are not decoded."""
    import tensorflow_datasets as tfds

    skip = {"image": tfds.decode.SkipDecoding()} if _holds_files(builder) else None
    try:
        source = builder.as_data_source(
            split=split,  # pyright: ignore[reportCallIssue] (decorated)
            decoders=skip,
        )
    except NotImplementedError as error:  # another file format
        raise ArgumentError(
            "name",
            f"{builder.data_path} is in a format without random access; prepare it in another data "
            f"directory: {_prepare_command(builder.info.name, 'OTHER_DIRECTORY')}",
        ) from error
    of_records = builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    least = LEAST_BYTES if of_records else 1
    for file in builder.info.splits[split].filepaths:  # they are opened when an example is read
        found = file.stat().length if file.exists() else 0
        if found < least:
            raise ArgumentError(
                "path",
                f"the file {file} of the data set is {'cut off' if found else 'missing or empty'}; "
                "copy the data set anew.",
            )
    return source


def _prepare_command(name: str, path: str) -> str:
    """The command line that downloads a data set and writes it as array_record."""
    where = f" --data_dir={path}" if path else ""
    return f"tfds build {name} --file_format=array_record{where}"
