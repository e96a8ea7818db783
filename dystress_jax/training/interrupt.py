"""Signals as a request: finish the step, save, leave."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from .processes import exchange

PATIENCE = 60.0  # seconds, beside five times as long as any step so far
# What a person, a scheduler (Slurm's --signal=USR1) and a terminal that closes send.
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class StopRequest:
    """A context in which signals are remembered instead of obeyed at once, from `listen` on.

    Before, there is nothing to save, and a signal does what it does elsewhere. A second Ctrl-C does
    that too; more of the other signals change nothing, since schedulers repeat them. A signal that
    is ignored, such as SIGHUP below `nohup`, stays so. With several processes, JAX's coordination
    service makes all of them stop after the same step. Where no step ends, since data do not come
    for example, the process says where it hangs and ends.

    Args:
        tell: called once, with what to show the person who asked.
    """

    def __init__(self, tell: Callable[[str], None]):
        self._tell = tell
        self._name: str | None = None
        self._before: dict[signal.Signals, object] = {}
        self._last, self._longest = time.monotonic(), 0.0  # end of a step, seconds of the longest
        self._hangs: threading.Timer | None = None
        self._over = False  # no step follows
        self._busy = False  # with what is no step and ends by itself

    def __enter__(self) -> "StopRequest":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_waiting()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def listen(self) -> None:
        """From now on remember signals; call it once there is something to save.

        Python lets the main thread alone listen to signals: in another one nothing changes.
        """
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in ASKING:
            # With several processes JAX listens to SIGTERM itself.
            theirs = number == signal.SIGTERM and jax.process_count() > 1
            if not theirs and signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._remember)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Around what is no step and may take as long as it takes: to measure, to save."""
        began, self._busy = time.monotonic(), True
        self._stop_waiting()
        yield  # where it fails, no step follows that could be waited for
        self._busy = False
        self._last += time.monotonic() - began  # it says nothing of how long steps take
        if self._name is not None:
            self._wait_for_the_step()

    def reached(self, step: int, *, last: bool = False) -> str | None:
        """The signal's name if the run shall stop after this step, else None.

        Args:
            step: the step that has just been taken.
            last: whether none follows.
        """
        now = time.monotonic()
        self._last, self._longest = now, max(self._longest, now - self._last)
        name = self._agreed(step)
        self._over = self._over or last or name is not None
        if self._over:
            self._stop_waiting()
        return name

    def asked(self) -> str | None:
        """The signal's name if one came until now, after the last step; every process asks."""
        return next((name for name in exchange("signal", self._name) if name), None)

    def _agreed(self, step: int) -> str | None:
        if jax.process_count() == 1:
            return self._name
        if not multihost_utils.reached_preemption_sync_point(step):
            return None
        names = exchange("signal", self._name)
        return next((name for name in names if name), signal.SIGTERM.name)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self._name is None:
            self._name = signal.Signals(number).name
            self._tell(f"{self._name}: finishing the step, then saving; Ctrl-C again quits at once")
            self._wait_for_the_step()
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)  # JAX tells the others
        # Not from here: this function waits until what runs outside Python has ended.
        before = self._before.get(signal.SIGINT)
        if before is not None:
            signal.signal(signal.SIGINT, before)  # pyright: ignore[reportArgumentType]

    def _wait_for_the_step(self) -> None:
        """End the process if no step ends in time."""
        if self._over or self._busy:
            return
        seconds = PATIENCE + 5 * self._longest
        main = threading.main_thread().ident
        self._hangs = threading.Timer(seconds, _end_where_it_hangs, (self._name, seconds, main))
        self._hangs.daemon = True
        self._hangs.start()

    def _stop_waiting(self) -> None:
        if self._hangs is not None:
            self._hangs.cancel()


def _end_where_it_hangs(name: str, seconds: float, thread: int) -> None:
    frame = sys._current_frames()[thread]
    where = traceback.extract_stack(frame)
    ours = [f for f in where if f"{os.sep}dystress_jax{os.sep}" in f.filename] or where
    print(
        f"{name}: no step has ended for {seconds:.0f} s; ended without saving. It hangs in "
        f"{ours[-1].filename}, line {ours[-1].lineno} ({ours[-1].line}), below that in "
        f"{where[-1].filename}, line {where[-1].lineno} ({where[-1].name}).",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
