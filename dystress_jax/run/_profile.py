"""Where the time of some steps goes, recorded by JAX for xprof and Perfetto."""

import pathlib
from typing import Any

import jax

from ..training.log import Log
from .show import note

AFTER = 2  # steps: the first compiles, and the second may read ahead still


class Profile:
    """Records some steps, once the first ones have been taken.

    Args:
        place: the directory for it, in that of the run.
        first_step: how many steps the run has taken when it begins, or goes on.
        steps: how many are recorded; 0 for none.
    """

    def __init__(self, place: pathlib.Path, *, first_step: int, steps: int):
        self._place, self._runs = place, False
        self._first = first_step + AFTER + 1
        self._last = self._first + steps - 1
        self._due = steps > 0 and jax.process_index() == 0

    def before(self, step: int) -> None:
        """Begin to record before the first of the steps."""
        if self._due and step == self._first:
            self._due = False
            try:
                jax.profiler.start_trace(self._place, create_perfetto_trace=True)
            except Exception as error:  # such as another profile in this process
                note(f"no profile (config.profile_steps): {error}")
            else:
                self._runs = True

    def after(self, step: int, made: Any, log: Log) -> None:
        """End after the last of the steps, once the devices have made what it returns."""
        if self._runs and step == self._last:
            jax.block_until_ready(made)
            with log.paused():
                self._stop(f"steps {self._first} to {step}")

    def close(self) -> None:
        """End where the run does."""
        if self._runs:
            self._stop(f"the steps from {self._first} on")
        elif self._due:
            note(f"no profile (config.profile_steps): the run ends before step {self._first}")

    def _stop(self, which: str) -> None:
        self._runs = False
        try:
            jax.profiler.stop_trace()
        except Exception as error:  # such as a full disk: the run goes on
            note(f"no profile (config.profile_steps): {error}")
            return
        [trace] = sorted(self._place.glob("plugins/profile/*/perfetto_trace.json.gz"))[-1:]
        note(f"profile of {which}: open {trace} at https://ui.perfetto.dev, or the run with xprof")
