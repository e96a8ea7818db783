"""Training from start to end: data, state, steps, evaluation. No mathematics."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import filelock
import grain
import jax
import tqdm

from . import checkpoint, data, evaluation, experiment, image_text, sharding, vocabulary
from . import config as config_lib
from .config import Config, ConfigError
from .experiment import Experiment
from .interrupt import StopRequest
from .report import DivergedError, Report, chance, percent, table, write_json, write_text
from .state import TrainState, init_state
from .step import make_train_step


@experiment.images_read_whenever()
def train(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Train, or go on with the run in ``workdir``, and write its closing numbers.

    Writes ``config.json``, ``metrics.jsonl``, TensorBoard events, ``checkpoints/`` and, at the
    end, ``summary.json``.

    Args:
        config: the settings, checked.
        workdir: made if it is not there; a run that it holds is continued.

    Returns:
        The summary; of a run that was asked to stop, only how far it got.

    Raises:
        ConfigError: the settings do not fit the data, the devices, or the run in ``workdir``, or
            another process is running there, or an image cannot be read.
        DivergedError: the loss became NaN or infinite.
        CheckpointError: there are checkpoints, but none can be used.
    """
    with contextlib.ExitStack() as until_the_end:
        with StopRequest(_note) as stop:
            run = _prepare(config, workdir.absolute())
            until_the_end.enter_context(_alone(run.workdir))
            start = _start(run)
            _write_beginnings(run)
            state, last_step, seconds, signal = _train_steps(run, start, stop)
            if signal is not None:
                saved = f"saved in {run.checkpoints}; the same command goes on from there"
                lost = "nothing saved (checkpoint_every is 0)"
                _note(
                    f"{signal}: stopped after step {last_step}, "
                    + (saved if config.checkpoint_every else lost)
                )
                return {"stopped_after": last_step}
        # All is saved: from here on a signal ends the run at once.
        began = time.perf_counter()
        summary = _summarize(run, state)
        summary["seconds"] = round(seconds + time.perf_counter() - began, 1)
        if jax.process_index() == 0:
            write_json(run.workdir / "summary.json", summary)
            print(_closing_table(summary))
        return summary


@contextlib.contextmanager
def _alone(workdir: pathlib.Path) -> Iterator[None]:
    """Hold the directory: two runs would write over each other.

    The system lets go of the lock when the process ends, however it ends.
    """
    if jax.process_index() != 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--workdir: {workdir} cannot be written ({error.strerror}); allowed: a directory, new "
            "or of an earlier run."
        ) from error
    lock = filelock.FileLock(workdir / ".lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ConfigError(
            f"--workdir: another run is writing to {workdir}. Wait for it, stop it, or give a new "
            "--workdir."
        ) from error
    try:
        yield
    finally:
        lock.release()


class _Run(NamedTuple):
    """What stays the same from the first step to the last."""

    began: float
    workdir: pathlib.Path
    parts: Experiment

    @property
    def config(self) -> Config:
        return self.parts.config

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def knn(self, encode: Callable[[jax.Array], jax.Array], split: str) -> float:
        """The kNN accuracy of features on a split, among at most ``knn.bank`` training images."""
        return evaluation.evaluate_knn(
            encode,
            data.subset(self.parts.train, self.config.knn.bank),
            self.parts.sources[split],
            k=self.config.knn.k,
            temperature=self.config.knn.temperature,
            mesh=self.parts.mesh,
        ).top1

    def encoder(self, state: TrainState) -> Callable[[jax.Array], jax.Array]:
        return functools.partial(self.parts.encode, state.params, state.stats)


def _prepare(config: Config, workdir: pathlib.Path) -> _Run:
    """Build every part; whatever cannot work fails here, before anything compiles."""
    began = time.perf_counter()
    config = experiment.with_absolute_paths(config)
    _check_config(config, workdir)
    devices = jax.devices()
    _note(f"devices: {len(devices)} x {devices[0].device_kind}; workdir: {workdir}")
    parts = experiment.build(config, workdir)
    counts = ", ".join(f"{len(s):,} {split}" for split, s in parts.sources.items())
    _note(f"images: {counts}; {' x '.join(map(str, parts.train.image_shape))}")
    loss = "" if config.method in ("moco_v2", "moco_v3") else f", {config.loss.name}"
    length = f"{parts.schedule.total_steps:,} steps of {config.batch_size:,}"
    _note(f"{config.method}{loss}, temperature {config.temperature.name}; {length}")
    if parts.measured_split(lambda source: True) is None:
        _note("no test or held-out images: nothing will be measured (config.data.holdout is 0)")
    if parts.language is not None:
        image_text.zero_shot_task(parts)  # a wrong file is told now, not at the end
        _note(f"vocabulary: {parts.language.tokenizer.vocab_size:,} tokens")
    return _Run(began, workdir, parts)


