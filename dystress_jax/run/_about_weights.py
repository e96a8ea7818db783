"""What a file of weights says of its run: what the encoder sees, and the settings of a new one."""

import pathlib
from collections.abc import Mapping
from typing import Any

from .. import weights
from ..files import parse_json
from ._begin_from import check_source
from ._build import rebuild
from ._own import Own
from ._saved import read_config
from .experiment import Experiment
from .fields import fields, put
from .methods import METHODS
from .networks import takes
from .tables import is_own

IMPORTED = {
    "model.name": "resnet50",
    "model.stem": "imagenet",
    "data.image_size": 256,
    "augment.size": 224,
    "augment.mean": (0.485, 0.456, 0.406),
    "augment.std": (0.229, 0.224, 0.225),
}
"""What `dystress import` takes a file to be that says nothing: a ResNet-50 for ImageNet."""
SAYS = "settings"  # under this name a file of ours says what of its run an import needs
_NEEDED = ("model.", "data.image_size", "augment.size", "augment.mean", "augment.std")
_NEEDED_OF_TOWERS = ("method", "text.", "topology.")
_ELSEWHERE = ("text.vocabulary", "text.vocab_size")  # in a file of its own


def seen_by(experiment: Experiment) -> dict[str, str]:
    """What the encoder sees, as a file says it of itself."""
    config, inputs = experiment.config, experiment.inputs
    stem = {"stem": config.model.stem} if takes(config, "stem") else {}
    return {
        "image_size": str(inputs.size),
        "channels": str(inputs.channels),
        "mean": _numbers(config.augment.mean),
        "std": _numbers(config.augment.std),
        **stem,
    }


def _numbers(values: tuple[float, ...]) -> str:
    return repr(values[0]) if len(set(values)) == 1 else repr(values)


def expected(seen: Mapping[str, str]) -> str:
    channels = f"{seen['channels']} channel" + "s" * (seen["channels"] != "1")
    return (
        f"(x - {seen['mean']}) / {seen['std']} of x in [0, 1], {seen['image_size']} x "
        f"{seen['image_size']}, {channels}" + (f", stem {seen['stem']}" if "stem" in seen else "")
    )


def settings_needed(experiment: Experiment, *, heads: bool) -> dict[str, Any]:
    """The settings that a run of the same weights needs, as far as they are no defaults.

    Args:
        experiment: the parts of the run.
        heads: whether what is behind the encoder comes along.
    """
    config, (height, width, _) = experiment.config, experiment.train.image_shape
    config = put(config, "data.image_size", min(height, width))
    config = put(config, "augment.size", experiment.inputs.size)
    names = _NEEDED
    if config.method == "clip":
        names += _NEEDED_OF_TOWERS
    elif heads and config.method in METHODS:
        names += ("method", "projector.")
    return {
        field.name: field.value(config)
        for field in fields()
        if field.name.startswith(names) and field.name not in _ELSEWHERE and field.is_set(config)
    }


def imported(source: pathlib.Path | str) -> dict[str, Any]:
    """The settings with which weights become a run, as far as they are known.

    Args:
        source: a file of weights, or the directory of a run.

    Returns:
        By the name of the field: what a file that `export_weights` has written says of its run, or
        the settings of the run; of any other file `IMPORTED`.

    Raises:
        ConfigError: the directory holds no run.

    Example:
        >>> from dystress_jax import run
        >>> shapes = run.export_weights("runs/quickstart", "grey.safetensors")
        >>> run.imported("grey.safetensors")["augment.size"]
        32
        >>> run.imported("resnet50.pth")["model.name"]
        'resnet50'
    """
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        check_source(str(path))
        return settings_needed(rebuild(read_config(path), path, own=Own()), heads=True)
    try:
        said = parse_json(weights.about(path)[SAYS])
    except (KeyError, ValueError):
        return dict(IMPORTED)
    known = {field.name for field in fields()}.difference(_ELSEWHERE)
    return {
        name: value
        for name, value in (said if isinstance(said, dict) else {}).items()
        if name in known and name.startswith((*_NEEDED, *_NEEDED_OF_TOWERS, "projector."))
        if not (isinstance(value, str) and is_own(value))  # a file decides about no code
    }
