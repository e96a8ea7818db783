"""Training from start to end: data, state, steps, evaluation. No mathematics."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grain
import jax
import optax
import tqdm
from jax.sharding import Mesh

from . import checkpoint, data, evaluation, experiment, sharding
from . import config as config_lib
from .config import Config, ConfigError
from .interrupt import StopRequest
from .methods import Method
from .report import DivergedError, Report, table, write_json
from .state import TrainState, abstract_state, init_state
from .step import make_train_step


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
        ConfigError: the settings do not fit the data, the devices, or the run in ``workdir``.
        DivergedError: the loss became NaN or infinite.
        CheckpointError: there are checkpoints, but none can be used.
    """
    with StopRequest(_note) as stop:
        run = _prepare(config, workdir.absolute())
        start = _start(run)
        if jax.process_index() == 0:
            write_json(run.workdir / "config.json", dataclasses.asdict(run.config))
        state, last_step, seconds, signal = _train_steps(run, start, stop)
        if signal is not None:
            saved = f"saved in {run.checkpoints}; the same command goes on from there"
            _note(
                f"{signal}: stopped after step {last_step}, "
                + (saved if config.checkpoint_every else "nothing saved (checkpoint_every is 0)")
            )
            return {"stopped_after": last_step}
        began = time.perf_counter()
        summary = _summarize(run, state)
        summary["seconds"] = round(seconds + time.perf_counter() - began, 1)
        if jax.process_index() == 0:
            write_json(run.workdir / "summary.json", summary)
            print(_closing_table(summary))
        return summary


class _Run(NamedTuple):
    """What stays the same from the first step to the last."""

    began: float
    config: Config
    workdir: pathlib.Path
    mesh: Mesh
    sources: dict[str, data.Source]
    schedule: experiment.Schedule
    method: Method
    optimizer: optax.GradientTransformation
    encode: Callable[..., jax.Array]  # (params, stats, images) -> features

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def labelled(self, split: str) -> bool:
        """Whether accuracy can be measured on a split."""
        return all(s in self.sources and self.sources[s].has_labels for s in ("train", split))

    def knn(self, encode: Callable[[jax.Array], jax.Array], split: str) -> float:
        """The kNN accuracy of features on a split, among at most ``knn.bank`` training images."""
        return evaluation.knn_accuracy(
            encode,
            data.subset(self.sources["train"], self.config.knn.bank),
            self.sources[split],
            k=self.config.knn.k,
            temperature=self.config.knn.temperature,
            mesh=self.mesh,
        )

    def encoder(self, state: TrainState) -> Callable[[jax.Array], jax.Array]:
        return functools.partial(self.encode, state.params, state.stats)


def _prepare(config: Config, workdir: pathlib.Path) -> _Run:
    """Build every part; whatever cannot work fails here, before anything compiles."""
    began = time.perf_counter()
    if config.data.path:  # the run may go on, and be evaluated, from another directory
        path = str(pathlib.Path(config.data.path).absolute())
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=path))
    mesh = sharding.make_mesh()
    try:
        sharding.check_batch_size(config.batch_size, mesh)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from error
    _note(f"devices: {mesh.size} x {jax.devices()[0].device_kind}; workdir: {workdir}")
    sources = experiment.open_sources(config)
    source = sources["train"]
    counts = ", ".join(f"{len(s):,} {split}" for split, s in sources.items())
    _note(f"images: {counts}; {' x '.join(map(str, source.image_shape))}")
    schedule = experiment.make_schedule(config, source)
    method = experiment.make_method(config, source, mesh)
    optimizer = experiment.make_optimizer(config, schedule)
    encode = experiment.make_encode(config, method, source)
    _check_config(config, workdir)
    return _Run(began, config, workdir, mesh, sources, schedule, method, optimizer, encode)


