"""Training from start to end: data, state, steps, evaluation. No mathematics."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grain
import jax

from .. import data, evaluation, sharding
from ..files import FileError, leaving_nothing, told, write_json
from ..run_files import DIVERGED_FILE, PROFILE
from ..training import TrainState, checkpoint, make_train_step
from ..training.interrupt import StopRequest
from ..training.log import DivergedError, Log
from ..training.loggers import NO_LOGGERS, Begun, LoggerError, Loggers, open_loggers
from ..training.processes import exchange, together
from ..training.resident import Resident, bytes_for_images, bytes_of_images
from . import measuring
from ._begin_from import begin_from
from ._closing import close
from ._environment import BITS_OF_GPUS, keeps_bits, usable_jax
from ._own import Own
from ._prepare import Run, prepare
from ._profile import Profile
from ._recording import Recording, is_due
from ._same_images import check_same
from ._saved import digest_of
from ._workdir import (
    check_still_there,
    keep_summary_of_shorter,
    lock_workdir,
    write_run_files,
)
from .config import Config, ConfigError
from .data import reporting_unreadable_images
from .experiment import Experiment
from .fields import differences, fields, is_of_a_machine
from .inputs import picture_of_views
from .show import note
from .tables import is_own


@usable_jax()
def train(
    config: Config,
    workdir: pathlib.Path | str,
    *,
    own: Own = Own(),
) -> dict[str, Any]:
    """Train, or go on with the run in `workdir`, and write its closing numbers.

    Writes `config.json`, `metrics.jsonl`, what the loggers write, `checkpoints/` and, at the end,
    `summary.json`.

    Args:
        config: the settings, checked.
        workdir: made if it is not there; a run that it holds is continued.
        own: objects of one's own in place of names in the settings, such as a temperature. The run
            goes on only with the same objects given again.

    Returns:
        The summary; of a run that was asked to stop, only how far it got.

    Raises:
        ConfigError: the settings do not fit the data, the devices, or the run in `workdir`, or
            another process is running there, or an image cannot be read.
        DivergedError: the loss became NaN or infinite.
        CheckpointError: there are checkpoints, but none can be used; or none can be written.
        FileError: something in `workdir` cannot be read or written.
        OtherProcessError: another process of the run cannot begin.

    Example:
        >>> from dystress_jax import run
        >>> settings = {"batch_size": 32, "steps": 2, "knn_every": 0}
        >>> summary = run.train(run.from_config_dict(settings), "runs/short")
        devices: ...
        >>> summary["steps"], 0 < summary["knn_trained"] < 1
        (2, True)
    """
    workdir = pathlib.Path(workdir).absolute()
    with reporting_unreadable_images(config, workdir), contextlib.ExitStack() as until_the_end:
        with leaving_nothing() as made:
            with together("beginning"):
                run = prepare(config, workdir, own)
                until_the_end.enter_context(lock_workdir(run.workdir, made))
            _compare_processes(run)
            start = _start(run)
            write_run_files(run.experiment, run.workdir, run.described)
            loggers = until_the_end.enter_context(_loggers(run, start))
        with StopRequest(note) as stop:
            state, last_step, seconds, signal = _train_steps(run, start, stop, loggers)
            if signal is not None:
                saved = f"saved in {run.checkpoints}; the same command goes on from there"
                lost = "nothing saved (checkpoint_every is 0)"
                note(
                    f"{signal}: stopped after step {last_step}, "
                    + (saved if config.checkpoint_every else lost)
                )
                return {"stopped_after": last_step}
        # All is saved: from here on a signal ends the run at once.
        return close(run, state, loggers, seconds)


class _Start(NamedTuple):
    """Where this part of the run begins."""

    state: TrainState
    batches: grain.DatasetIterator
    put: Callable[[data.Batch], dict[str, jax.Array]]  # a batch onto the devices
    step: int
    seconds: float  # that earlier parts took
    scores: dict[int, float]  # of the checkpoints of earlier parts


def _compare_processes(run: Run) -> None:
    """Refuse processes that would train something else together.

    Raises:
        ConfigError: with the first difference to process 0.
    """
    settings = dataclasses.asdict(run.config)
    there = {
        **run.described,
        "config.zero_shot.class_names": _content_of(run.config.zero_shot.class_names),
        "checkpoints in --workdir": checkpoint.steps(run.checkpoints),
    }
    (settings, there), *others = exchange("settings", (settings, there))
    for number, (theirs, seen) in enumerate(others, start=1):
        changes = differences(settings, theirs)
        found = {f"config.{n}": pair for n, pair in changes.items() if not is_of_a_machine(n)}
        found |= {n: (there[n], seen.get(n)) for n in there if there[n] != seen.get(n)}
        if found:
            shown = "; ".join(f"{name}: {a!r} and {b!r}" for name, (a, b) in found.items())
            raise ConfigError(
                f"processes 0 and {number} differ: {shown}. Start all with the same settings and "
                "images, and a --workdir that all of them see."
            )


def _content_of(path: str) -> str:
    """What tells a small file from another, wherever it lies; "" where there is none."""
    file = pathlib.Path(path)
    if not path or not file.is_file():
        return ""
    with told(file, "read"):
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _start(run: Run) -> _Start:
    """Restore the newest checkpoint that is whole, or begin."""
    experiment = run.experiment
    changed = check_same(experiment.trained_on, run.checkpoints)
    if changed:
        note(changed)
    restored = checkpoint.restore_newest(run.checkpoints, experiment.abstract_state())
    if restored is None:
        state, step, seconds = _first_state(run.config, experiment), 0, 0.0
        scores = {}
    else:
        for reason, place in restored.damaged:
            note(f"{reason}; moved to {place}")
        state, step, seconds = restored.state, restored.step, restored.record["seconds"]
        same = restored.record.get("scored_by") == _scored_by(run.config)
        scores = restored.scores if same else {}
    total_steps = experiment.schedule.total_steps
    if step > total_steps:
        field = "steps" if run.config.steps else "epochs"
        raise ConfigError(
            f"config.{field}: found {getattr(run.config, field)}, a run of {total_steps:,} steps, "
            f"but the one in {run.workdir} is at step {step:,}; allowed: at least as many, or a "
            "new --workdir."
        )
    done = step == total_steps
    if restored is not None:
        note(f"{'complete' if done else 'going on from the checkpoint'} at step {step}")
        if not done and not keeps_bits():
            note(f"the last digits can differ from a run without the break: {BITS_OF_GPUS}")
    resident = None if done else _on_devices(experiment)
    batches = data.batches(
        experiment.train if resident is None else resident.source,
        batch_size=run.config.batch_size,
        seed=run.config.seed,
        threads=run.config.data.threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    if restored is not None:
        batches.set_state(restored.record["position"])
    if resident is None:
        put = functools.partial(sharding.shard_batch, mesh=experiment.mesh)
    else:
        put = resident.put
    return _Start(state, batches, put, step, seconds, scores)


def _scored_by(config: Config) -> str:
    """By what the accuracies are measured that choose the best checkpoint."""
    return f"k {config.knn.k}, temperature {config.knn.temperature}, bank {config.knn.bank}"


def _on_devices(experiment: Experiment) -> Resident | None:
    """The training images on the devices, if they are to stay there."""
    asked, mesh, source = experiment.config.data.on_device, experiment.mesh, experiment.train
    allowed = math.inf if asked else bytes_for_images(mesh)
    if asked is False or allowed is None:
        return None
    taken = bytes_of_images(source)
    if taken > allowed:
        return None
    note(f"training images kept on each device: {taken / 2**20:,.0f} MiB (config.data.on_device)")
    return Resident.of(source, mesh)


def _first_state(config: Config, experiment: Experiment) -> TrainState:
    if not config.init_from:
        return experiment.init_state()
    begun = begin_from(experiment, config.init_from, prefix=config.init_prefix)
    for line in begun.said:
        note(line)
    return begun.state


@contextlib.contextmanager
def _loggers(run: Run, start: _Start) -> Iterator[Loggers]:
    """The loggers of the run, told how it ends."""
    if jax.process_index() != 0:
        yield NO_LOGGERS
        return
    config = run.config
    begun = Begun(
        workdir=run.workdir,
        name=config.run_name or run.workdir.name,
        project=config.project,
        config=dataclasses.asdict(config),
        hparams={field.name: _plain(field.value(config)) for field in fields()},
        first_step=start.step,
        known_as=None,
        tell=note,
    )
    try:
        loggers = open_loggers(config.loggers, begun)
    except LoggerError as error:
        raise ConfigError(f"config.loggers: {error}") from error
    try:
        yield loggers
    except BaseException:
        loggers.close(failed=True)
        raise
    loggers.close()


def _plain(value: Any) -> Any:
    """A setting as a number, a text or a bool, as loggers compare them."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _train_steps(
    run: Run, start: _Start, stop: StopRequest, loggers: Loggers
) -> tuple[TrainState, int, float, str | None]:
    """Step until the end or a signal; returns state, last step, seconds so far, signal's name."""
    saver, log = _saver(run, start), _log(run, start, loggers)
    recorded = run.config.profile_steps
    profile = Profile(run.workdir / PROFILE, first_step=start.step, steps=recorded)
    try:
        state, step, signal = _each_step(run, start, stop, loggers, saver, log, profile)
        log.flush()
        saver.wait()
        if saver.error is not None:
            raise _last_not_saved(saver)
        signal = signal or stop.asked()  # while the last step was saved
    except (DivergedError, evaluation.NotFiniteError) as error:
        with contextlib.suppress(checkpoint.CheckpointError):
            saver.wait()
        diverged = _diverged(error, saver, run)
        if jax.process_index() == 0:
            about = {"diverged": str(diverged), "settings_digest": digest_of(run.config)}
            with contextlib.suppress(FileError):  # that it has diverged is what is to be told
                write_json(run.workdir / DIVERGED_FILE, about)
        raise diverged from error
    finally:
        profile.close()
        log.close()
        with contextlib.suppress(checkpoint.CheckpointError):
            saver.wait()
        start.batches.close()
    return state, step, _seconds(run, start), signal


