"""How long something takes on an accelerator, and lines of results that survive a crash.

Runs with JAX or with PyTorch: what is timed says itself how to wait for the device.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any


def milliseconds(
    wait: Callable[[Any], Any], start: Callable[..., Any], *arguments: Any, seconds: float = 0.5
) -> list[float]:
    """Times `start(*arguments)`, which may return before the device is done; `wait` waits for it.

    Several runs are started before waiting, so that starting them costs nothing where the device
    takes longer. Returns the milliseconds of one run, measured at least three times.
    """
    wait(start(*arguments))
    begin = time.perf_counter()
    wait(start(*arguments))
    once = time.perf_counter() - begin
    together = max(1, min(50, int(0.02 / once)))
    times, begin = [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begin < seconds and len(times) < 20):
        before = time.perf_counter()
        for _ in range(together):
            last = start(*arguments)
        wait(last)
        times.append((time.perf_counter() - before) / together * 1e3)
    return times


class Lines:
    """A file with one JSON object a line, written as soon as it is known."""

    def __init__(self, path: pathlib.Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        path.write_text("")

    def add(self, **numbers: Any) -> None:
        """Writes and prints one result."""
        with self._path.open("a") as file:
            file.write(json.dumps(numbers) + "\n")
        shown = {k: v for k, v in numbers.items() if k not in ("times", "detail")}
        print(json.dumps(shown), flush=True)
