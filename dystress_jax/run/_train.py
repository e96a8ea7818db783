"""Training from start to end: data, state, steps, evaluation. No mathematics."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import tqdm
from PIL import Image

from .. import data, evaluation, sharding
from ..evaluation import Result
from ..files import leaving_nothing, write_json
from ..training import TrainState, checkpoint, make_train_step
from ..training.interrupt import StopRequest
from ..training.log import DivergedError, Log
from ..training.loggers import (
    NO_LOGGERS,
    Begun,
    LoggerError,
    Loggers,
    importable,
    open_loggers,
)
from ..training.processes import exchange, together
from ..training.resident import Resident, bytes_for_images, bytes_of_images
from . import evaluations, show, summary
from ._build import build, with_images
from ._environment import usable_jax
from ._own import Own, name_own
from ._recording import Recording, is_due
from ._same_images import check_same
from ._saved import CHECKPOINTS
from ._weights import begin_from, check_source
from ._workdir import SUMMARY_FILE, check_run, check_still_there, lock_workdir, write_run_files
from .config import Config, ConfigError
from .data import lines_about, reporting_unreadable_images, with_absolute_paths
from .evaluations import Evaluate, EvaluationError
from .experiment import Experiment
from .fields import differences, fields
from .inputs import picture_of_views
from .other_images import for_other_images, open_other
from .pictures import pictures, write_png
from .show import note
from .tables import find

# In these the processes of a run may differ.
_OF_A_PROCESS = ("data.path", "data.threads", "text.vocabulary", "zero_shot.class_names")


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
                run = _prepare(config, workdir, own)
                until_the_end.enter_context(lock_workdir(run.workdir, made))
            _compare_processes(run)
            start = _start(run)
            write_run_files(run.experiment, run.workdir, start.step)
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
        began = time.perf_counter()
        found, drawn = _measure(run, state)
        drawn |= _draw(run, state)
        numbers = {"steps": int(state.step), "seed": config.seed, **summary.of_results(found)}
        numbers["seconds"] = round(seconds + time.perf_counter() - began, 1)
        if jax.process_index() == 0:
            check_still_there(run.workdir)
            write_json(run.workdir / SUMMARY_FILE, numbers)
            _log_closing(loggers, found, drawn, int(state.step))
            print(_closing_table(run.experiment, found, numbers))
            print(f"to look at the run: dystress report {shlex.quote(_shown(run.workdir))}")
        return numbers


class _Start(NamedTuple):
    """Where this part of the run begins."""

    state: TrainState
    batches: grain.DatasetIterator
    put: Callable[[data.Batch], dict[str, jax.Array]]  # a batch onto the devices
    step: int
    seconds: float  # that earlier parts took


class _Run(NamedTuple):
    """What stays the same from the first step to the last."""

    began: float
    workdir: pathlib.Path
    experiment: Experiment
    evaluations: dict[str, Evaluate]
    asked: frozenset[str]  # of these, what somebody has asked for
    others: dict[str, Experiment]  # the same parts with further images to measure on

    @property
    def config(self) -> Config:
        return self.experiment.config

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / CHECKPOINTS


def _prepare(config: Config, workdir: pathlib.Path, own: Own) -> _Run:
    """Build every part; whatever cannot work fails here, before anything compiles."""
    began = time.perf_counter()
    config = name_own(with_absolute_paths(config), own)
    check_run(config, workdir)
    if config.init_from and not checkpoint.steps(workdir / CHECKPOINTS):
        check_source(config.init_from)  # told now, not when the images are open
    try:
        importable(config.loggers)  # told now, not when all is compiled
    except LoggerError as error:
        raise ConfigError(f"config.loggers: {error}") from error
    devices = jax.devices()
    note(f"devices: {len(devices)} x {devices[0].device_kind}; workdir: {workdir}")
    experiment = build(config, workdir, own=own)
    for line in lines_about(config, experiment.sources):
        note(line)
    named = [config.method, *([] if config.loss_name == "softmax" else [config.loss_name])]
    if experiment.scheme is not None:
        named += [f"temperature {config.temperature.name}"]
    length = f"{experiment.schedule.total_steps:,} steps of {config.batch_size:,}"
    note(f"{', '.join(named)}; {length}")
    if experiment.measured_split(lambda source: True) is None:
        note("no test or held-out images: nothing will be measured (config.data.holdout is 0)")
    if experiment.language is not None:
        note(f"vocabulary: {experiment.language.tokenizer.vocab_size:,} tokens")
        with contextlib.suppress(EvaluationError):
            evaluations.zero_shot_task(experiment)  # a wrong file is told now, not at the end
    asked, left_out = _asked_evaluations(config, own)
    if experiment.language is None:
        left_out = [*left_out, *evaluations.OF_TEXTS]
    table, names = evaluations.EVALUATIONS, evaluations.CLOSING
    closing = {name: table[name] for name in names if name not in left_out} | asked
    others = _on_other_images(experiment)
    return _Run(began, workdir, experiment, closing, frozenset(asked), others)


def _on_other_images(experiment: Experiment) -> dict[str, Experiment]:
    """The parts of the run with each of the further images that it is measured on."""
    others, shape = {}, experiment.train.image_shape
    without_own = experiment._replace(config=for_other_images(experiment.config))
    for name, on in experiment.config.eval_on.items():
        sources = open_other(experiment.config, on, shape, flag=f"config.eval_on.{name}")
        others[name] = with_images(without_own, sources)
        counts = ", ".join(f"{len(source):,} {split}" for split, source in sources.items())
        note(f"measured too on {name}: {counts}")
    return others


def _asked_evaluations(config: Config, own: Own) -> tuple[dict[str, Evaluate], list[str]]:
    """The evaluations that somebody has asked for, by name; and of the closing ones those not."""
    table, field = evaluations.EVALUATIONS, "config.evaluation"
    named = [name.strip() for name in config.evaluation.split(",") if name.strip()]
    left_out = [name.removeprefix("-") for name in named if name.startswith("-")]
    for name in left_out:
        if name not in evaluations.CLOSING:
            raise ConfigError(
                f"{field}: found {'-' + name!r}; allowed: - before what a run is measured by "
                f"without being asked, {', '.join(evaluations.CLOSING)}."
            )
    asked = {name: find(table, name, field=field) for name in named if not name.startswith("-")}
    asked |= evaluations.own_table(own.evaluations)
    evaluations.check_options(config, {n: f for n, f in asked.items() if n not in table})
    return asked, left_out


def _compare_processes(run: _Run) -> None:
    """Refuse processes that would train something else together.

    Raises:
        ConfigError: with the first difference to process 0.
    """
    settings = dataclasses.asdict(run.config)
    there = {
        "images": run.experiment.trained_on,
        "checkpoints in --workdir": checkpoint.steps(run.checkpoints),
    }
    (settings, there), *others = exchange("settings", (settings, there))
    for number, (theirs, seen) in enumerate(others, start=1):
        changes = differences(settings, theirs)
        found = {f"config.{n}": pair for n, pair in changes.items() if n not in _OF_A_PROCESS}
        found |= {n: (there[n], seen[n]) for n in there if there[n] != seen[n]}
        if found:
            shown = "; ".join(f"{name}: {a!r} and {b!r}" for name, (a, b) in found.items())
            raise ConfigError(
                f"processes 0 and {number} differ: {shown}. Start all with the same settings and "
                "images, and a --workdir that all of them see."
            )


def _start(run: _Run) -> _Start:
    """Restore the newest checkpoint that is whole, or begin."""
    experiment = run.experiment
    changed = check_same(experiment.trained_on, run.checkpoints)
    if changed:
        note(changed)
    restored = checkpoint.restore_newest(run.checkpoints, experiment.abstract_state())
    if restored is None:
        state, step, seconds = _first_state(run.config, experiment), 0, 0.0
    else:
        for reason, place in restored.damaged:
            note(f"{reason}; moved to {place}")
        state, step, seconds = restored.state, restored.step, restored.record["seconds"]
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
    return _Start(state, batches, put, step, seconds)


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
def _loggers(run: _Run, start: _Start) -> Iterator[Loggers]:
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


def _log_closing(
    loggers: Loggers, found: Mapping[str, Result], drawn: Mapping[str, Image.Image], step: int
) -> None:
    """The closing numbers, and the pictures that belong to them."""
    shown = {
        f"{name}/{row.name}": row.value for name, result in found.items() for row in result.rows
    }
    confusions = {
        f"{name}/confusion": evaluation.confusion_picture(result.confusion)
        for name, result in found.items()
        if result.confusion is not None and result.confusion.counts is not None
    }
    every = {**drawn, **confusions}
    loggers.scalars(step, shown)
    loggers.images(step, {name: np.asarray(x.convert("RGB")) for name, x in every.items()})


def _train_steps(
    run: _Run, start: _Start, stop: StopRequest, loggers: Loggers
) -> tuple[TrainState, int, float, str | None]:
    """Step until the end or a signal; returns state, last step, seconds so far, signal's name."""
    config, experiment = run.config, run.experiment
    total_steps, state, batches = experiment.schedule.total_steps, start.state, start.batches

    def seconds() -> float:
        return start.seconds + time.perf_counter() - run.began

    train_step = make_train_step(
        experiment.method,
        experiment.optimizer,
        experiment.schedule.learning_rate,
        scheme=experiment.scheme,
        mesh=experiment.mesh,
        micro_batches=config.batch.micro_batches,
    )
    best = max(checkpoint.scores(run.checkpoints).values(), default=0.0)
    goes_on = config.checkpoint_on_error == "continue" and jax.process_count() == 1

    def not_saved(error: checkpoint.CheckpointError) -> None:
        check_still_there(run.workdir)
        if not goes_on:
            raise error
        note(f"{error}; going on without it (config.checkpoint_on_error is continue)")

    saver = checkpoint.Saver(
        run.checkpoints, keep=config.checkpoint_keep, failed=not_saved, tell=note
    )
    log = Log(
        run.workdir,
        first_step=start.step,
        total_steps=total_steps,
        log_every=config.log_every,
        batch_size=config.batch_size,
        quiet=jax.process_index() != 0,
        loggers=loggers,
        tell=note,
    )
    recording = Recording(experiment, run.workdir, start.step)
    step, signal = start.step, None
    try:
        for step in range(start.step + 1, total_steps + 1):
            if step == 1 and loggers:
                views = picture_of_views(config, experiment.train, experiment.inputs.size)
                loggers.images(0, {"views": views})
            batch = start.put(next(batches))
            if step == start.step + 1:
                note(
                    "compiling the step (once; up to a minute); until it is done, Ctrl-C leaves at "
                    "once and nothing is saved"
                )
                recording.compile(train_step, state, batch)
            look = recording.before(step, state)
            state, metrics, points = train_step(state, batch)
            stop.listen()  # compiled, and so far there was nothing to save
            log.step(step, metrics)
            saver.check()
            if look is not None:
                look(state, batch, points, log)

            last, measured = step == total_steps, {}
            if config.knn_every and (last or is_due(config.knn_every, step)):
                with log.paused():
                    measured = evaluations.watch(experiment, state, run.others)
                log.add(show=("knn",), **measured)
                recording.add(step, measured)
            score = measured.get("knn")
            improved = score is not None and score > best
            best = max(best, score or 0.0)

            signal = stop.reached(step, last=last)
            due = last or improved or signal is not None or is_due(config.checkpoint_every, step)
            if config.checkpoint_every and due:
                log.flush()  # the line of a saved step is on disk before its checkpoint
                check_still_there(run.workdir)
                record = {
                    "position": batches.get_state(),
                    "score": score,
                    "loss": float(metrics["loss"]),
                    "seconds": seconds(),
                    "data": experiment.trained_on,
                }
                with log.paused():
                    saver.save(step, state, record)
            if signal is not None:
                break
        log.flush()
        saver.wait()
        if saver.error is not None:
            raise _last_not_saved(saver)
    except (DivergedError, evaluation.NotFiniteError) as error:
        with contextlib.suppress(checkpoint.CheckpointError):
            saver.wait()
        raise _diverged(error, saver, run.checkpoints) from error
    finally:
        log.close()
        with contextlib.suppress(checkpoint.CheckpointError):
            saver.wait()
        batches.close()
    return state, step, seconds(), signal


