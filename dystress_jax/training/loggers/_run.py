"""What every logger knows of a run, and what it does."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

Histograms = Mapping[str, tuple[np.ndarray, np.ndarray]]


class Begun(NamedTuple):
    """A run, or a part of one, that begins.

    Attributes:
        workdir: of the run.
        name: of the run.
        project: what the services put the run under.
        config: all settings, nested.
        hparams: the same by their full names, each a number, a text or a bool.
        first_step: steps done before.
        known_as: what the service has called the run in an earlier part; None: there was none.
        tell: shows a person what the logger cannot do, in one line.
    """

    workdir: pathlib.Path
    name: str
    project: str
    config: Mapping[str, Any]
    hparams: Mapping[str, Any]
    first_step: int
    known_as: str | None
    tell: Callable[[str], None]


@runtime_checkable
class Logger(Protocol):
    """Takes what a run tells.

    Attributes:
        known_as: what the service calls the run; None where the directory says it.
    """

    known_as: str | None

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step."""

    def histograms(self, step: int, shown: Histograms) -> None:
        """Show edges and counts by name."""

    def images(self, step: int, shown: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Show pictures by name."""

    def close(self, *, failed: bool) -> None:
        """End the run, or this part of it; `failed` where an error ends it."""
