"""Files that are written whole or not at all, and read without surprises."""

import contextlib
import difflib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

from .errors import UserError


class FileError(UserError, OSError):
    """A file or directory that the system will not read or write."""


@contextlib.contextmanager
def told(path: pathlib.Path, doing: str) -> Iterator[None]:
    """Say in one line which file an error of the system is about, and why.

    Args:
        path: the file or directory.
        doing: what cannot be done, such as `written`.

    Raises:
        FileError: in place of an `OSError`.

    Example:
        >>> with told(pathlib.Path("a.json"), "written"):
        ...     raise PermissionError(13, "Permission denied")
        Traceback (most recent call last):
        dystress_jax.files.FileError: a.json cannot be written: Permission denied.
    """
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        alike = near(path) if isinstance(error, FileNotFoundError) else ""
        raise FileError(f"{path} cannot be {doing}: {error.strerror or error}.{alike}") from error


def near(path: str | os.PathLike) -> str:
    """The words `Did you mean PATH?` after a space if something of a like name is there.

    Args:
        path: of a file or directory that is not there.

    Example:
        >>> make_directory(pathlib.Path("photos/cats"), [])
        >>> near("phots/cats")
        ' Did you mean photos/cats?'
        >>> near("photos/cats"), near("elsewhere/cats")
        ('', '')
    """
    path = pathlib.Path(path)
    try:
        there = next(parent for parent in path.parents if parent.is_dir())
        first, *rest = path.relative_to(there).parts
        if (there / first).exists():
            return ""
        names = [name for name in os.listdir(there) if there.joinpath(name, *rest).exists()]
    except (OSError, ValueError, StopIteration):  # no path at all, or nobody may look
        return ""
    meant = [there.joinpath(name, *rest) for name in difflib.get_close_matches(first, names, n=1)]
    return f" Did you mean {meant[0]}?" if meant else ""


@contextlib.contextmanager
def leaving_nothing() -> Iterator[list[pathlib.Path]]:
    """Where the block fails, remove the directories that were made for it: those in the list.

    Example:
        >>> with leaving_nothing() as made:
        ...     make_directory(pathlib.Path("around/mine"), made)
        ...     raise KeyError("no")
        Traceback (most recent call last):
        KeyError: 'no'
        >>> pathlib.Path("around").exists()
        False
    """
    made: list[pathlib.Path] = []
    try:
        yield made
    except BaseException:
        for directory in made[-1:]:
            shutil.rmtree(directory, ignore_errors=True)
        for around in reversed(made[:-1]):
            with contextlib.suppress(OSError):  # somebody else has put something there
                around.rmdir()
        raise


def make_directory(directory: pathlib.Path, made: list[pathlib.Path]) -> None:
    """Make a directory, and those around it, if they are not there.

    Args:
        directory: its absolute path, or one from here.
        made: what was made is added, the outermost first.

    Raises:
        OSError: it cannot be made.

    Example:
        >>> made = []
        >>> make_directory(pathlib.Path("a/b"), made)
        >>> [path.as_posix() for path in made]
        ['a', 'a/b']
    """
    missing = [path for path in (directory, *directory.parents) if not path.is_dir()]
    for path in reversed(missing):
        path.mkdir()
        made.append(path)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file, whole or not at all; file names that are no UTF-8 are written escaped.

    Args:
        path: of the file; its folder is made if it is not there.
        text: what it shall hold.

    Raises:
        FileError: there is no room, no permission, or a directory of that name.

    Example:
        >>> write_text(pathlib.Path("notes/a.txt"), "trained")
        >>> pathlib.Path("notes/a.txt").read_text()
        'trained'
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Args:
        path: of the file; its folder is made if it is not there.
        content: what it shall hold.

    Raises:
        FileError: there is no room, no permission, or a directory of that name.

    Example:
        >>> write_bytes(pathlib.Path("a.bin"), bytes(3))
        >>> pathlib.Path("a.bin").stat().st_size
        3
    """
    # Of a name of its own: two processes may write the same file.
    draft = path.with_name(f".{secrets.token_hex(8)}.draft")
    with told(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("xb") as file:
                file.write(content)
            os.replace(draft, path)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write a JSON file, whole or not at all.

    Args:
        path: of the file; its folder is made if it is not there.
        content: what JSON can say.

    Raises:
        FileError: there is no room, no permission, or a directory of that name.

    Example:
        >>> write_json(pathlib.Path("a.json"), {"step": 3})
        >>> parse_json(pathlib.Path("a.json").read_bytes())
        {'step': 3}
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Args:
        text: UTF-8.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nested too deeply.

    Example:
        >>> parse_json('{"step": 3}')
        {'step': 3}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
