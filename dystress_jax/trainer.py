"""Training from start to end: data, state, step, log, checkpoint, evaluation. No mathematics."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import tqdm

from . import checkpoint, data, evaluation, experiment, sharding
from . import config as config_lib
from .config import Config, ConfigError
from .interrupt import StopRequest
from .report import DivergedError, Report, table, write_json
from .state import TrainState, abstract_state, init_state
from .step import make_train_step

Encode = Callable[[TrainState, jax.Array], jax.Array]


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
    started = time.perf_counter()
    workdir = workdir.absolute()
    first_process = jax.process_index() == 0

    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.batch_size, mesh)
    _note(f"devices: {mesh.size} x {jax.devices()[0].device_kind}; workdir: {workdir}")

    sources = experiment.open_sources(config)
    source = sources["train"]
    sizes = ", ".join(f"{len(s):,} {split}" for split, s in sources.items())
    _note(f"images: {sizes}, {' x '.join(map(str, source.image_shape))}")

    schedule = experiment.make_schedule(config, source)
    method = experiment.make_method(config, source)
    optimizer = experiment.make_optimizer(config, schedule)
    encode = experiment.make_encode(config, method, source)
    train_step = make_train_step(method, optimizer, schedule.learning_rate, mesh=mesh)
    _remember_config(config, workdir, write=first_process)

    batches = data.batches(
        source,
        batch_size=config.batch_size,
        seed=config.seed,
        threads=config.data.threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    directory = workdir / "checkpoints"
    restored = checkpoint.restore_newest(directory, abstract_state(method, optimizer, mesh=mesh))
    if restored is None:
        first_step, state = 0, init_state(method, optimizer, seed=config.seed, mesh=mesh)
    else:
        for step, reason in restored.damaged:
            _note(f"{reason}; moved to {workdir / 'damaged' / str(step)}")
        _note(f"going on from the checkpoint at step {restored.step}")
        first_step, state = restored.step, restored.state
        batches.set_state(restored.position)

    def measure_knn(state: TrainState, split: str, bank_limit: int) -> float:
        bank = data.first(sources["train"], bank_limit)
        return evaluation.knn_accuracy(
            lambda images: encode(state.params, state.stats, images),
            bank,
            sources[split],
            k=config.knn.k,
            temperature=config.knn.temperature,
            mesh=mesh,
        )

    measured = _labelled(sources, "holdout")
    best = max(checkpoint.knn_by_step(directory).values(), default=0.0)
    saver = checkpoint.Saver(directory, keep=config.checkpoint_keep)
    report = Report(
        workdir,
        first_step=first_step,
        total_steps=schedule.total_steps,
        log_every=config.log_every,
        batch_size=config.batch_size,
        quiet=not first_process,
    )
    stopped = None
    try:
        with StopRequest() as stop:
            for step in range(first_step + 1, schedule.total_steps + 1):
                batch = sharding.shard_batch(next(batches), mesh)
                state, metrics = train_step(state, batch)
                report.step(step, metrics)
                stopped = stop.reached(step)

                knn = None
                if _due(config.knn_every, step) and measured:
                    knn = measure_knn(state, "holdout", config.knn.bank)
                    report.add(knn=knn)
                    report.pause()
                improved = knn is not None and knn > best
                ends = stopped is not None or step == schedule.total_steps
                if config.checkpoint_every and (
                    ends or improved or _due(config.checkpoint_every, step)
                ):
                    report.flush()  # the line of a saved step is on disk before its checkpoint
                    saver.save(step, state, batches.get_state(), knn=knn)
                    report.pause()
                best = max(best, knn or 0.0)
                if stopped is not None:
                    break
            report.flush()
    except DivergedError as error:
        last = saver.latest_step
        good = "none was saved" if last is None else f"{directory / str(last)}, at step {last}"
        raise DivergedError(
            f"{error}; last good checkpoint: {good}. The same command would go the same way again: "
            "lower config.optimizer.learning_rate or raise the smallest temperature, in a new "
            "--workdir."
        ) from error
    finally:
        report.close()
        saver.close()

    if stopped is not None:
        where = f"saved in {directory}" if config.checkpoint_every else "nothing saved"
        _note(f"{stopped}: stopped after step {step}, {where}; the same command goes on from there")
        return {"stopped_after": step}

    summary: dict[str, Any] = {"steps": schedule.total_steps}
    split = _labelled(sources, "test") or _labelled(sources, "holdout")
    if split:
        untrained = init_state(method, optimizer, seed=config.seed, mesh=mesh)
        summary |= {
            "knn_trained": measure_knn(state, split, 0),
            "knn_untrained": measure_knn(untrained, split, 0),
            "knn_raw_pixels": evaluation.knn_accuracy(
                evaluation.raw_pixels,
                sources["train"],
                sources[split],
                k=config.knn.k,
                temperature=config.knn.temperature,
                mesh=mesh,
            ),
            "knn_split": split,
        }
    summary["seconds"] = round(time.perf_counter() - started, 1)
    summary["seed"] = config.seed
    if first_process:
        write_json(workdir / "summary.json", summary)
        print(_closing_table(summary))
    return summary


def _closing_table(summary: dict[str, Any]) -> str:
    rows = [
        (label, f"{100 * summary[name]:.1f} %")
        for label, name in (
            ("trained encoder", "knn_trained"),
            ("same encoder, untrained", "knn_untrained"),
            ("raw pixels", "knn_raw_pixels"),
        )
        if name in summary
    ]
    time_row = ("time", f"{summary['seconds']:.0f} s")
    if not rows:
        return table([("steps", str(summary["steps"])), time_row], title="done (no labels)")
    return table([*rows, time_row], title=f"kNN accuracy, {summary['knn_split']} images")


def _labelled(sources: dict[str, data.Source], split: str) -> str | None:
    """The split's name if it exists and has labels, as has the training set."""
    known = all(s in sources and sources[s].num_classes for s in ("train", split))
    return split if known else None


def _remember_config(config: Config, workdir: pathlib.Path, *, write: bool) -> None:
    """Write config.json; refuse to go on with a run of another model or other data."""
    path = workdir / "config.json"
    new = dataclasses.asdict(config)
    if path.exists():
        changes = config_lib.differences(json.loads(path.read_text()), new)
        shown = {n: f"config.{n}: {a!r} -> {b!r}" for n, (a, b) in changes.items()}
        refused = [s for n, s in shown.items() if not config_lib.may_change_on_resume(n)]
        if refused and any((workdir / "checkpoints").glob("*")):
            raise ConfigError(
                f"{workdir} holds a run with other settings: {'; '.join(refused)}. "
                "Give the run's own settings to go on with it, or a new --workdir."
            )
        for change in shown.values():
            _note(f"changed since the last part of this run: {change}")
    if write:
        write_json(path, new)


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _note(text: str) -> None:
    if jax.process_index() == 0:
        tqdm.tqdm.write(text)
