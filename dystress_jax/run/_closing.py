"""The end of a run: its closing numbers, its pictures, and what a person is shown of them."""

import pathlib
import shlex
import time
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from PIL import Image

from .. import evaluation
from ..evaluation import Result
from ..files import write_json
from ..run_files import RESULTS, SUMMARY_FILE
from ..training import TrainState
from ..training.loggers import Loggers
from ..training.processes import exchange
from . import measuring, show, summary
from ._prepare import Run
from ._saved import digest_of
from ._splits import EvaluationError
from ._workdir import check_still_there
from .config import ConfigError
from .data import reporting_unreadable_images_of
from .experiment import Experiment
from .pictures import pictures, write_png
from .show import note


def close(run: Run, state: TrainState, loggers: Loggers, seconds: float) -> dict[str, Any]:
    """Measure a run, write `summary.json` and the pictures, and show what came out.

    Args:
        run: whose last step is done.
        state: after it.
        loggers: of the run.
        seconds: that the run took so far.

    Returns:
        The summary.

    Raises:
        NotMeasuredError: an evaluation refuses the images or the settings; what the others measure
            is written and shown before.
        FileError: something cannot be written.
    """
    began = time.perf_counter()
    found, drawn, refused = _measure(run, state)
    drawn |= _draw(run, state)
    numbers = {"steps": int(state.step), "seed": run.config.seed, **summary.of_results(found)}
    numbers["seconds"] = round(seconds + time.perf_counter() - began, 1)
    if not refused:  # else the run is not complete
        numbers["settings_digest"] = digest_of(run.config)
    if jax.process_index() == 0:
        check_still_there(run.workdir)
        write_json(run.workdir / SUMMARY_FILE, numbers)
        _log(loggers, found, drawn, int(state.step))
        print(closing_table(run.experiment, run.evaluations, found, numbers))
        print(f"to look at the run: dystress report {shlex.quote(_shown(run.workdir))}")
    exchange("closing", None)  # a process that fails ends the others: now all is written
    measuring.raise_together(refused)
    return numbers


def _measure(
    run: Run, state: TrainState
) -> tuple[dict[str, Result], dict[str, Image.Image], list[ConfigError]]:
    """Everything that the run can be measured by, a picture of what texts find, and refusals."""
    found, refused, shared_by_all = {}, [], measuring.shared_by(run.experiment, state)
    total, quiet = len(run.evaluations) * (1 + len(run.others)), jax.process_index() != 0
    with tqdm.tqdm(total=total, dynamic_ncols=True, disable=quiet, leave=False) as bar:

        def measure_each(experiment: Experiment, shared: dict[str, Any], on: str = "") -> None:
            for name, evaluate in run.evaluations.items():
                bar.set_description(f"measuring {name}{on}")
                try:
                    found[name + on] = measuring.measure(
                        evaluate, experiment, state, name=name, shared=shared
                    )
                except EvaluationError as error:
                    if name in run.asked:
                        note(f"{name}{on} is not measured: {error}")
                except ConfigError as error:  # the others may have what they need
                    refused.append(error)
                bar.update(1)

        measure_each(run.experiment, shared_by_all)
        for name, other in run.others.items():
            with reporting_unreadable_images_of(name, run.config.eval_on[name]):
                measure_each(other, measuring.shared_by(other, state), f" on {name}")
    if jax.process_index() == 0:
        summary.keep_confusions(run.workdir / RESULTS, found, int(state.step))
    if "retrieval" not in found:
        return found, {}, refused
    # Every process embeds the texts.
    drawn = {
        "retrieval": evaluation.retrieval_grid(shared_by_all["embedded"](found["retrieval"].split))
    }
    _save(run, drawn)
    return found, drawn, refused


def _draw(run: Run, state: TrainState) -> dict[str, Image.Image]:
    """Pictures of what the encoder makes of the images; every process encodes its share."""
    try:
        drawn = pictures(run.experiment, state)
    except evaluation.NotFiniteError as error:
        note(f"no pictures of the features: {error}")
        return {}
    _save(run, drawn)
    return drawn


def _save(run: Run, drawn: Mapping[str, Image.Image]) -> None:
    for name, picture in drawn.items() if jax.process_index() == 0 else ():
        write_png(run.workdir / f"{name}.png", picture)


def closing_table(
    experiment: Experiment,
    wanted: Collection[str],
    found: Mapping[str, Result],
    numbers: Mapping[str, Any],
) -> str:
    """What a person sees at the end: the results, or why there are none.

    Args:
        experiment: the parts of the run.
        wanted: the evaluations that were to be measured.
        found: what they gave.
        numbers: of the summary.
    """
    time_row = ("time of the run", f"{numbers['seconds']:.0f} s")
    if found:
        notes = [f"note: {name}: {n}" for name, result in found.items() for n in result.notes]
        return "\n".join([show.results(found, also=[time_row]), *notes])
    if not wanted:
        title = "done (nothing was to be measured: config.evaluation)"
        return show.table([("steps", str(numbers["steps"])), time_row], title=title)
    missing = "labelled or captioned test or held-out images"
    if experiment.measured_split(lambda source: source.has_labels) is not None:
        missing = "labelled training images"
    title = f"done (no {missing} to measure by)"
    return show.table([("steps", str(numbers["steps"])), time_row], title=title)


def _shown(path: pathlib.Path) -> str:
    """A path as short as it can be given here."""
    here = pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _log(
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
