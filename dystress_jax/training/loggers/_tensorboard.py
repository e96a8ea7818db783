"""TensorBoard's file of events, in the directory of the run."""

import contextlib
import time
from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import UInt8
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.summary import histogram_raw, hparams, image, scalar

from ._run import Begun, Histograms

COMPARED = ("loss", "knn")  # the numbers beside the settings in the table of the runs


class TensorBoard:
    """TensorBoard's file; what cannot be written is left out, since metrics.jsonl has it too."""

    known_as: str | None = None

    def __init__(self, run: Begun):
        """Begin a file, or go on with another one."""
        self._prefix, self._tell = str(run.workdir / "events"), run.tell
        self._told, self._writer = False, None
        # A step that is written again replaces the events of the part that was lost.
        started = SessionLog(status=SessionLog.START)
        now, step = time.time(), run.first_step
        self._write([Event(step=step + 1, wall_time=now, session_log=started)])
        experiment, begun, self._ended = hparams(dict(run.hparams), dict.fromkeys(COMPARED))
        self._write([Event(step=step, wall_time=now, summary=s) for s in (experiment, begun)])
        self._last = step

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step."""
        self._summaries(step, [scalar(name, value) for name, value in numbers.items()])

    def histograms(self, step: int, shown: Histograms) -> None:
        """Show edges and counts by name."""
        made = []
        for name, (edges, counts) in shown.items():
            middles = (edges[1:] + edges[:-1]) / 2
            made.append(
                histogram_raw(
                    name,
                    min=edges[0],
                    max=edges[-1],
                    num=np.sum(counts),
                    sum=np.sum(counts * middles),
                    sum_squares=np.sum(counts * middles**2),
                    bucket_limits=edges[1:].tolist(),
                    bucket_counts=counts.tolist(),
                )
            )
        self._summaries(step, made)

    def images(self, step: int, shown: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Show pictures by name."""
        self._summaries(step, [image(name, x, dataformats="HWC") for name, x in shown.items()])

    def close(self, *, failed: bool) -> None:
        """End the file."""
        if not failed:
            self._summaries(self._last, [self._ended])
        self._close()

    def _summaries(self, step: int, made: Collection) -> None:
        now, self._last = time.time(), step
        self._write([Event(step=step, wall_time=now, summary=summary) for summary in made])

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()

    def _write(self, events: Collection[Event]) -> None:
        try:
            if self._writer is None:
                self._writer = EventsWriter(self._prefix)
            for event in events:
                self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            if not self._told:
                self._tell(f"TensorBoard events cannot be written: {error.strerror}")
            self._told = True
            self._close()
            self._writer = None  # half a record may be in the file: the next goes to a new one
