"""Images that cannot be read: to stop at one, or to leave them out."""

import concurrent.futures
import dataclasses
import os

import numpy as np

from ..errors import ArgumentError
from ._source import Source

ON_ERROR = ("raise", "skip")


def check_on_error(on_error: str) -> None:
    """Refuse what says neither to stop at an image that cannot be read nor to leave it out."""
    if on_error not in ON_ERROR:
        raise ArgumentError("on_error", f"found {on_error!r}; allowed: {', '.join(ON_ERROR)}.")


def leave_out_unreadable(source: Source) -> Source:
    """Decode every image once, and keep those that can be read; the others are in `skipped`."""
    broken = find_unreadable(source)
    good = np.setdiff1d(np.arange(len(source)), list(broken))
    if not len(good):
        raise ArgumentError("path", f"no image can be read; the first fault: {broken[0]}.")
    return dataclasses.replace(source.take(good), skipped=tuple(broken.values()))


def find_unreadable(source: Source) -> dict[int, str]:
    """What is wrong with each example that cannot be read, by position; reads every image once."""

    def fault(row: int) -> str:
        try:
            source.gather(np.array([row]))
        except ValueError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return {row: what for row, what in enumerate(pool.map(fault, range(len(source)))) if what}
