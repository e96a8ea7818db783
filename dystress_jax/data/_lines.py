"""UTF-8 text files, with errors that name the line."""

import pathlib

from ..errors import ArgumentError


def read_text(path: pathlib.Path) -> str:
    """The whole file, without a byte order mark.

    Raises:
        ArgumentError: the file cannot be read, or is no UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ArgumentError("path", f"cannot read {path}: {error.strerror}.") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ArgumentError(
            "path",
            f"{path}, line {line}: no UTF-8 text (byte 0x{raw[error.start]:02x}); save the file in "
            "UTF-8.",
        ) from error
