"""Weights of other runs and of other libraries: a run that starts from them, and back."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import methods, models, weights
from ..errors import a_few
from ..files import leaving_nothing, make_directory, parse_json, told, write_bytes, write_json
from ..training import TrainState
from ..training.checkpoint import Saver, steps
from . import language
from ._build import rebuild, without_images
from ._environment import usable_jax
from ._load import load
from ._onnx import to_onnx
from ._own import Own
from ._same_images import as_remembered, remember
from ._saved import CHECKPOINTS, SETTINGS_FILE, read_config, state_at
from .config import Config, ConfigError
from .experiment import Experiment
from .fields import fields, put
from .meaning import arguments
from .methods import METHODS
from .tables import is_own

ONNX = "onnx"
FORMATS = (weights.NATIVE, *weights.LIBRARIES, ONNX)
"""What `dystress export` writes, the first of them by default."""
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


class Begun(NamedTuple):
    """A state with weights from elsewhere.

    Attributes:
        state: of the run.
        said: what was taken and what was not, a line each.
    """

    state: TrainState
    said: tuple[str, ...]


def begin_from(experiment: Experiment, source: str, *, prefix: str = "auto") -> Begun:
    """The first state of a run, with the weights of another run or of a file.

    The encoder's are taken, and of a run of this library those of the heads that have the same
    shape. Optimiser, temperature, queue and probe begin anew; a momentum encoder starts as a copy.

    Args:
        experiment: the parts of the run that begins.
        source: the directory of a run, or a file of weights.
        prefix: what stands before the names in the file; `auto` finds it.

    Raises:
        WeightsError: the weights are those of another model, or the file cannot be used.
        ConfigError: the directory holds no run.
    """
    return _begin(experiment, source, _read(str(source)), prefix)


def _begin(experiment: Experiment, source: str, tensors: weights.Tensors, prefix: str) -> Begun:
    """The same with what has been read."""
    state = experiment.init_state()
    try:
        found = weights.take(_tree(state), tensors, prefix=prefix, shift=_shift(experiment))
    except weights.WeightsError as error:
        theirs, here = weights.channels_of(tensors), experiment.inputs.channels
        if theirs in (None, here):
            flags = _other_flags(experiment.config, tensors)
            raise weights.WeightsError(f"{source}: {error}{flags}") from error
        raise weights.WeightsError(
            f"{source}: found weights for images of {theirs} channels, and the images of the run "
            f"have {here}; allowed: weights and images of the same. Images of your own: "
            "config.data.source=folder with config.data.path; the built-in patches are grey, the "
            "drawings of config.data.name=emoji in colour."
        ) from error
    placed = jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding), found.tree, _tree(state)
    )
    params = {**state.params, **placed["params"]}
    memory = methods.follow_from(state.memory, params, experiment.method.followers)
    state = state._replace(params=params, stats=placed["stats"], memory=memory)
    return Begun(state, tuple(_said(source, found, tensors)))


def _has(config: Config, argument: str) -> bool:
    """Whether the encoder is one of those that take this argument, such as several stems."""
    builder = models.ENCODERS.get(config.model.name)
    return builder is not None and argument in arguments(builder)


def _other_flags(config: Config, tensors: weights.Tensors) -> str:
    """The words that say which stem, patch and positions the weights have, if others."""
    side, said = weights.kernel_of(tensors), ""
    stem = next((name for name, stem in models.STEMS.items() if stem.size == side), None)
    if stem not in (None, config.model.stem) and _has(config, "stem"):
        said += f" Its first kernels are {side} x {side}: --config.model.stem={stem}."
    if side not in (None, config.model.patch) and _has(config, "patch"):
        said += f" Its patches are {side} x {side}: --config.model.patch={side}."
    learned = config.model.positions == "learned" or not _has(config, "positions")
    if not learned and any(name.endswith("pos_embed") for name in tensors):
        said += " If its positions are learned, as timm's are: --config.model.positions=learned."
    return said


def check_source(source: str) -> None:
    """Refuse a run or a file of weights that is not there, before anything is opened.

    Args:
        source: as for `begin_from`.

    Raises:
        WeightsError: there is nothing.
        ConfigError: there is a directory, but no run with a checkpoint in it.
    """
    path = pathlib.Path(source).expanduser()
    if not path.is_dir():
        weights.check_readable(path)
        return
    if not (path / SETTINGS_FILE).is_file():
        raise ConfigError(
            f"{path}: found no run (no {SETTINGS_FILE}); allowed: the directory of a run, or a "
            "file of weights."
        )
    if not steps(path / CHECKPOINTS):
        raise ConfigError(
            f"{path}: found a run without a checkpoint; allowed: one that has saved its weights, "
            "or a file of weights."
        )


def _read(source: str) -> weights.Tensors:
    check_source(source)
    path = pathlib.Path(source).expanduser()
    if not path.is_dir():
        return weights.read(path)
    _, state = _saved(path, "newest", Own())
    return weights.give(_tree(state), weights.NATIVE)


def _saved(workdir: pathlib.Path, checkpoint: str | int, own: Own) -> tuple[Experiment, TrainState]:
    """The parts of a run and a state of it, without its images."""
    experiment = rebuild(read_config(workdir), workdir, own=own)
    return experiment, state_at(workdir, checkpoint, experiment.abstract_state())


def _tree(state: TrainState) -> dict[str, Any]:
    """What other libraries have a name for: no online probe."""
    return {"params": methods.without_probe(state.params), "stats": state.stats}


def _shift(experiment: Experiment) -> int:
    """By how much the ids of words are larger here than where the vocabulary comes from."""
    return 0 if experiment.language is None else experiment.language.tokenizer.shift


def _said(source: str, found: weights.Taken, tensors: weights.Tensors) -> list[str]:
    of = f"the names of {found.family}" if found.family != weights.NATIVE else "this library"
    under = f", under {found.prefix}" if found.prefix else ""
    said = [f"started from {source} ({of}{under}): {len(found.taken)} arrays taken"]
    if found.kept:
        said.append(f"not in it, so as new: {a_few(found.kept)}")
    if found.family != weights.NATIVE and any(".encoder." not in name for name in found.kept):
        said.append(
            "heads of other libraries are not taken: features are those of the file, embeddings "
            "those of a new head until it is trained"
        )
    if found.left:
        said.append(f"in it, but not taken: {a_few(found.left)}")
    scale = tensors.get(f"{found.prefix}logit_scale")
    if scale is not None and scale.size:
        tau = float(np.exp(-np.asarray(scale, np.float32).reshape(-1)[0]))
        said.append(f"its temperature was {tau:.6g}: config.temperature.tau says what it starts at")
    bias = tensors.get(f"{found.prefix}logit_bias")
    if bias is not None and bias.size:
        of_file = float(np.asarray(bias, np.float32).reshape(-1)[0])
        said.append(f"its bias was {of_file:.6g}: config.temperature.bias says what it starts at")
    return said


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
        seen = _seen(encoder.origin.experiment)
        for name, value in seen.items():
            model.metadata_props.add(key=name, value=value)
        write_bytes(out, model.SerializeToString())
        tell(f"it expects: {_expected(seen)}; the mean and the deviation are in the model")
        return {array.name: tuple(array.dims) for array in model.graph.initializer}
    weights.check_writable(out)
    experiment, state = _saved(workdir, checkpoint, own)
    config, inputs = experiment.config, experiment.inputs
    tensors = weights.give(
        jax.device_get(_tree(state)),
        format,
        channels=inputs.channels,
        side=inputs.size // config.model.patch,
        shift=_shift(experiment),
    )
    if format in ("open_clip", "huggingface"):
        # Hugging Face's SigLIP has them as arrays of one number.
        shape = (1,) if format == "huggingface" and config.model.pooling == "attention" else ()
        scalars = _scale_and_bias(experiment, state)
        tensors |= {name: number.reshape(shape) for name, number in scalars.items()}
    about = {"format": "pt", "model": config.model.name, "method": config.method}
    seen, comes_back = _seen(experiment), config.model.name in models.ENCODERS
    if comes_back:
        about[SAYS] = json.dumps(_needed(experiment, heads=format == weights.NATIVE))
    weights.write(out, tensors, {**about, **seen, "step": str(int(state.step))})
    tell(f"it expects: {_expected(seen)}")
    for line in _beside(experiment, format):
        tell(line)
    if comes_back:
        command = f"dystress import {shlex.quote(str(out))}"
        if config.method == "clip":
            vocabulary = shlex.quote(str(workdir / language.FILE))
            command = f"{command} --config.text.vocabulary={vocabulary}"
        tell(f"back here: {command}")
    return {name: array.shape for name, array in tensors.items()}


def _needed(experiment: Experiment, *, heads: bool) -> dict[str, Any]:
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
        return _needed(rebuild(read_config(path), path, own=Own()), heads=True)
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


def _seen(experiment: Experiment) -> dict[str, str]:
    """What the encoder sees, as a file says it of itself."""
    config, inputs = experiment.config, experiment.inputs
    stem = {"stem": config.model.stem} if _has(config, "stem") else {}
    return {
        "image_size": str(inputs.size),
        "channels": str(inputs.channels),
        "mean": _numbers(config.augment.mean),
        "std": _numbers(config.augment.std),
        **stem,
    }


def _numbers(values: tuple[float, ...]) -> str:
    return repr(values[0]) if len(set(values)) == 1 else repr(values)


def _expected(seen: Mapping[str, str]) -> str:
    channels = f"{seen['channels']} channel" + "s" * (seen["channels"] != "1")
    return (
        f"(x - {seen['mean']}) / {seen['std']} of x in [0, 1], {seen['image_size']} x "
        f"{seen['image_size']}, {channels}" + (f", stem {seen['stem']}" if "stem" in seen else "")
    )


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


def _channels(tensors: weights.Tensors, config: Config) -> int:
    """Of the images; our own files of a ViT have the patches of its images in one row."""
    name = "encoder.patches.kernel"
    kernels = [tensors[f"{of}.{name}"] for of in ("params", "stats") if f"{of}.{name}" in tensors]
    if kernels and kernels[0].ndim == 2:
        return max(kernels[0].shape[0] // config.model.patch**2, 1)
    return weights.channels_of(tensors) or 3


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
    tensors = _read(str(source))
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
    begun = _begin(experiment, str(source), tensors, prefix)
    with leaving_nothing() as made:
        with told(workdir, "written"):
            make_directory(workdir, made)
        remember(train, workdir)
        if tokenizer is not None:
            tokenizer.save(workdir / language.FILE)
        saver = Saver(workdir / CHECKPOINTS, keep=1)
        saver.save(0, begun.state, {"score": None})
        saver.wait()
        write_json(workdir / SETTINGS_FILE, dataclasses.asdict(config))
    seen = f"brought to {side} x {side}, then {_expected(_seen(experiment))}"
    where = "config.data.image_size, config.augment.size, config.augment.mean, config.augment.std"
    return (*begun.said, f"assumed of the images: {seen} ({where})")
