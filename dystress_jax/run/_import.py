"""A run that is made of a file of weights, to be loaded, evaluated and started from."""

import dataclasses
import pathlib

from .. import weights
from ..files import leaving_nothing, make_directory, told, write_json
from ..run_files import CHECKPOINTS, SETTINGS_FILE
from ..training.checkpoint import Saver, steps
from . import language
from ._about_weights import expected, seen_by
from ._begin_from import begin_with, read_weights
from ._build import without_images
from ._environment import usable_jax
from ._same_images import as_remembered, remember
from .config import Config, ConfigError


@usable_jax()
def import_weights(
    config: Config,
    source: pathlib.Path | str,
    workdir: pathlib.Path | str,
    *,
    prefix: str = "auto",
) -> tuple[str, ...]:
    """Make a run of a file of weights: it can be loaded, evaluated, embedded with and started from.

    Args:
        config: its settings: the model, and how images are brought to it (`data.image_size`,
            `augment.size`, `augment.mean`, `augment.std`).
        source: the file, or the directory of a run.
        workdir: of the new run, which must not be there.
        prefix: what stands before the names in the file; `auto` finds it.

    Returns:
        What was taken and what was not, a line each.

    Raises:
        WeightsError: the weights are those of another model, or the file cannot be used.
        ConfigError: the directory holds a run, or the settings do not fit each other.
        CheckpointError, FileError: the run cannot be written; a directory made for it goes.

    Example:
        >>> from dystress_jax import run
        >>> config = run.from_config_dict({"augment": {"size": 32}})
        >>> said = run.import_weights(config, "runs/drawings", "runs/copy")
        >>> run.load("runs/copy").num_features
        64
    """
    workdir = pathlib.Path(workdir).expanduser().absolute()
    if (workdir / SETTINGS_FILE).exists() or steps(workdir / CHECKPOINTS):
        raise ConfigError(f"--workdir: {workdir} holds a run already; allowed: a new directory.")
    side = config.data.image_size or config.augment.size
    if not side:
        raise ConfigError(
            "config.augment.size: found 0, and no images to tell it by; allowed: the side of the "
            "square images that the encoder sees, in pixels."
        )
    tensors = read_weights(str(source))
    channels = _channels(tensors, config)
    train = as_remembered((side, side, channels), images=config.batch_size)
    tokenizer = None
    if config.method == "clip":
        if not config.text.vocabulary:
            raise ConfigError(
                "config.text.vocabulary: found '', and no captions to make one of; allowed: the "
                "vocab.txt or tokenizer.json that the weights were trained with."
            )
        tokenizer = language.make_tokenizer(config, train, workdir)
    experiment = without_images(config, train, tokenizer)
    begun = begin_with(experiment, str(source), tensors, prefix)
    with leaving_nothing() as made:
        with told(workdir, "written"):
            make_directory(workdir, made)
        remember(train, workdir, {})
        if tokenizer is not None:
            tokenizer.save(workdir / language.FILE)
        saver = Saver(workdir / CHECKPOINTS, keep=1)
        saver.save(0, begun.state, {"score": None})
        saver.wait()
        write_json(workdir / SETTINGS_FILE, dataclasses.asdict(config))
    seen = f"brought to {side} x {side}, then {expected(seen_by(experiment))}"
    where = "config.data.image_size, config.augment.size, config.augment.mean, config.augment.std"
    return (*begun.said, f"assumed of the images: {seen} ({where})")


def _channels(tensors: weights.Tensors, config: Config) -> int:
    """Of the images; our own files of a ViT have the patches of its images in one row."""
    name = "encoder.patches.kernel"
    kernels = [tensors[f"{of}.{name}"] for of in ("params", "stats") if f"{of}.{name}" in tensors]
    if kernels and kernels[0].ndim == 2:
        return max(kernels[0].shape[0] // config.model.patch**2, 1)
    return weights.channels_of(tensors) or 3
