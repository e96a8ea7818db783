"""What a run tells while it runs: metrics.jsonl, its loggers, a progress bar.

The log never waits for the step that runs: it fetches the numbers of the step before.
"""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from jaxtyping import Array, Float

from ..errors import UserError
from ..files import parse_json, told, write_bytes
from ..run_files import METRICS_FILE
from .loggers import NO_LOGGERS, Loggers


class DivergedError(UserError, FloatingPointError):
    """The loss, its gradient or the parameters are no longer finite numbers."""


class Log:
    """The log of one run; every logged step has one line in metrics.jsonl, also after a restart.

    Args:
        workdir: where metrics.jsonl goes.
        first_step: steps done before this part of the run; later lines of an earlier part go.
        total_steps: for the progress bar.
        log_every: steps between two lines; 0 = only lines with an evaluation. The last step of
            the run has a line unless this is 0.
        batch_size: images a step, for images/s.
        quiet: no files and no bar; for all processes but the first.
        loggers: where the numbers go too; whoever has opened them closes them.
        tell: shows a person what the log cannot do, in one line.

    Raises:
        FileError: metrics.jsonl cannot be written.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        first_step: int,
        total_steps: int,
        log_every: int,
        batch_size: int,
        quiet: bool = False,
        loggers: Loggers = NO_LOGGERS,
        tell: Callable[[str], None] = print,
    ):
        self._log_every, self._batch_size, self._quiet = log_every, batch_size, quiet
        self._total_steps, self._loggers = total_steps, loggers
        self._pending: tuple[int, Mapping[str, Any], dict[str, float]] | None = None
        self._shown: dict[str, str] = {}
        self._clock: tuple[int, float] | None = None  # step and time of the last rate
        self._idle = 0.0  # seconds that no rate counts
        self._bar: tqdm.tqdm | None = None  # from the second step on
        if not quiet:
            _keep_lines_up_to(workdir / METRICS_FILE, first_step, tell)
            self._lines = _Lines(workdir / METRICS_FILE, tell)

    def step(self, step: int, metrics: Mapping[str, Float[Array, ""]]) -> None:
        """Take the numbers of a step that may still run; write those of the step before.

        Raises:
            DivergedError: the step before has left the finite numbers, see `flush`.
        """
        self.flush()
        self._pending = (step, metrics, {})

    def add(self, *, show: Collection[str] = (), **scalars: float) -> None:
        """Add evaluation results to the line of the newest step, and show some beside the bar."""
        assert self._pending is not None
        step, _, extra = self._pending
        extra.update(scalars)
        self._shown.update({k: f"{scalars[k]:.3f} at {step}" for k in show if k in scalars})

    def histograms(self, step: int, shown: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Show histograms in the loggers.

        Args:
            step: of what they show.
            shown: edges and counts by name.
        """
        self._loggers.histograms(step, shown)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens meanwhile (an evaluation, a checkpoint) out of images/s.

        Raises:
            DivergedError: the newest step has left the finite numbers, see `flush`.
        """
        self._fetch()  # the step itself counts
        begin = time.perf_counter()
        yield
        self._idle += time.perf_counter() - begin

    def flush(self) -> None:
        """Wait for the newest step and write its line.

        Raises:
            DivergedError: its loss, or the norm of its gradient or of the parameters after it, is
                not finite.
        """
        self._fetch()
        if self._pending is None:
            return
        step, numbers, extra = self._pending
        self._pending = None
        self._advance(step)
        metrics = dict(numbers)
        due = self._log_every > 0 and (step % self._log_every == 0 or step == self._total_steps)
        now = time.perf_counter() - self._idle
        if self._clock is None:  # the first step compiles
            self._clock = (step, now)
        elif due or extra:
            rate = (step - self._clock[0]) * self._batch_size / (now - self._clock[1])
            metrics["images_per_second"] = rate
            self._shown["images/s"] = f"{rate:.0f}"
            self._clock = (step, now)
        if due or extra:
            self._write(step, {**metrics, **extra})

    def close(self) -> None:
        """Close the files and the bar."""
        if self._bar is not None:
            self._bar.close()
        if not self._quiet:
            self._lines.close()

    def _advance(self, step: int) -> None:
        """Show a step that has ended. The first one compiles: what remains says nothing of it."""
        if self._bar is not None:
            self._bar.update(1)
            return
        self._bar = tqdm.tqdm(
            total=self._total_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=self._quiet,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
        )

    def _fetch(self) -> None:
        """Wait for the numbers of the newest step."""
        if self._pending is None:
            return
        step, on_device, extra = self._pending
        metrics = {name: float(value) for name, value in jax.device_get(dict(on_device)).items()}
        for name in ("loss", "gradient_norm", "parameter_norm"):
            if not math.isfinite(metrics[name]):
                raise DivergedError(f"{name} is {metrics[name]} at step {step}")
        self._pending = (step, metrics, extra)

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix({"loss": f"{scalars['loss']:.3f}", **self._shown}, refresh=False)
        if self._quiet:
            return
        # JSON has no NaN, which is what a mean over no pairs is.
        known = {name: x if math.isfinite(x) else None for name, x in scalars.items()}
        self._lines.write(json.dumps({"step": step, **known}) + "\n")
        self._loggers.scalars(step, scalars)


class _Lines:
    """A file that grows by lines; what a full disk refuses is written as soon as there is room."""

    def __init__(self, path: pathlib.Path, tell: Callable[[str], None]):
        self._path, self._tell = path, tell
        self._waiting, self._told = b"", False
        with told(path, "written"):
            self._file = path.open("ab", buffering=0)

    def write(self, line: str) -> None:
        self._waiting += line.encode()
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not self._told:
                self._tell(
                    f"{self._path} cannot be written: {error.strerror}; its lines wait until it can"
                )
            self._told = True
        else:
            self._told = False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _keep_lines_up_to(path: pathlib.Path, step: int, tell: Callable[[str], None]) -> None:
    """Drop the lines after `step`, a last line that a kill cut short, and what is no line."""
    if not os.path.lexists(path):
        return
    with told(path, "read"):
        if not path.is_file():
            raise OSError("it is no file")
        lines = path.read_bytes().splitlines(keepends=True)
    kept, damaged = [], []
    for number, line in enumerate(lines, start=1):
        found = _step_of(line)
        if found is None or not line.endswith(b"\n"):
            damaged += [number] if line.endswith(b"\n") else []
        elif found <= step:
            kept.append(line)
    if damaged:
        tell(f"{path}: left out what is no line of a log: {', '.join(map(str, damaged))}")
    write_bytes(path, b"".join(kept))


def _step_of(line: bytes) -> int | None:
    """The step of a line of the log; None if it is damaged."""
    try:
        step = parse_json(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