def _saver(run: Run, start: _Start) -> checkpoint.Saver:
    """What writes the checkpoints, and goes on without one where the settings say so."""
    goes_on = run.config.checkpoint_on_error == "continue" and jax.process_count() == 1

    def not_saved(error: checkpoint.CheckpointError) -> None:
        check_still_there(run.workdir)
        if not goes_on:
            raise error
        note(f"{error}; going on without it (config.checkpoint_on_error is continue)")

    keep = run.config.checkpoint_keep
    return checkpoint.Saver(
        run.checkpoints, keep=keep, scores=start.scores, failed=not_saved, tell=note
    )


def _log(run: Run, start: _Start, loggers: Loggers) -> Log:
    return Log(
        run.workdir,
        first_step=start.step,
        total_steps=run.experiment.schedule.total_steps,
        log_every=run.config.log_every,
        batch_size=run.config.batch_size,
        quiet=jax.process_index() != 0,
        loggers=loggers,
        tell=note,
    )


def _seconds(run: Run, start: _Start) -> float:
    """That the run took so far, with its earlier parts."""
    return start.seconds + time.perf_counter() - run.began


def _each_step(
    run: Run,
    start: _Start,
    stop: StopRequest,
    loggers: Loggers,
    saver: checkpoint.Saver,
    log: Log,
    profile: Profile,
) -> tuple[TrainState, int, str | None]:
    """Batch, step, log, measure, save, again and again; returns state, last step, signal's name."""
    config, experiment = run.config, run.experiment
    train_step = make_train_step(
        experiment.method,
        experiment.optimizer,
        experiment.schedule.learning_rate,
        scheme=experiment.scheme,
        mesh=experiment.mesh,
        micro_batches=config.batch.micro_batches,
    )
    recording = Recording(experiment, run.workdir, start.step)
    total_steps = experiment.schedule.total_steps
    state, step, signal = start.state, start.step, None
    for step in range(start.step + 1, total_steps + 1):
        if step == 1 and loggers:
            views = picture_of_views(config, experiment.train, experiment.inputs.size)
            loggers.images(0, {"views": views})
        profile.before(step)
        batch = start.put(next(start.batches))
        if step == start.step + 1:
            note(
                "compiling the step (once; up to a minute); until it is done, Ctrl-C leaves at "
                "once and nothing is saved"
            )
            recording.compile(train_step, state, batch)
        look = recording.before(step, state)
        state, metrics, points = train_step(state, batch)
        if step == start.step + 1:
            keep_summary_of_shorter(run.workdir, start.step)  # compiled: from here on it is longer
        profile.after(step, metrics, log)
        stop.listen()  # compiled, and so far there was nothing to save
        log.step(step, metrics)
        saver.check()
        if look is not None:
            with stop.busy():
                look(state, batch, points, log)

        last, score = step == total_steps, None
        if config.knn_every and (last or is_due(config.knn_every, step)):
            with stop.busy():
                score = _watch(run, state, step, log, recording)
        improved = score is not None and score > saver.best

        signal = stop.reached(step, last=last)
        due = last or improved or signal is not None or is_due(config.checkpoint_every, step)
        if config.checkpoint_every and due:
            log.flush()  # the line of a saved step is on disk before its checkpoint
            check_still_there(run.workdir)
            record = {
                "position": start.batches.get_state(),
                "score": score,
                "scored_by": _scored_by(config),
                "loss": float(metrics["loss"]),
                "seconds": _seconds(run, start),
                "data": experiment.trained_on,
            }
            with log.paused(), stop.busy():
                saver.save(step, state, record)
        if signal is not None:
            break
    return state, step, signal


