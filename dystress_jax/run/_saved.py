"""A saved run: where its settings and its checkpoints are, and which of these is meant."""

import pathlib

from ..files import near, parse_json
from ..training import TrainState, checkpoint
from .checks import from_config_dict
from .config import Config, ConfigError

SETTINGS_FILE, CHECKPOINTS = "config.json", "checkpoints"


def read_config(path: pathlib.Path) -> Config:
    """The settings of a run, from its config.json.

    Args:
        path: of the file.

    Raises:
        ConfigError: the file is damaged, or holds what is no setting of this version.
        CheckpointError: the run is of another version.

    Example:
        >>> from dystress_jax import run
        >>> run.read_config(pathlib.Path("runs/quickstart/config.json")).method
        'simclr'
    """
    checkpoint.check_version(path.parent / CHECKPOINTS)
    if not path.exists():
        raise ConfigError(
            f"{path.parent}: found no run (no {path.name}); allowed: the directory of a run."
            f"{near(path.parent)}"
        )
    try:
        settings = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: found no settings that can be read ({error})") from error
    try:
        return from_config_dict(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def state_at(workdir: pathlib.Path, which: str, abstract: TrainState) -> TrainState:
    """The state of a run at a checkpoint.

    Args:
        workdir: of the run.
        which: `newest`, `best`, or a step.
        abstract: what it must fit.

    Raises:
        ConfigError: there is no such checkpoint.
        CheckpointError: it cannot be used.
    """
    directory = workdir / CHECKPOINTS
    return checkpoint.restore(directory, _choose_step(directory, which), abstract).state


def _choose_step(directory: pathlib.Path, name: str) -> int:
    """The step of a checkpoint: `newest`, `best`, or a number.

    Raises:
        ConfigError: there is none.
    """
    there = checkpoint.steps(directory)
    if not there:
        raise ConfigError(
            f"--workdir: found no checkpoint in {directory}; allowed: a run that has saved one "
            "(config.checkpoint_every)."
        )
    if name == "newest":
        return there[-1]
    if name == "best":
        scores = checkpoint.scores(directory)
        if not scores:
            raise ConfigError(
                "--checkpoint: found best, but kNN was measured at no checkpoint; allowed: newest, "
                + ", ".join(map(str, there))
            )
        return max(scores, key=lambda step: scores[step])
    if not name.isdecimal() or int(name) not in there:
        steps = ", ".join(map(str, there))
        raise ConfigError(f"--checkpoint: found {name!r}; allowed: newest, best, {steps}")
    return int(name)
