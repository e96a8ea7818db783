"""The directory of a run: one at a time, always the same one, and the files that say which."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import filelock
import jax

from .. import data
from ..errors import ArgumentError
from ..files import FileError, make_directory, told, write_json, write_text
from ..run_files import CHECKPOINTS, DIVERGED_FILE, ENVIRONMENT_FILE, SETTINGS_FILE, SUMMARY_FILE
from ..training import checkpoint
from . import language
from ._environment import environment
from ._own import check_given_again
from ._same_images import remember
from ._saved import read_config
from .config import Config, ConfigError
from .experiment import Experiment
from .fields import differences, may_change_on_resume
from .show import note


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path, made: list[pathlib.Path]) -> Iterator[None]:
    """Hold the directory: two runs would write over each other.

    The system lets go of the lock when the process ends, however it ends.

    Args:
        workdir: is made if it is not there.
        made: what was made is added, the outermost first.
    """
    if jax.process_index() != 0:
        yield
        return
    try:
        make_directory(workdir, made)
        lock = filelock.FileLock(workdir / ".lock", blocking=False)
        lock.acquire()
    except filelock.Timeout as error:
        made.clear()  # it is the other run's now
        raise ConfigError(
            f"--workdir: another run is writing to {workdir}. Wait for it, stop it, or give a new "
            "--workdir."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"--workdir: {error.filename or workdir} cannot be written ({error.strerror}); "
            "allowed: a directory, new or of an earlier run."
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_run(config: Config, workdir: pathlib.Path) -> None:
    """Refuse to go on with a run of another model or other data, and tell of other settings.

    Raises:
        ConfigError: naming the settings that differ; or `workdir` is, or lies below, a file, or can
            hold no checkpoint.
        CheckpointError: the run is of another version.
    """
    there = next((place for place in (workdir, *workdir.parents) if place.exists()), workdir)
    if there.exists() and not there.is_dir():
        raise ConfigError(f"--workdir: {there} is a file; allowed: a directory.")
    if config.checkpoint_every and any(0xD800 <= ord(letter) <= 0xDFFF for letter in str(workdir)):
        raise ConfigError(
            f"--workdir: found {str(workdir)!a}, a name that is no UTF-8, in which no "
            "checkpoint can be written; allowed: another --workdir, or config.checkpoint_every=0."
        )
    has_settings = (workdir / SETTINGS_FILE).exists()
    if steps := checkpoint.steps(workdir / CHECKPOINTS):
        if not has_settings:
            checkpoint.check_version(workdir / CHECKPOINTS)
            raise ConfigError(
                f"--workdir: {workdir} has checkpoints but no {SETTINGS_FILE} to say of which run; "
                "allowed: with it, or a new --workdir."
            )
        record = {} if max(steps) else checkpoint.read_record(workdir / CHECKPOINTS, 0)
        if record and "position" not in record:  # in the data: nothing was trained
            raise ConfigError(
                f"--workdir: {workdir} holds imported weights, which no run can go on from; "
                f"allowed: a new --workdir, with --init_from={workdir}."
            )
    else:
        _check_outside_images(config, workdir)
        if not (has_settings and (workdir / SUMMARY_FILE).exists()):
            return  # nothing is lost
    trained = read_config(workdir)
    check_given_again(trained, config)
    changes = differences(dataclasses.asdict(trained), dataclasses.asdict(config))
    shown = {n: f"config.{n}: {a!r} -> {b!r}" for n, (a, b) in changes.items()}
    refused = [s for n, s in shown.items() if not may_change_on_resume(n)]
    if refused:
        raise ConfigError(
            f"{workdir} holds a run with other settings: {'; '.join(refused)}. "
            "Give the run's own settings to go on with it (dystress train --resume takes them), or "
            "a new --workdir."
        )
    for change in shown.values():
        note(f"changed since the last part of this run: {change}")
    if not steps:
        raise ConfigError(
            f"--workdir: {workdir} holds a complete run that has kept no checkpoint, so it can "
            f"neither go on nor be measured again; allowed: a new --workdir, or delete "
            f"{workdir / SUMMARY_FILE} to train it anew."
        )
    if {"epochs", "steps"} & set(shown):
        note("the learning rates to come are those of a run of the new length")


def _check_outside_images(config: Config, workdir: pathlib.Path) -> None:
    """Refuse a new run among its own images: the pictures that it draws would be some of them."""
    d = config.data
    if d.source != "folder" or d.captions:
        return
    with contextlib.suppress(ArgumentError):  # which the source tells of when it is opened
        if data.lies_among_images(d.path, workdir):
            raise ConfigError(
                f"--workdir: found {workdir}, which lies among the images of config.data.path "
                f"{d.path}: the pictures that the run draws would become some of them; allowed: a "
                "directory elsewhere."
            )


def write_run_files(
    experiment: Experiment, workdir: pathlib.Path, described: Mapping[str, str]
) -> None:
    """What the run is, once it is known to go on: settings, vocabulary, what was left out.

    Args:
        experiment: the parts of the run.
        workdir: of the run.
        described: fingerprints of its images.

    Raises:
        FileError: something cannot be written.
    """
    if jax.process_index() != 0:
        return
    with told(workdir / DIVERGED_FILE, "deleted"):
        (workdir / DIVERGED_FILE).unlink(missing_ok=True)  # it is tried again
    write_json(workdir / SETTINGS_FILE, dataclasses.asdict(experiment.config))
    write_json(workdir / ENVIRONMENT_FILE, environment())
    remember(experiment.train, workdir, described)
    if experiment.language is not None:
        experiment.language.tokenizer.save(workdir / language.FILE)
    path = workdir / "skipped.txt"
    with told(path, "deleted"):
        path.unlink(missing_ok=True)
    skipped = [line for source in experiment.sources.values() for line in source.skipped]
    if skipped:
        write_text(path, "\n".join(skipped) + "\n")
        note(f"left out: {len(skipped)} that cannot be used, listed in {path}")


def keep_summary_of_shorter(workdir: pathlib.Path, step: int) -> None:
    """Keep the closing numbers of a run that has now become longer, under the steps that it had.

    Args:
        workdir: of the run.
        step: that it has gone on from.

    Raises:
        FileError: the file cannot be renamed.
    """
    path = workdir / SUMMARY_FILE
    if jax.process_index() == 0 and path.exists():
        kept = path.with_name(f"{path.stem}_{step}{path.suffix}")
        with told(path, f"kept as {kept.name}"):
            path.replace(kept)
        note(f"the closing numbers of the shorter run are kept in {kept}")


def check_still_there(workdir: pathlib.Path) -> None:
    """Refuse to go on where nothing that is saved could be found again.

    Raises:
        FileError: somebody has removed the directory, or what says which run it holds.
    """
    if jax.process_index() == 0 and not (workdir / SETTINGS_FILE).is_file():
        raise FileError(
            f"{workdir} was removed or emptied while the run was going on (there is no "
            f"{SETTINGS_FILE} any more): ended, since nothing that is saved could be found again."
        )