def _watch(run: Run, state: TrainState, step: int, log: Log, recording: Recording) -> float | None:
    """Measure while the run goes on; returns the accuracy by kNN, where there is one."""
    with log.paused():
        measured = measuring.watch(run.experiment, state, run.others)
    log.add(show=("knn",), **measured)
    recording.add(step, measured)
    return measured.get("knn")


def _last_not_saved(saver: checkpoint.Saver) -> checkpoint.CheckpointError:
    newest = "none" if saver.newest is None else saver.newest
    return checkpoint.CheckpointError(
        f"{saver.error}; the newest is {newest}. Make room: the same command goes on from there."
    )


def _diverged(error: Exception, saver: checkpoint.Saver, run: Run) -> DivergedError:
    """The same with the checkpoint before it, and what to change."""
    own = [name for name in (run.config.loss.name, run.config.method) if is_own(name)]
    of_loss = str(error).startswith(("loss ", "gradient_norm "))
    if own and of_loss and str(error).endswith("at step 1"):
        return DivergedError(
            f"{error}: {' or '.join(own)} gives NaN or infinity for the first batch, or has such a "
            "gradient; no learning rate has acted before it."
        )
    good = saver.newest
    where = "none" if good is None else f"{run.checkpoints / str(good)} (step {good}"
    if good is not None:
        loss = checkpoint.read_record(run.checkpoints, good).get("loss")
        where += ")" if loss is None else f", loss {loss:.4g})"
    return DivergedError(
        f"{error}; newest checkpoint before it: {where}. The same command would go the same "
        "way again: lower config.optimizer.learning_rate or raise the smallest temperature, in "
        "a new --workdir."
    )
