"""tensorflow-datasets, read through its random-access data source, without TensorFlow."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ._captions import Captions
from ._holdout import split_holdout
from ._images import fit_array
from ._source import UNLABELLED, Source
from ._stored import from_reader


def open_tfds(
    *, name: str, path: str, image_size: int, holdout: float, captions: str
) -> dict[str, Source]:
    """Sources of a prepared data set in the array_record format.

    The data set has a feature ``image``, uint8 with 1 or 3 channels, and may have a ClassLabel
    ``label``. The training images are its split ``train``; the test images its split ``test`` or,
    where there is none or it has no labels (as in ImageNet), ``validation``.

    ``captions`` names a feature of text, "" = none: one text, a sequence of texts, or a sequence
    of dictionaries with a ``text``, as in coco_captions. All texts are read here, without decoding
    the images. A test split whose images have no captions is passed over like one without labels.

    ``path`` is the data directory, "" = tensorflow-datasets' own default; with ``name`` empty, it
    is the folder with the data set's dataset_info.json.
    """
    builder = _prepared(name, path)
    image_shape = _image_shape(builder, image_size)
    label = _features(builder).get("label")
    class_names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()

    def as_source(split: str) -> Source:
        stored = _data_source(builder, split)
        texts = _captions(builder, split, captions) if captions else None

        def read_one(row):
            example = stored[row]
            known = example["label"] if class_names else UNLABELLED
            return fit_array(example["image"], image_size), known

        return from_reader(
            read_one,
            length=len(stored),
            image_shape=image_shape,
            class_names=class_names,
            captions=texts,
        )

    splits = [split for split in ("train", "test", "validation") if split in builder.info.splits]
    if "train" not in splits:
        raise ValueError(
            f"data.name: {builder.info.full_name} has no split 'train'; it has "
            f"{', '.join(builder.info.splits)}"
        )
    train = as_source("train")
    if train.captions is not None and not train.captions.texts:
        raise ValueError(
            f"data.captions: the feature {captions!r} of {builder.info.full_name} is empty"
        )
    sources = split_holdout(train, holdout)
    for split in splits[1:]:
        test = as_source(split)
        captioned = test.captions is None or test.captions.texts
        if captioned and (not class_names or test[0]["label"] != UNLABELLED):
            return sources | {"test": test}
    return sources


def _captions(builder: tfds.core.DatasetBuilder, split: str, name: str) -> Captions:
    """The texts of every example of a split; of all or of none."""
    data_set, features = builder.info.full_name, _features(builder)
    if name not in features:
        has = ", ".join(sorted(features))
        raise ValueError(f"data.captions: {data_set} has no feature {name!r}; it has {has}")
    examples = _data_source(builder, split, {"image": tfds.decode.SkipDecoding()})
    found = [_texts(examples[row][name]) for row in range(len(examples))]
    for row, texts in enumerate(found):
        if texts is None:
            raise ValueError(
                f"data.captions: the feature {name!r} of {data_set} is {features[name]}; allowed: "
                "a text, a sequence of texts, or a sequence of dictionaries with a 'text'"
            )
        if not texts and any(found):
            raise ValueError(
                f"data.captions: the feature {name!r} of {data_set} has no text for example {row} "
                f"of {split}; allowed: at least one an example that is not empty"
            )
    return Captions.of(texts or () for texts in found)


def _texts(value: Any) -> list[str] | None:
    """The texts of an example that are not empty; None = it is of another kind."""
    if isinstance(value, dict):
        value = value.get("text")
    values = list(value) if isinstance(value, list | np.ndarray) else [value]
    if not all(isinstance(text, bytes | str) for text in values):
        return None
    decoded = [text.decode("utf-8") if isinstance(text, bytes) else text for text in values]
    return [text.strip() for text in decoded if text.strip()]


def _features(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """The features of an example by name."""
    features = builder.info.features
    return dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}


def _image_shape(builder: tfds.core.DatasetBuilder, image_size: int) -> tuple[int, int, int]:
    """The shape of every image once it is brought to ``image_size``."""
    data_set, features = builder.info.full_name, _features(builder)
    if "image" not in features:
        raise ValueError(
            f"data.name: {data_set} has no feature 'image'; it has {', '.join(features) or 'none'}"
        )
    image = features["image"]
    if len(image.shape) != 3 or image.np_dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise ValueError(
            f"data.name: the images of {data_set} are {np.dtype(image.np_dtype)} "
            f"{list(image.shape)}; allowed: uint8 [height, width, channels] with 1 or 3 channels"
        )
    height, width, channels = image.shape
    if image_size:
        return image_size, image_size, channels
    if height is None or width is None:
        raise ValueError(
            f"data.image_size is 0, but the images of {data_set} have several sizes; set it to "
            "the side that all are brought to"
        )
    return height, width, channels


def _prepared(name: str, path: str) -> tfds.core.DatasetBuilder:
    """The builder of a data set that is on disk."""
    if not name and not path:
        raise ValueError("data.name is empty; give a tensorflow-datasets name, such as 'cifar10'")
    try:
        if not name:
            return tfds.builder_from_directory(path)
        builder = tfds.builder(name, data_dir=path or None)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"data.name: tensorflow-datasets knows no {name!r}, and none is prepared in "
            f"{path or 'its default directory'}"
        ) from error
    except OSError as error:
        raise ValueError(f"data.path: no prepared data set in {path}: {error}") from error
    if not builder.is_prepared():
        raise ValueError(
            f"data.name: {name!r} is not prepared in {builder.data_path}. Once, with TensorFlow "
            f"installed: {_prepare_command(name, path)}"
        )
    return builder


def _data_source(
    builder: tfds.core.DatasetBuilder, split: str, decoders: dict[str, Any] | None = None
) -> Any:
    """Random access to the examples of a split."""
    try:
        return builder.as_data_source(
            split=split,  # pyright: ignore[reportCallIssue] (decorated)
            decoders=decoders,
        )
    except NotImplementedError as error:  # another file format
        raise ValueError(
            f"data.name: {builder.data_path} is in a format without random access; prepare it in "
            f"another data directory: {_prepare_command(builder.info.name, 'OTHER_DIRECTORY')}"
        ) from error


def _prepare_command(name: str, path: str) -> str:
    """The command line that downloads a data set and writes it as array_record."""
    where = f" --data_dir={path}" if path else ""
    return f"tfds build {name} --file_format=array_record{where}"