class _Start(NamedTuple):
    """Where this part of the run begins."""

    state: TrainState
    batches: grain.DatasetIterator
    step: int
    seconds: float  # that earlier parts took


def _start(run: _Run) -> _Start:
    """Restore the newest checkpoint that is whole, or begin."""
    batches = data.batches(
        run.sources["train"],
        batch_size=run.config.batch_size,
        seed=run.config.seed,
        threads=run.config.data.threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    abstract = abstract_state(run.method, run.optimizer, mesh=run.mesh)
    restored = checkpoint.restore_newest(run.checkpoints, abstract)
    if restored is None:
        state = init_state(run.method, run.optimizer, seed=run.config.seed, mesh=run.mesh)
        return _Start(state, batches, 0, 0.0)
    for step, reason in restored.damaged:
        _note(f"{reason}; moved to {run.workdir / 'damaged' / str(step)}")
    experiment.check_images(restored.record["images"], run.sources["train"])
    done = restored.step >= run.schedule.total_steps
    _note(f"{'complete' if done else 'going on from the checkpoint'} at step {restored.step}")
    batches.set_state(restored.record["position"])
    return _Start(restored.state, batches, restored.step, restored.record["seconds"])


def _train_steps(
    run: _Run, start: _Start, stop: StopRequest
) -> tuple[TrainState, int, float, str | None]:
    """Step until the end or a signal; returns state, last step, seconds so far, signal's name."""
    config, total_steps = run.config, run.schedule.total_steps
    state, batches = start.state, start.batches

    def seconds() -> float:
        return start.seconds + time.perf_counter() - run.began

    train_step = make_train_step(
        run.method, run.optimizer, run.schedule.learning_rate, mesh=run.mesh
    )
    measured = run.labelled("holdout")
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
            batch = sharding.shard_batch(_next(batches), run.mesh)
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
                    "images": experiment.describe_images(run.sources["train"]),
                }
                with report.paused():
                    saver.save(step, state, record)
            if signal is not None:
                break
        report.flush()
    except DivergedError as error:
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


def _next(batches: grain.DatasetIterator) -> data.Batch:
    try:
        return next(batches)
    except (ValueError, OSError) as error:  # an image that cannot be read
        raise ConfigError(f"config.data: {error}") from error


def _summarize(run: _Run, state: TrainState) -> dict[str, Any]:
    """The closing numbers: on the test images, or on the held-out ones if there is no test."""
    summary: dict[str, Any] = {"steps": int(state.step), "seed": run.config.seed}
    split = next((s for s in ("test", "holdout") if run.labelled(s)), None)
    if split is not None:
        untrained = init_state(run.method, run.optimizer, seed=run.config.seed, mesh=run.mesh)
        summary |= {
            "knn_trained": run.knn(run.encoder(state), split),
            "knn_untrained": run.knn(run.encoder(untrained), split),
            "knn_raw_pixels": run.knn(evaluation.raw_pixels, split),
            "knn_split": split,
            "knn_bank": len(data.subset(run.sources["train"], run.config.knn.bank)),
        }
    return summary


def _closing_table(summary: dict[str, Any]) -> str:
    time_row = ("time", f"{summary['seconds']:.0f} s")
    if "knn_split" not in summary:
        rows = [("steps", str(summary["steps"])), time_row]
        return table(rows, title="done (no labelled test or held-out images to measure by)")
    rows = [
        (label, f"{100 * summary[name]:.1f} %")
        for label, name in (
            ("trained encoder", "knn_trained"),
            ("same encoder, untrained", "knn_untrained"),
            ("raw pixels", "knn_raw_pixels"),
        )
    ]
    return table([*rows, time_row], title=f"kNN accuracy, {summary['knn_split']} images")


def _check_config(config: Config, workdir: pathlib.Path) -> None:
    """Refuse to go on with a run of another model or other data."""
    path = workdir / "config.json"
    if checkpoint.steps(workdir / "checkpoints") and path.exists():
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
