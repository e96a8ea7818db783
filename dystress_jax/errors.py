"""Errors that name the argument at fault, so that callers can rename it."""

import difflib
import importlib.metadata
import json
import shlex
import signal
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

Entry = TypeVar("Entry")


class UserError(Exception):
    """An error that the user can fix; printed without a traceback."""


class ArgumentError(ValueError):
    """An argument that cannot be used.

    A function names its own arguments. Whoever called it with settings of another name, such as
    the fields of a config, says so by these names.

    Args:
        argument: the name of the argument.
        text: what was found, what is allowed, what to do. It names other arguments in single
            backticks.

    Example:
        >>> raise ArgumentError("tokens", "found 0; allowed: at least 1.")
        Traceback (most recent call last):
        dystress_jax.errors.ArgumentError: tokens: found 0; allowed: at least 1.
    """

    def __init__(self, argument: str, text: str):
        super().__init__(argument, text)
        self.argument, self.text = argument, text

    def __str__(self) -> str:
        """The name and the text."""
        return f"{self.argument}: {self.text}"


def look_up(table: Mapping[str, Entry], name: str, *, argument: str = "name") -> Entry:
    """The entry of a table, or an error that lists the known names.

    Args:
        table: what there is, by name.
        name: which one.
        argument: what the caller calls the name.

    Raises:
        ArgumentError: with the names that there are, the nearest one first.

    Example:
        >>> look_up({"dense": 1, "tiled": 2}, "tilde")
        Traceback (most recent call last):
        dystress_jax.errors.ArgumentError: name: found 'tilde'; allowed: dense, tiled. Did you
        mean tiled?
    """
    if name in table:
        return table[name]
    raise ArgumentError(
        argument, f"found {name!r}; allowed: {', '.join(table)}.{hint(name, table)}"
    )


def hint(name: str, known: Iterable[str]) -> str:
    """The words `Did you mean X?` after a space if a known name is near, else nothing.

    Args:
        name: what somebody has written.
        known: what is allowed.

    Example:
        >>> hint("resnet55", ["small", "resnet50"])
        ' Did you mean resnet50?'
    """
    named = {other.lower(): other for other in known}  # of another case is near
    near = difflib.get_close_matches(name.lower(), named, n=1)
    return f" Did you mean {named[near[0]]}?" if near else ""


def a_few(names: Sequence[str], at_most: int = 4) -> str:
    """The first of some names, and how many more there are, for a sentence.

    Args:
        names: what is told, at least one.
        at_most: how many in full, at least 1.

    Example:
        >>> a_few(["a", "b", "c"], at_most=2)
        'a, b and 1 more'
    """
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return f"{', '.join(names[:at_most])}{more}"


def how_to_install(extras: str) -> str:
    """The command that installs extras of this package, from where the package came from.

    Args:
        extras: one, or several with commas between them.

    Example:
        >>> how_to_install("report").startswith("pip install ")
        True
    """
    from urllib.request import url2pathname  # costs as much as all else here

    try:
        package = importlib.metadata.distribution("dystress-jax")
        origin = json.loads(package.read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = urllib.parse.urlsplit(origin.get("url", ""))
    if url.scheme != "file" or "dir_info" not in origin:
        return f"pip install 'dystress-jax[{extras}]'"
    # From a checkout: no index need have the package.
    editable = "-e " if origin["dir_info"].get("editable") else ""
    checkout = url2pathname(url.path)
    return f"pip install {editable}{shlex.quote(f'{checkout}[{extras}]')}"


def end_with_the_pipe() -> None:
    """Before text that a person may cut short, as with `| head`: end there without an error.

    Example:
        >>> before = signal.getsignal(signal.SIGPIPE)
        >>> end_with_the_pipe()
        >>> signal.signal(signal.SIGPIPE, before) is signal.SIG_DFL
        True
    """
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on; of a group its first one.

    Args:
        error: where to begin; of None there are none.

    Example:
        >>> error = ValueError("b")
        >>> error.__cause__ = KeyError("a")
        >>> list(causes(error))
        [ValueError('b'), KeyError('a')]
    """
    while error is not None:
        yield error
        within = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = within or error.__cause__ or error.__context__


def known(**arguments: Any) -> list[Any]:
    """Numbers that a program is written for, as Python has them; refuse what is traced.

    Of arrays, too: under `jax.jit` those that are known beforehand cannot be compared as they are.

    Args:
        **arguments: numbers by their names.

    Raises:
        ArgumentError: one is traced.

    Example:
        >>> known(margin=0.5)
        [0.5]
    """
    from jax.core import Tracer  # what is refused without JAX comes at once

    for argument, value in arguments.items():
        if isinstance(value, Tracer):
            raise ArgumentError(
                argument, "found a traced value; allowed: a number that is known beforehand."
            )
    return [x.item() if hasattr(x, "item") else x for x in arguments.values()]


def check_same_shape(name: str, shape: tuple, other: str, found: tuple) -> None:
    """Refuse arrays whose rows do not belong together one by one, before they are broadcast.

    Args:
        name: of the first argument.
        shape: its own.
        other: the name of the second argument.
        found: its shape.

    Raises:
        ArgumentError: they differ.

    Example:
        >>> check_same_shape("a", (3, 2), "b", (1, 2))
        Traceback (most recent call last):
        dystress_jax.errors.ArgumentError: b: found shape (1, 2); allowed: (3, 2), that of `a`: row
        i of both belongs to example i.
    """
    if found != shape:
        raise ArgumentError(
            other,
            f"found shape {found}; allowed: {shape}, that of `{name}`: row i of both belongs to "
            "example i.",
        )


def at_least_one(**arguments: int) -> None:
    """Refuse a size below 1, under the argument's name.

    Args:
        **arguments: sizes by their names, each at least 1.

    Raises:
        ArgumentError: one is below 1.

    Example:
        >>> at_least_one(patch=4, channels=0)
        Traceback (most recent call last):
        dystress_jax.errors.ArgumentError: channels: found 0; allowed: at least 1.
    """
    for argument, size in arguments.items():
        if size < 1:
            raise ArgumentError(argument, f"found {size}; allowed: at least 1.")
