"""A saved run: where its settings and its checkpoints are, and which of these is meant."""

import dataclasses
import hashlib
import json
import pathlib

from ..files import near, parse_json
from ..run_files import CHECKPOINTS, SETTINGS_FILE
from ..training import TrainState
from ..training.checkpoint import check_version, restore, scores, steps
from .checks import from_config_dict
from .config import Config, ConfigError


def read_config(workdir: pathlib.Path | str) -> Config:
    """The settings of a run, from its config.json.

    Args:
        workdir: of the run.

    Raises:
        ConfigError: the file is damaged, or holds what is no setting of this version.
        CheckpointError: the run is of another version.

    Example:
        >>> from dystress_jax import run
        >>> run.read_config("runs/quickstart").method
        'simclr'
    """
    workdir = pathlib.Path(workdir)
    path = workdir / SETTINGS_FILE
    check_version(workdir / CHECKPOINTS)
    if not path.exists():
        raise ConfigError(
            f"{workdir}: found no run (no {SETTINGS_FILE}); allowed: the directory of a run."
            f"{near(workdir)}"
        )
    try:
        settings = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: found no settings that can be read ({error})") from error
    try:
        return from_config_dict(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def digest_of(config: Config) -> str:
    """A number that is another one for any other settings.

    Args:
        config: the settings.

    Example:
        >>> digest_of(Config()) == digest_of(Config(seed=1))
        False
    """
    written = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def state_at(workdir: pathlib.Path, checkpoint: str | int, abstract: TrainState) -> TrainState:
    """The state of a run at a checkpoint.

    Args:
        workdir: of the run.
        checkpoint: `newest`, `best`, or a step.
        abstract: what it must fit.

    Raises:
        ConfigError: there is no such checkpoint.
        CheckpointError: it cannot be used.
    """
    directory = workdir / CHECKPOINTS
    return restore(directory, _choose_step(directory, checkpoint), abstract).state


def _choose_step(directory: pathlib.Path, checkpoint: str | int) -> int:
    """The step of a checkpoint: `newest`, `best`, or a number.

    Raises:
        ConfigError: there is none.
    """
    there = steps(directory)
    if not there:
        raise ConfigError(
            f"--workdir: found no checkpoint in {directory}; allowed: a run that has saved one "
            "(config.checkpoint_every)."
        )
    if checkpoint == "newest":
        return there[-1]
    if checkpoint == "best":
        measured = scores(directory)
        if not measured:
            raise ConfigError(
                "--checkpoint: found best, but kNN was measured at no checkpoint; allowed: newest, "
                + ", ".join(map(str, there))
            )
        return max(measured, key=lambda step: measured[step])
    name = str(checkpoint)
    if not name.isdecimal() or int(name) not in there:
        allowed = ", ".join(map(str, there))
        raise ConfigError(f"--checkpoint: found {name!r}; allowed: newest, best, {allowed}")
    return int(name)