def _write_beginnings(run: _Run) -> None:
    """What the run is, once it is known to go on: settings, vocabulary, what was left out."""
    if jax.process_index() != 0:
        return
    write_json(run.workdir / "config.json", dataclasses.asdict(run.config))
    if run.parts.language is not None:
        run.parts.language.tokenizer.save(run.workdir / vocabulary.FILE)
    (run.workdir / "skipped.txt").unlink(missing_ok=True)
    skipped = [line for source in run.parts.sources.values() for line in source.skipped]
    if skipped:
        path = run.workdir / "skipped.txt"
        write_text(path, "\n".join(skipped) + "\n")
        _note(f"left out: {len(skipped)} that cannot be used, listed in {path}")


class _Start(NamedTuple):
    """Where this part of the run begins."""

    state: TrainState
    batches: grain.DatasetIterator
    step: int
    seconds: float  # that earlier parts took


def _start(run: _Run) -> _Start:
    """Restore the newest checkpoint that is whole, or begin."""
    parts = run.parts
    batches = data.batches(
        parts.train,
        batch_size=run.config.batch_size,
        seed=run.config.seed,
        threads=run.config.data.threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    experiment.check_data(parts, run.checkpoints)
    restored = checkpoint.restore_newest(run.checkpoints, parts.abstract_state())
    if restored is None:
        state = init_state(parts.method, parts.optimizer, seed=run.config.seed, mesh=parts.mesh)
        return _Start(state, batches, 0, 0.0)
    for step, reason in restored.damaged:
        _note(f"{reason}; moved to {run.workdir / 'damaged' / str(step)}")
    done = restored.step >= parts.schedule.total_steps
    _note(f"{'complete' if done else 'going on from the checkpoint'} at step {restored.step}")
    batches.set_state(restored.record["position"])
    return _Start(restored.state, batches, restored.step, restored.record["seconds"])


def _train_steps(
    run: _Run, start: _Start, stop: StopRequest
) -> tuple[TrainState, int, float, str | None]:
    """Step until the end or a signal; returns state, last step, seconds so far, signal's name."""
    config, parts, total_steps = run.config, run.parts, run.parts.schedule.total_steps
    state, batches = start.state, start.batches

    def seconds() -> float:
        return start.seconds + time.perf_counter() - run.began

    train_step = make_train_step(
        parts.method,
        parts.optimizer,
        parts.schedule.learning_rate,
        mesh=parts.mesh,
        micro_batches=config.batch.micro_batches,
    )
    holdout = parts.sources.get("holdout")
    measured = holdout is not None and parts.train.has_labels and holdout.has_labels
    best = max(checkpoint.knn_by_step(run.checkpoints).values(), default=0.0)
    saver = checkpoint.Saver(run.checkpoints, keep=config.checkpoint_keep)
    report = Report(
        run.workdir,
        first_step=start.step,
        total_steps=total_steps,
        log_every=config.log_every,
        batch_size=config.batch_size,
        quiet=jax.process_index() != 0,
    )
    step, signal = start.step, None
    try:
        for step in range(start.step + 1, total_steps + 1):
            batch = sharding.shard_batch(next(batches), parts.mesh)
            state, metrics = train_step(state, batch)
            report.step(step, metrics)
            last = step == total_steps

            knn = None
            if measured and (_due(config.knn_every, step) or (last and config.knn_every)):
                with report.paused():
                    knn = run.knn(run.encoder(state), "holdout")
                report.add(knn=knn)
            improved = knn is not None and knn > best
            best = max(best, knn or 0.0)

            signal = stop.reached(step)
            due = last or improved or signal is not None or _due(config.checkpoint_every, step)
            if config.checkpoint_every and due:
                report.flush()  # the line of a saved step is on disk before its checkpoint
                record = {
                    "position": batches.get_state(),
                    "knn": knn,
                    "seconds": seconds(),
                    "data": parts.trained_on,
                }
                with report.paused():
                    saver.save(step, state, record)
            if signal is not None:
                break
        report.flush()
    except (DivergedError, evaluation.NotFiniteError) as error:
        good = saver.latest_step
        where = "none was saved" if good is None else f"{run.checkpoints / str(good)} (step {good})"
        raise DivergedError(
            f"{error}; last good checkpoint: {where}. The same command would go the same way "
            "again: lower config.optimizer.learning_rate or raise the smallest temperature, in a "
            "new --workdir."
        ) from error
    finally:
        report.close()
        saver.close()
        batches.close()
    return state, step, seconds(), signal


def _summarize(run: _Run, state: TrainState) -> dict[str, Any]:
    """The closing numbers: on the test images, or on the held-out ones if there is no test."""
    summary: dict[str, Any] = {"steps": int(state.step), "seed": run.config.seed}
    parts = run.parts
    split = parts.measured_split(lambda source: source.has_labels)
    if split is not None and parts.train.has_labels:
        untrained = init_state(parts.method, parts.optimizer, seed=run.config.seed, mesh=parts.mesh)
        summary |= {
            "knn_trained": run.knn(run.encoder(state), split),
            "knn_untrained": run.knn(run.encoder(untrained), split),
            "knn_raw_pixels": run.knn(evaluation.raw_pixels, split),
            "knn_split": split,
            "knn_bank": len(data.subset(parts.train, run.config.knn.bank)),
        }
    if parts.language is not None:
        summary |= _summarize_pairs(run, state)
    return summary


def _summarize_pairs(run: _Run, state: TrainState) -> dict[str, Any]:
    """What clip is judged by: retrieval and zero-shot classification, and a picture of it."""
    parts, found = run.parts, {}
    embed = image_text.embedder(parts, state)
    split = image_text.captioned_split(parts)
    if split is not None:
        retrieval = evaluation.evaluate_retrieval(embed(split))
        found |= retrieval.recalls | {
            "retrieval_split": split,
            "retrieval_chance": retrieval.chance,
        }
        picture = evaluation.retrieval_grid(embed(split))  # every process embeds the texts
        if jax.process_index() == 0:
            picture.save(run.workdir / "retrieval.png")
    zero_shot = image_text.zero_shot(parts, embed)
    if zero_shot is not None:
        split, result = zero_shot
        found |= {
            "zero_shot_top1": result.top1,
            "zero_shot_top5": result.top5,
            "zero_shot_split": split,
            "zero_shot_classes": result.protocol["classes"],
            "zero_shot_chance": result.protocol["chance"],
        }
    return found


def _closing_table(summary: dict[str, Any]) -> str:
    tables = []
    if "knn_split" in summary:
        names = {
            "trained encoder": "knn_trained",
            "same encoder, untrained": "knn_untrained",
            "raw pixels": "knn_raw_pixels",
        }
        rows = [(label, percent(summary[name])) for label, name in names.items()]
        tables.append((f"kNN accuracy, {summary['knn_split']} images", rows))
    if "retrieval_split" in summary:
        rows = [
            (name.replace("_", " "), percent(summary[name]), chance(guessed))
            for name, guessed in summary["retrieval_chance"].items()
        ]
        tables.append((f"retrieval, {summary['retrieval_split']} images", rows))
    if "zero_shot_split" in summary:
        guessed = chance(summary["zero_shot_chance"])
        rows = [("top-1", percent(summary["zero_shot_top1"]), guessed)]
        rows += [("top-5", percent(summary["zero_shot_top5"]))]
        classes = f"{summary['zero_shot_classes']:,} classes"
        tables.append((f"zero-shot, {summary['zero_shot_split']} images, {classes}", rows))
    if not tables:
        title = "done (no labelled or captioned test or held-out images to measure by)"
        tables.append((title, [("steps", str(summary["steps"]))]))
    tables[-1][1].append(("time", f"{summary['seconds']:.0f} s"))
    return "\n\n".join(table(rows, title=title) for title, rows in tables)


def _check_config(config: Config, workdir: pathlib.Path) -> None:
    """Refuse to go on with a run of another model or other data."""
    path = workdir / "config.json"
    if checkpoint.steps(workdir / "checkpoints"):
        if not path.exists():
            raise ConfigError(
                f"--workdir: {workdir} has checkpoints but no config.json to say of which run; "
                "allowed: with it, or a new --workdir."
            )
        old = dataclasses.asdict(config_lib.read_json(path))
        changes = config_lib.differences(old, dataclasses.asdict(config))
        shown = {n: f"config.{n}: {a!r} -> {b!r}" for n, (a, b) in changes.items()}
        refused = [s for n, s in shown.items() if not config_lib.may_change_on_resume(n)]
        if refused:
            raise ConfigError(
                f"{workdir} holds a run with other settings: {'; '.join(refused)}. "
                "Give the run's own settings to go on with it, or a new --workdir."
            )
        for change in shown.values():
            _note(f"changed since the last part of this run: {change}")
        if {"epochs", "steps"} & set(shown):
            _note("the learning rates to come are those of a run of the new length")


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _note(text: str) -> None:
    if jax.process_index() == 0:
        tqdm.tqdm.write(text)
