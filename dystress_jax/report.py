"""What a run tells: metrics.jsonl, TensorBoard events, a progress bar, JSON files.

The log never waits for the step that runs: it fetches the numbers of the step before.
"""

import contextlib
import itertools
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import tqdm
from jaxtyping import Array, Float
from tensorboardX import SummaryWriter

METRICS_FILE = "metrics.jsonl"


class DivergedError(FloatingPointError):
    """The loss, its gradient or the parameters are no longer finite numbers."""


class Report:
    """The log of one run; every logged step has one line in metrics.jsonl, also after a restart.

    Args:
        workdir: where metrics.jsonl and the TensorBoard events go.
        first_step: steps done before this part of the run; later lines of an earlier part go.
        total_steps: for the progress bar.
        log_every: steps between two lines; 0 = only lines with an evaluation. The last step of
            the run has a line unless this is 0.
        batch_size: images a step, for images/s.
        quiet: no files and no bar; for all processes but the first.
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
    ):
        self._log_every, self._batch_size, self._quiet = log_every, batch_size, quiet
        self._total_steps = total_steps
        self._pending: tuple[int, Mapping[str, Any], dict[str, float]] | None = None
        self._shown: dict[str, str] = {}
        self._clock: tuple[int, float] | None = None  # step and time of the last rate
        self._idle = 0.0  # seconds that no rate counts
        self._bar = tqdm.tqdm(
            total=total_steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=quiet,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
        )
        if not quiet:
            _keep_lines_up_to(workdir / METRICS_FILE, first_step)
            self._file = (workdir / METRICS_FILE).open("a")
            # A step that is written again replaces the events of the part that was lost.
            self._events = SummaryWriter(str(workdir), purge_step=first_step + 1)

    def step(self, step: int, metrics: Mapping[str, Float[Array, ""]]) -> None:
        """Take the numbers of a step that may still run; write those of the step before.

        Raises:
            DivergedError: the step before has left the finite numbers, see `flush`.
        """
        self.flush()
        self._pending = (step, metrics, {})
        self._bar.update(1)

    def add(self, **scalars: float) -> None:
        """Add evaluation results to the line of the newest step."""
        assert self._pending is not None
        self._pending[2].update(scalars)
        self._shown.update({k: f"{v:.3f}" for k, v in scalars.items()})

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
        self._bar.close()
        if not self._quiet:
            self._file.close()
            self._events.close()

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
        self._bar.set_postfix({"loss": f"{scalars['loss']:.3f}", **self._shown}, refresh=False)
        if self._quiet:
            return
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file, whole or not at all; file names that are no UTF-8 are written escaped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(draft, path)


def percent(share: float) -> str:
    """An accuracy in [0, 1] for the terminal."""
    return f"{100 * share:.1f} %"


def chance(share: float) -> str:
    """What guessing gets; often too little for a fixed number of decimals."""
    return f"chance {100 * share:.2g} %"


def table(rows: Sequence[tuple[str, ...]], *, title: str) -> str:
    """A table for the terminal: names to the left, numbers to the right, rows of any length.

    Example:
        >>> print(table([("trained", "50.1 %", "chance 10 %"), ("time", "8 s")], title="kNN"))
        kNN
        ------------------------------
        trained   50.1 %   chance 10 %
        time         8 s
    """
    columns = list(itertools.zip_longest(*rows, fillvalue=""))
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for name, *cells in zip(*columns, strict=True):
        aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("   ".join([f"{name:<{widths[0]}}", *aligned]).rstrip())
    return "\n".join([title, "-" * max(len(title), *map(len, lines)), *lines])


def _keep_lines_up_to(path: pathlib.Path, step: int) -> None:
    """Drop the lines after ``step``, and a last line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    draft = path.with_name(path.name + ".draft")
    draft.write_text("".join(kept))
    os.replace(draft, path)
