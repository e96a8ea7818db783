"""Ctrl-C and SIGTERM as a request: finish the step, save, leave."""

import os
import signal
from collections.abc import Callable
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """A context in which Ctrl-C and SIGTERM are remembered instead of obeyed at once.

    A second Ctrl-C interrupts at once, by `KeyboardInterrupt`; more SIGTERMs change nothing, since
    schedulers repeat them. With several processes, JAX's coordination service makes all of them
    stop after the same step.

    Args:
        tell: called once, with what to show the person who asked.
    """

    def __init__(self, tell: Callable[[str], None]):
        self._tell = tell
        self._name: str | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if jax.process_count() == 1:
            self._handle(signal.SIGTERM, self._remember)
            self._handle(signal.SIGINT, self._remember)
        else:  # JAX listens to SIGTERM itself
            self._handle(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    @property
    def name(self) -> str | None:
        """The signal that asked this process to stop, if one did."""
        return self._name

    def reached(self, step: int) -> str | None:
        """The signal's name if the run shall stop after this step, else None."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            return "SIGTERM"
        return self._name

    def _handle(self, number: signal.Signals, handler) -> None:
        self._before[number] = signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self._name is None:
            self._name = signal.Signals(number).name
            self._tell(f"{self._name}: finishing the step, then saving; Ctrl-C again quits at once")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
