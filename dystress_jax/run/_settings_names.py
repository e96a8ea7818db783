"""Settings in the names of files and directories."""

import hashlib
import re
from typing import Any

LONGEST_NAME = 120  # bytes that say which settings differ; file systems take 255


def in_a_name(value: Any) -> str:
    """A value as a part of a name, without what shells and file systems read in their own way.

    Example:
        >>> in_a_name("a photo of {}"), in_a_name((1, -5)), in_a_name(-1), in_a_name("")
        ('a-photo-of', '1+-5', '-1', 'none')
    """
    if isinstance(value, tuple | list):  # with - between them, numbers would look negative
        return "+".join(map(in_a_name, value)) or "none"
    text = re.sub(r"[^\w.+-]+", "-", str(value))
    return (text.strip("-") if isinstance(value, str) else text.rstrip("-")) or "none"


def number_of(settings: Any, digits: int = 12) -> str:
    """A number that is another one for any other settings.

    Example:
        >>> number_of({"seed": 1}) != number_of({"seed": 2}), len(number_of({}, 8))
        (True, 8)
    """
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:digits]
