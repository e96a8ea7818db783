"""Other images than those that a run was trained on, for its encoder."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from .. import data
from ..errors import ArgumentError
from .checks import from_config_dict
from .config import Config, ConfigError, Data
from .data import Sources, open_sources, with_absolute_paths
from .fields import fields, put
from .meaning import arguments
from .overrides import calling_images, check_says_which
from .tables import find


def open_other(
    config: Config, on: Mapping[str, Any], shape: tuple[int, int, int], *, flag: str = "on"
) -> Sources:
    """Open other images, brought to the shape of those of a run.

    Args:
        config: of the run.
        on: fields of `config.data` by their names, `source` and others such as `path`; those that
            are missing have their defaults.
        shape: (h, w, c) of the images of the run.
        flag: what errors call the group.

    Returns:
        The splits, as `open_sources` has them.

    Raises:
        ConfigError: there are no such images, or they have other channels; or no source is named.
    """
    check_says_which(on, flag if flag.startswith("config.") else f"--{flag}")
    with calling_images(flag):
        other = _with_images(config, on, shape)
        sources = open_sources(
            other, find(data.SOURCES, other.data.source, field="config.data.source")
        )
    try:
        return {split: data.resized(source, shape) for split, source in sources.items()}
    except ArgumentError as error:
        whose = flag if flag.startswith("config.") else f"--{flag}"
        raise ConfigError(f"{whose}: {error.text}") from error


def for_other_images(config: Config, *, keep: Collection[str] = ()) -> Config:
    """The settings of a run without what is about its own images, such as the names of classes.

    Args:
        config: of the run.
        keep: fields that were set for the other images.
    """
    for field in fields():
        of_images = field.meaning.about == "data.source" != field.axis
        if of_images and field.name not in keep:
            config = put(config, field.name, field.default)
    return config


def _with_images(config: Config, on: Mapping[str, Any], shape: tuple[int, int, int]) -> Config:
    """The settings of a run with other images.

    Raises:
        ConfigError: in the names of `config.data`.
    """
    fresh, (height, width, _) = dataclasses.asdict(Data()), shape
    opener = data.SOURCES.get(on["source"])
    if opener is not None and "image_size" in arguments(opener) and height == width:
        fresh["image_size"] = height  # files are decoded to that size right away
    # A temperature that lets no training image be left out says nothing of other images.
    about_images = {"method": config.method, "data": {**fresh, **on}, "knn_every": 0}
    checked = from_config_dict(about_images)
    return with_absolute_paths(dataclasses.replace(config, data=checked.data, knn_every=0))
