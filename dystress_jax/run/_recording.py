"""What a run records of itself while it goes on, for the microscope."""

import concurrent.futures
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from .. import microscope
from ..training import TrainState
from ..training.log import Log
from ..training.watch import before, make_look
from ._watched import watch_images
from .experiment import Experiment
from .show import note

RECORDS, SHORTEST = 60, 10  # records of a run, about; steps between two of a short one
WATCH_EVERY = 5  # records between two that have the images that are watched


def is_due(every: int, step: int) -> bool:
    """Whether something that is done every so many steps, or never (0), is done at this one."""
    return every > 0 and step % every == 0


class Recording:
    """Records what the temperature does to the pairs of a step, every so many steps."""

    def __init__(self, experiment: Experiment, workdir: pathlib.Path, first_step: int):
        config, every = experiment.config, experiment.config.microscope.every
        self._last = experiment.schedule.total_steps
        self._every = max(SHORTEST, self._last // RECORDS) if every is None else every
        self._measured_every = config.knn_every
        self._look = self._compiled = None
        self._before = functools.partial(before, followers=experiment.method.followers)
        if self._every:
            self._look = make_look(
                experiment.method, scheme=experiment.scheme, mesh=experiment.mesh
            )
            if self._look is None:
                note(
                    "the microscope records no pairs, only where some images lie: the method "
                    f"{config.method} does not say what it compares (methods.Method.compared)"
                )
        self._recorder = None
        if jax.process_index() == 0:
            self._recorder = microscope.Recorder(workdir, first_step=first_step, tell=note)
        self._watched = watch_images(experiment) if self._every else None
        if self._recorder is not None and self._watched is not None:
            self._recorder.keep(self._watched.about)

    def compile(
        self, train_step: Callable[..., Any], state: TrainState, batch: dict[str, jax.Array]
    ) -> None:
        """Compile the look in a thread of its own, while the first step compiles.

        Not in several processes: they could wait for one another in another order.
        """
        if self._look is None or jax.process_count() > 1:
            return
        of_step = jax.eval_shape(train_step, state, batch)  # traced once: the call knows it
        lowered = self._look.lower(jax.eval_shape(self._before, state), batch, of_step[2])
        thread = concurrent.futures.ThreadPoolExecutor(1)
        self._compiled = thread.submit(lowered.compile)
        thread.shutdown(wait=False)

    def before(
        self, step: int, state: TrainState
    ) -> Callable[[TrainState, dict[str, jax.Array], dict[str, jax.Array], Log], None] | None:
        """What is to be called after the step, if there is to be a record of it."""
        look, watched, ends = self._look, self._watched, step in (1, self._last)
        if watched is None:
            return None
        if not (ends or is_due(self._every, step) or is_due(self._measured_every, step)):
            return None
        seen = None if look is None else self._before(state)

        def after(
            state: TrainState, batch: dict[str, jax.Array], points: dict[str, jax.Array], log: Log
        ) -> None:
            found = {}
            with log.paused():
                if look is not None:
                    called = look if self._compiled is None else self._compiled.result()
                    found = microscope.complete(jax.device_get(called(seen, batch, points)))
                if ends or is_due(self._every * WATCH_EVERY, step):
                    found |= watched.found(state)
            if self._recorder is not None:
                self._recorder.write(step, found)
            numbers = microscope.scalars(found)
            log.add(show=(), **{f"microscope_{name}": value for name, value in numbers.items()})
            log.histograms(step, microscope.histograms(found))

        return after

    def add(self, step: int, measured: Mapping[str, float]) -> None:
        """Keep what held-out images say of the encoder beside what the step says."""
        if self._recorder is not None and self._watched is not None:
            self._recorder.add(step, {name: np.float32(x) for name, x in measured.items()})
