"""Several processes of one run: what they tell each other, and how they end together.

They talk through the key-value store of JAX's coordination service, which needs no device and no
compiler. With one process all of this does nothing.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

# The store has no public name up to JAX 0.12: `jax.distributed` only starts and ends the service,
# and what `multihost_utils` exchanges goes through the devices, where nothing says that one has
# ended.
from jax._src import distributed

from ..errors import UserError

WAIT_FOR_OTHERS = 1800.0  # seconds; they may read their data at different speeds
POLL = 0.5  # seconds
_ENDED = "dystress_jax/ended"
_calls = itertools.count()


class OtherProcessError(UserError, RuntimeError):
    """Another process of the run cannot go on, so this one does not either."""


def exchange(topic: str, mine: Any) -> list[Any]:
    """What each process says, in the order of the processes; every process must call it.

    Args:
        topic: what it is about, for the error.
        mine: what this process says; plain JSON.

    Raises:
        OtherProcessError: a process says nothing within half an hour.

    Example:
        >>> exchange("seed", 0)
        [0]
    """
    client = distributed.global_state.client
    if client is None:
        return [mine]
    key = f"dystress_jax/{next(_calls)}/{topic}"
    client.key_value_set(f"{key}/{distributed.global_state.process_id}", json.dumps(mine))
    said = []
    for process in range(distributed.global_state.num_processes or 1):
        try:
            text = client.blocking_key_value_get(f"{key}/{process}", int(1000 * WAIT_FOR_OTHERS))
        except Exception as error:  # of XLA
            raise OtherProcessError(f"process {process} has said nothing of its {topic}") from error
        said.append(json.loads(text))
    return said


@contextlib.contextmanager
def together(topic: str) -> Iterator[None]:
    """A part of the work that fails on every process if it fails on one.

    Args:
        topic: what it is about.

    Raises:
        OtherProcessError: with what another process has raised.

    Example:
        >>> with together("beginning"):
        ...     print("the images are there")
        the images are there
    """
    try:
        yield
    except Exception as error:
        exchange(topic, str(error) or type(error).__name__)
        raise
    for process, error in enumerate(exchange(topic, None)):
        if error is not None:
            raise OtherProcessError(f"process {process} cannot begin: {error}")


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """End this process where another one ends early, and the others where this one does.

    For scripts: a process that waits for one that is gone would wait for minutes, or for ever.

    Example:
        >>> with ending_together():
        ...     print("trained")
        trained
    """
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(done,), name="other processes")
    if has_joined():
        watch.start()
    try:
        yield
    except BaseException as error:
        done.set()
        _tell_others(str(error).partition("\n")[0] or type(error).__name__)
        raise
    finally:
        done.set()
        if watch.is_alive():
            watch.join()


def has_joined() -> bool:
    """Whether this process is one of several.

    Example:
        >>> has_joined()
        False
    """
    return jax.distributed.is_initialized()


def _watch(done: threading.Event) -> None:
    while not done.wait(POLL):
        ended = _try_get(_ENDED)
        if ended:
            print(f"ended: {ended}", file=sys.stderr, flush=True)
            os._exit(1)  # the other threads may wait for what never comes


def _tell_others(reason: str) -> None:
    client = distributed.global_state.client
    if client is None:
        return
    with contextlib.suppress(Exception):  # another process may have told first, or be gone
        client.key_value_set(_ENDED, f"process {distributed.global_state.process_id}: {reason}")
        if distributed.global_state.process_id == 0:
            time.sleep(4 * POLL)  # the service ends with this process


def _try_get(key: str) -> str | None:
    client = distributed.global_state.client
    try:
        return None if client is None else client.key_value_try_get(key)
    except Exception:  # of XLA: there is no such key
        return None