def _last_not_saved(saver: checkpoint.Saver) -> checkpoint.CheckpointError:
    newest = "none" if saver.newest is None else saver.newest
    return checkpoint.CheckpointError(
        f"{saver.error}; the newest is {newest}. Make room: the same command goes on from there."
    )


def _diverged(
    error: Exception, saver: checkpoint.Saver, checkpoints: pathlib.Path
) -> DivergedError:
    """The same with the checkpoint before it, and what to change."""
    good = saver.newest
    where = "none" if good is None else f"{checkpoints / str(good)} (step {good}"
    if good is not None:
        loss = checkpoint.read_record(checkpoints, good).get("loss")
        where += ")" if loss is None else f", loss {loss:.4g})"
    return DivergedError(
        f"{error}; newest checkpoint before it: {where}. The same command would go the same "
        "way again: lower config.optimizer.learning_rate or raise the smallest temperature, in "
        "a new --workdir."
    )


def _measure(run: _Run, state: TrainState) -> tuple[dict[str, Result], dict[str, Image.Image]]:
    """Everything that the run can be measured by, and a picture of what texts find."""
    found, embedded = {}, evaluations.embedded_by(run.experiment, state)
    measured_on = {"": (run.experiment, embedded)}
    for name, other in run.others.items():
        measured_on[f" on {name}"] = other, evaluations.embedded_by(other, state)
    every = [(on, name) for on in measured_on for name in run.evaluations]
    quiet = jax.process_index() != 0
    with tqdm.tqdm(total=len(every), dynamic_ncols=True, disable=quiet, leave=False) as bar:
        for on, name in every:
            bar.set_description(f"measuring {name}{on}")
            experiment, shared = measured_on[on]
            try:
                found[name + on] = evaluations.measure(
                    run.evaluations[name], experiment, state, name=name, embedded=shared
                )
            except EvaluationError as error:
                if name in run.asked:
                    note(f"{name}{on} is not measured: {error}")
            bar.update(1)
    if jax.process_index() == 0:
        summary.keep_confusions(run.workdir / "eval", found, int(state.step))
    if "retrieval" not in found:
        return found, {}
    # Every process embeds the texts.
    drawn = {"retrieval": evaluation.retrieval_grid(embedded(found["retrieval"].split))}
    _save(run, drawn)
    return found, drawn


