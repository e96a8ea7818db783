"""A run that starts from the weights of another run, or from a file of any library."""

import dataclasses
import hashlib
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import methods, models, weights
from ..errors import a_few
from ..run_files import CHECKPOINTS, SETTINGS_FILE
from ..training import TrainState
from ..training.checkpoint import steps
from ..training.processes import exchange, together
from ._build import rebuild
from ._own import Own
from ._saved import read_config, state_at
from .config import Config, ConfigError
from .experiment import Experiment
from .fields import differences
from .networks import takes


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
        ConfigError: the directory holds no run, or processes of this run have other weights.
        OtherProcessError: another process of this run cannot read them.
    """
    with together("weights"):
        tensors = read_weights(str(source))
    _compare_processes(source, tensors)
    return begin_with(experiment, source, tensors, prefix)


def _compare_processes(source: str, tensors: weights.Tensors) -> None:
    """Refuse processes that have read other weights, wherever the files of each lie."""
    if jax.process_count() == 1:
        return
    content = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(array.tobytes())
    first, *others = exchange("weights", (source, content.hexdigest()[:12]))
    for number, other in enumerate(others, start=1):
        if other[1] != first[1]:
            shown = " and ".join(f"{path} (content {digest})" for path, digest in (first, other))
            raise ConfigError(
                f"config.init_from: processes 0 and {number} have other weights: {shown}; allowed: "
                "files of any name with the same weights."
            )


def begin_with(experiment: Experiment, source: str, tensors: weights.Tensors, prefix: str) -> Begun:
    """The same with what has been read."""
    state = experiment.init_state()
    try:
        found = weights.take(tree_of(state), tensors, prefix=prefix, shift=shift_of(experiment))
    except weights.WeightsError as error:
        theirs, here = weights.channels_of(tensors), experiment.inputs.channels
        if theirs in (None, here):
            flags = _flags_of_run(experiment.config, pathlib.Path(source).expanduser())
            flags = flags or _other_flags(experiment.config, tensors)
            raise weights.WeightsError(f"{source}: {error}{flags}") from error
        raise weights.WeightsError(
            f"{source}: found weights for images of {theirs} channels, and the images of the run "
            f"have {here}; allowed: weights and images of the same. Images of your own: "
            "config.data.source=folder with config.data.path; the built-in patches are grey, the "
            "drawings of config.data.name=emoji in colour."
        ) from error
    placed = jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding), found.tree, tree_of(state)
    )
    params = {**state.params, **placed["params"]}
    memory = methods.follow_from(state.memory, params, experiment.method.followers)
    state = state._replace(params=params, stats=placed["stats"], memory=memory)
    return Begun(state, tuple(_said(source, found, tensors)))


def _flags_of_run(config: Config, source: pathlib.Path) -> str:
    """The words for the model of a run, where it is another one."""
    if not (source / SETTINGS_FILE).is_file():
        return ""
    theirs, ours = (dataclasses.asdict(of.model) for of in (read_config(source), config))
    other = differences(theirs, ours)
    said = " ".join(f"--config.model.{name}={value}" for name, (value, _) in other.items())
    return f" That run has {said}." if said else ""


def _other_flags(config: Config, tensors: weights.Tensors) -> str:
    """The words that say which stem, patch and positions the weights have, if others."""
    side, said = weights.kernel_of(tensors), ""
    stem = next((name for name, stem in models.STEMS.items() if stem.size == side), None)
    if stem not in (None, config.model.stem) and takes(config, "stem"):
        said += f" Its first kernels are {side} x {side}: --config.model.stem={stem}."
    if side not in (None, config.model.patch) and takes(config, "patch"):
        said += f" Its patches are {side} x {side}: --config.model.patch={side}."
    learned = config.model.positions == "learned" or not takes(config, "positions")
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


def read_weights(source: str) -> weights.Tensors:
    check_source(source)
    path = pathlib.Path(source).expanduser()
    if not path.is_dir():
        return weights.read(path)
    _, state = saved(path, "newest", Own())
    return weights.give(tree_of(state), weights.NATIVE)


def saved(workdir: pathlib.Path, checkpoint: str | int, own: Own) -> tuple[Experiment, TrainState]:
    """The parts of a run and a state of it, without its images."""
    experiment = rebuild(read_config(workdir), workdir, own=own)
    return experiment, state_at(workdir, checkpoint, experiment.abstract_state())


def tree_of(state: TrainState) -> dict[str, Any]:
    """What other libraries have a name for: no online probe."""
    return {"params": methods.without_probe(state.params), "stats": state.stats}


def shift_of(experiment: Experiment) -> int:
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
