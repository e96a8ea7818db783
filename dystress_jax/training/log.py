"""What a run tells while it runs: metrics.jsonl, TensorBoard events, a progress bar.

The log never waits for the step that runs: it fetches the numbers of the step before.
"""

import contextlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import tqdm
from jaxtyping import Array, Float
from tensorboardX import SummaryWriter

from ..errors import UserError
from ..files import write_text

METRICS_FILE = "metrics.jsonl"


class DivergedError(UserError, FloatingPointError):
    """The loss, its gradient or the parameters are no longer finite numbers."""


class Log:
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

    def add(self, *, show: Collection[str] = (), **scalars: float) -> None:
        """Add evaluation results to the line of the newest step, and show some beside the bar."""
        assert self._pending is not None
        self._pending[2].update(scalars)
        self._shown.update({k: f"{scalars[k]:.3f}" for k in show if k in scalars})

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


def _keep_lines_up_to(path: pathlib.Path, step: int) -> None:
    """Drop the lines after `step`, and a last line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    write_text(path, "".join(kept))
