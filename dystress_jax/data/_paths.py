"""How files and folders are named, and where links lead."""

import os
import pathlib
import unicodedata
from collections.abc import Iterable

from ..errors import ArgumentError
from ..files import near

# Of files that are taken for images. Others are told, so that none is missed.
SUFFIXES = (
    *(".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tif", ".tiff", ".webp"),
)
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "validation", "valid", "dev", "val")  # the first that is there
WRAPPINGS = 8  # folders around the data at most


def split_of(name: str) -> str:
    """The split that a folder, a file or a column calls so: train, or one to test on; "" = none.

    Example:
        >>> split_of("Training"), split_of("Val"), split_of("cats")
        ('train', 'val', '')
    """
    name = name.lower()
    return "train" if name in TRAIN_NAMES else name if name in TEST_NAMES else ""


def by_split(names: Iterable[str]) -> dict[str, str]:
    """The names that are those of splits, by split: train, then those to test on, best first.

    Raises:
        ArgumentError: two of them are names of the same split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split and split in found:
            raise ArgumentError(
                "path", f"found {found[split]} and {name}; allowed: one name of each split."
            )
        if split:
            found[split] = name
    return {split: found[split] for split in ("train", *TEST_NAMES) if split in found}


def composed(name: str) -> str:
    """The name with its accents composed: a Mac stores them decomposed, and both look alike."""
    return unicodedata.normalize("NFC", name)


def looks_like(path: str) -> str:
    """Words about a file that is there in place of a missing one and looks the same, or ""."""
    folder, name = os.path.split(path)
    try:
        there = os.listdir(folder or ".")
    except (OSError, ValueError):
        return ""
    for other in there:
        if other != name and composed(other) == composed(name):
            return (
                ", but one that looks the same: its accents are other characters of Unicode "
                f"({other!a} on the disk); write it as it is there, or rename it"
            )
    return ""


def find_root(path: str) -> pathlib.Path:
    """The folder at a path."""
    if not path or not os.path.isdir(path):
        alike = looks_like(path)
        raise ArgumentError(
            "path", f"there is no folder {path!r}{alike}.{'' if alike else near(path)}"
        )
    return pathlib.Path(path)


def part_folders(root: pathlib.Path) -> tuple[dict[str, pathlib.Path], list[pathlib.Path]]:
    """Where the training images are and, if there are any, the test images.

    Then the folders beside them, which are none of the data.

    Raises:
        ArgumentError: there is a part to test on, but none to train on; or both are one folder.
    """
    root = _unwrapped(root)
    folders = _folders(root)
    names = by_split(folders)
    if "train" not in names:
        if names:
            raise ArgumentError(
                "path", f"{root} has a folder {next(iter(names.values()))}, but no folder train."
            )
        return {"train": root}, []
    chosen = list(names.values())[:2]
    parts = {part: root / name for part, name in zip(("train", "test"), chosen, strict=False)}
    if len({os.path.realpath(folder) for folder in parts.values()}) < len(parts):
        raise ArgumentError("path", f"{' and '.join(chosen)} of {root} are the same folder.")
    return parts, [root / name for name in folders if name not in chosen]


def none_of_the_data(unused: Iterable[pathlib.Path]) -> list[str]:
    """A note of the folders beside those of the data, if there are any."""
    named = ", ".join(map(str, unused))
    return [f"folders that are none of the data: {named}"] if named else []


def _unwrapped(root: pathlib.Path) -> pathlib.Path:
    """The folder with the parts, where others are around it, as archives often have them."""
    inner = root
    for _ in range(WRAPPINGS):
        folders = _folders(inner)
        if by_split(folders):
            return inner
        if len(folders) != 1:
            break
        inner /= folders[0]
    return root


def _folders(folder: pathlib.Path) -> list[str]:
    """The names of the sub-folders that are not hidden; none where they cannot be read."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    return sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is for the system: also what a Mac adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def holds_images(folder: pathlib.Path) -> bool:
    """Whether there is any file below that is called like an image."""
    return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)


class Inside:
    """Whether files lie in a folder once all links are followed."""

    def __init__(self, root: str | os.PathLike):
        self._root = pathlib.Path(os.path.realpath(root))
        self._folders: dict[str, str] = {}  # most files share a few

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        try:
            if folder not in self._folders:
                self._folders[folder] = os.path.realpath(folder)
            real = os.path.join(self._folders[folder], name)
            if os.path.islink(real):
                real = os.path.realpath(real)
        except ValueError:  # no path at all, which whoever opens it is told
            return True
        return pathlib.Path(real).is_relative_to(self._root)