def _shown(path: pathlib.Path) -> str:
    """A path as short as it can be given here."""
    here = pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _draw(run: _Run, state: TrainState) -> dict[str, Image.Image]:
    """Pictures of what the encoder makes of the images; every process encodes its share."""
    try:
        drawn = pictures(run.experiment, state)
    except evaluation.NotFiniteError as error:
        note(f"no pictures of the features: {error}")
        return {}
    _save(run, drawn)
    return drawn


def _save(run: _Run, drawn: Mapping[str, Image.Image]) -> None:
    for name, picture in drawn.items() if jax.process_index() == 0 else ():
        write_png(run.workdir / f"{name}.png", picture)


def _closing_table(
    experiment: Experiment, found: dict[str, Result], numbers: dict[str, Any]
) -> str:
    time_row = ("time of the run", f"{numbers['seconds']:.0f} s")
    if found:
        notes = [f"note: {name}: {n}" for name, result in found.items() for n in result.notes]
        return "\n".join([show.results(found, also=[time_row]), *notes])
    missing = "labelled or captioned test or held-out images"
    if experiment.measured_split(lambda source: source.has_labels) is not None:
        missing = "labelled training images"
    title = f"done (no {missing} to measure by)"
    return show.table([("steps", str(numbers["steps"])), time_row], title=title)
