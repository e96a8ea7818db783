"""The weights of a run under the names of another library, or its encoder as ONNX."""

import json
import pathlib
import shlex
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .. import models, weights
from ..files import write_bytes
from ..training import TrainState
from . import language
from ._about_weights import SAYS, expected, seen_by, settings_needed
from ._begin_from import saved, shift_of, tree_of
from ._environment import usable_jax
from ._load import load
from ._onnx import to_onnx
from ._own import Own
from .config import Config, ConfigError
from .experiment import Experiment

ONNX = "onnx"
FORMATS = (weights.NATIVE, *weights.LIBRARIES, ONNX)
"""What `dystress export` writes, the first of them by default."""


@usable_jax()
def export_weights(
    workdir: pathlib.Path | str,
    out: pathlib.Path | str,
    *,
    format: str = "safetensors",
    checkpoint: str | int = "newest",
    own: Own = Own(),
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, tuple[int, ...]]:
    """Write the weights of a run under the names of another library, or its encoder as ONNX.

    Args:
        workdir: of the run; its images are not needed.
        out: the file, which must not be there; it ends in .safetensors, for `onnx` in .onnx.
        format: of `FORMATS`; `safetensors` has everything under the names that it has here, and
            `onnx` is a model of the encoder, `images` float32 in [0, 1] to `features`. For
            `open_clip` and `huggingface` a temperature that is one number (`learned`, `constant`)
            and divides cosines goes out as `logit_scale`; of any other there is none in the file.
        checkpoint: `newest`, `best`, or a step.
        own: the objects that the run was given in Python.
        tell: shows a person what the network expects, and how the file is read, a line each. The
            file says too what the images are to be.

    Returns:
        The shapes of what was written, by name.

    Raises:
        WeightsError: the library has no such network, the file is there, or the network cannot be
            converted.
        ConfigError: there is no run, no such checkpoint, no such format, or not its package.

    Example:
        >>> from dystress_jax import run
        >>> shapes = run.export_weights("runs/quickstart", "a.safetensors", format="torchvision")
        >>> "conv1.weight" in shapes, "fc.weight" in shapes
        (True, False)
    """
    workdir, out = (pathlib.Path(path).expanduser() for path in (workdir, out))
    if format not in FORMATS:
        raise ConfigError(f"--format: found {format!r}; allowed: {', '.join(FORMATS)}.")
    if out.suffix == ".onnx" and format != ONNX:
        raise ConfigError(
            f"--format: found {format} for {out.name}; allowed: --format=onnx, or a name that ends "
            "in .safetensors."
        )
    if format == ONNX:
        weights.check_writable(out, ".onnx")
        encoder = load(workdir, checkpoint, own=own)
        model = to_onnx(encoder)
        seen = seen_by(encoder.origin.experiment)
        for name, value in seen.items():
            model.metadata_props.add(key=name, value=value)
        write_bytes(out, model.SerializeToString())
        tell(f"it expects: {expected(seen)}; the mean and the deviation are in the model")
        return {array.name: tuple(array.dims) for array in model.graph.initializer}
    weights.check_writable(out)
    experiment, state = saved(workdir, checkpoint, own)
    config, inputs = experiment.config, experiment.inputs
    tensors = weights.give(
        jax.device_get(tree_of(state)),
        format,
        channels=inputs.channels,
        side=inputs.size // config.model.patch,
        shift=shift_of(experiment),
    )
    if format in ("open_clip", "huggingface"):
        # Hugging Face's SigLIP has them as arrays of one number.
        shape = (1,) if format == "huggingface" and config.model.pooling == "attention" else ()
        scalars = _scale_and_bias(experiment, state)
        tensors |= {name: number.reshape(shape) for name, number in scalars.items()}
    about = {"format": "pt", "model": config.model.name, "method": config.method}
    seen, comes_back = seen_by(experiment), config.model.name in models.ENCODERS
    if comes_back:
        about[SAYS] = json.dumps(settings_needed(experiment, heads=format == weights.NATIVE))
    weights.write(out, tensors, {**about, **seen, "step": str(int(state.step))})
    tell(f"it expects: {expected(seen)}")
    for line in _beside(experiment, format):
        tell(line)
    if comes_back:
        command = f"dystress import {shlex.quote(str(out))}"
        if config.method == "clip":
            vocabulary = shlex.quote(str(workdir / language.FILE))
            command = f"{command} --config.text.vocabulary={vocabulary}"
        tell(f"back here: {command}")
    return {name: array.shape for name, array in tensors.items()}


def _beside(experiment: Experiment, format: str) -> list[str]:
    """What a person must set there, since names and shapes do not say it."""
    config, library = experiment.config, format.replace("huggingface", "Hugging Face")
    if format == "torchvision":
        return [f"in torch: {_in_torch(config, experiment.inputs.channels)}"]
    if format == "timm" and config.model.heads:
        return [
            f"attention has {config.model.heads} heads, which timm does not see: "
            f"timm.create_model(..., num_heads={config.model.heads})"
        ]
    if format not in ("open_clip", "huggingface"):
        return []
    said = []
    if config.model.quick_gelu:
        said.append(f"the activation is x sigmoid(1.702 x): set quick_gelu in {library}")
    if not _compares_cosines(config):
        said.append(
            f"the run compares by {config.topology.name}, {library} by cosines: similarities are "
            "others there, and no logit_scale is in the file"
        )
    tokenizer = experiment.language.tokenizer if experiment.language is not None else None
    if config.text.pooling == "eot" and tokenizer is not None:
        end, largest = tokenizer.end - tokenizer.shift, tokenizer.vocab_size - 1 - tokenizer.shift
        if end != largest:
            said.append(
                f"texts end with id {end}, and features are read there; {library} reads them at "
                f"the largest id of a text unless its config says {end} (eos_token_id, eos_id)"
            )
    return said


def _compares_cosines(config: Config) -> bool:
    topology = config.topology
    return topology.name == "sphere" or (topology.name == "oblique" and topology.tokens == 1)


def _in_torch(config: Config, channels: int) -> str:
    """How torchvision's own class becomes the network of a file."""
    name, stem = config.model.name, models.STEMS[config.model.stem]
    if name == "small":
        return "torchvision has no class for the network small, which has two stages"
    if (wide := config.model.options.get("width", 64)) != 64:
        return f"torchvision has no class for a ResNet whose first layer has {wide} channels"
    lines = [f"model = torchvision.models.{name}()"]
    if config.model.stem != "imagenet" or channels != 3:
        shape = f"{channels}, 64, {stem.size}, {stem.stride}, {stem.padding}"
        lines.append(f"model.conv1 = torch.nn.Conv2d({shape}, bias=False)")
    if not stem.max_pool:
        lines.append("model.maxpool = torch.nn.Identity()")
    return "; ".join([*lines, "model.fc = torch.nn.Identity()"])


def _scale_and_bias(experiment: Experiment, state: TrainState) -> dict[str, np.ndarray]:
    """What the logits are multiplied by, and SigLIP's bias, where this is one number for all."""
    name, scheme = experiment.config.temperature.name, experiment.scheme
    if not _compares_cosines(experiment.config):
        return {}
    if name == "constant":
        return {"logit_scale": np.asarray(-np.log(experiment.config.temperature.tau), np.float32)}
    if name != "learned" or scheme is None:
        return {}
    tau: Any = scheme.resolve(state.scheme, None)
    bias = getattr(tau, "bias", None)
    found = {"logit_scale": np.asarray(np.log(tau.scale), np.float32)}
    return found if bias is None else {**found, "logit_bias": np.asarray(bias, np.float32)}
