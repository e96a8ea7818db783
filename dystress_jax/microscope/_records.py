"""The records of a run: a small file each, written whole, and read into arrays with named axes."""

import contextlib
import io
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import look_up
from ..files import FileError, told, write_bytes
from ._look import KINDS

FOLDER = "microscope"
IMAGES = "watched.npz"


class Recorder:
    """Writes the records of a run; what cannot be written is left out, and told once.

    Args:
        workdir: of the run; records go to its folder `microscope`.
        first_step: steps done before this part of the run; records of later ones go.
        tell: shows a person what cannot be written, in one line.

    Raises:
        FileError: the folder cannot be made or read.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        first_step: int,
        tell: Callable[[str], None] = print,
    ):
        self._folder, self._tell, self._told = workdir / FOLDER, tell, False
        with told(self._folder, "written"):
            self._folder.mkdir(exist_ok=True)
            for path in _files(self._folder):
                if int(path.stem) > first_step:
                    path.unlink()

    def keep(self, images: Mapping[str, Any]) -> None:
        """Write which images are watched, as `about` says it."""
        with self._going_on():
            self._write(self._folder / IMAGES, images)

    def write(self, step: int, found: Mapping[str, Any]) -> None:
        """Write what was found at a step."""
        with self._going_on():
            self._write(self._record(step), found)

    def add(self, step: int, found: Mapping[str, Any]) -> None:
        """Write further numbers of a step into its record."""
        path = self._record(step)
        with self._going_on():
            with told(path, "read"):
                written = path.exists()
            if written:  # a record that could not be written has been told
                self._write(path, load(path) | dict(found))

    def _record(self, step: int) -> pathlib.Path:
        return self._folder / f"{step:08d}.npz"

    def _write(self, path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
        with told(self._folder, "written"):
            if not self._folder.is_dir():
                raise FileNotFoundError(2, "the folder was removed")
        write_bytes(path, as_bytes(arrays))

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except FileError as error:
            if not self._told:
                self._tell(f"{error} The run goes on without these records.")
            self._told = True


class Named(NamedTuple):
    """An array and the name of each of its axes.

    Attributes:
        values: of any shape.
        axes: one name an axis.
    """

    values: np.ndarray
    axes: tuple[str, ...]


class Records(NamedTuple):
    """What was recorded in a run.

    Attributes:
        steps: of the records, ascending.
        arrays: by name, the first axis is `step`; NaN where a record does not have the array.
        kinds: the names along the axis `kind`.
    """

    steps: np.ndarray
    arrays: dict[str, Named]
    kinds: tuple[str, ...] = KINDS

    @classmethod
    def of(cls, steps: np.ndarray, arrays: Mapping[str, np.ndarray]) -> "Records":
        """Records of these arrays, whose first axis is the step."""
        named = {n: Named(x, ("step", *_axes(n, x.ndim - 1))) for n, x in arrays.items()}
        return cls(steps, named)

    def __getitem__(self, name: str) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The values of an array."""
        return look_up(self.arrays, name, argument="name").values

    def of_kind(self, name: str, kind: str) -> np.ndarray:
        """The histograms [step bins] of one of the kinds."""
        numbers = {name: number for number, name in enumerate(self.kinds)}
        return self[name][:, look_up(numbers, kind, argument="kind")]


def unit_of(records: Records | None) -> tuple[float, float]:
    """What makes the value of a similarity, which logits have, of its place between -1 and 1.

    Args:
        records: of a run; None, or of an earlier version: as of a cosine.

    Returns:
        a and b of a s + b, for s on the scale of the cosine: 1 and 0 for one.

    Example:
        >>> places, values = np.array([[-1.0, 1.0]]), np.array([[-4.0, 4.0]])
        >>> edges = {"similarity_edges": places, "value_edges": values}
        >>> unit_of(Records.of(np.array([0]), edges))
        (4.0, 0.0)
    """
    if records is None or "value_edges" not in records.arrays:
        return 1.0, 0.0
    place, value = (records[f"{name}_edges"][-1][[0, -1]] for name in ("similarity", "value"))
    if not np.isfinite([*place, *value]).all():
        return 1.0, 0.0
    a = float(value[1] - value[0]) / float(place[1] - place[0])
    return round(a, 6), round(float(value[0]) - a * float(place[0]), 6)


def read(workdir: pathlib.Path | str) -> Records:
    """All records of a run.

    Args:
        workdir: of the run.

    Returns:
        The records, in the order of the steps. Histograms have the axes `step`, `kind` and their
        bins, edges and curves `step` and `edge`, what is said of the images that are `watched`
        `step`, `image` and `dimension`, single numbers `step`; `look` says what they are.

    Raises:
        FileError: there are no records, or one is no record.

    Example:
        >>> import tempfile
        >>> workdir = pathlib.Path(tempfile.mkdtemp())
        >>> recorder = Recorder(workdir, first_step=0)
        >>> recorder.write(10, {"entropy": np.float32(1.5), "tau": np.zeros((4, 255))})
        >>> records = read(workdir)
        >>> records.steps, records["entropy"], records.arrays["tau"].axes
        (array([10]), array([1.5], dtype=float32), ('step', 'kind', 'tau'))
    """
    return together({path: load(path) for path in paths_of(pathlib.Path(workdir))})


def folder_of(workdir: pathlib.Path) -> pathlib.Path:
    """Where the records of a run are."""
    return workdir / FOLDER


def paths_of(workdir: pathlib.Path) -> list[pathlib.Path]:
    """The files of the records of a run, in the order of the steps, at least one.

    Raises:
        FileError: there are none.
    """
    folder = folder_of(workdir)
    with told(folder, "read"):
        if not folder.is_dir():
            raise FileNotFoundError(2, "the run was told to record nothing, or is not there")
        paths = _files(folder)
        if not paths:
            raise FileNotFoundError(
                2, "it has no records: none was due yet, or the run records nothing"
            )
    return paths


def together(found: Mapping[pathlib.Path, Mapping[str, np.ndarray]]) -> Records:
    """The records of these files, at least one; arrays that do not fit the first are missing."""
    arrays = {}
    for name in dict.fromkeys(name for record in found.values() for name in record):
        like = next(record[name] for record in found.values() if name in record)
        kind = like.dtype if like.dtype.kind == "f" else np.float64
        missing = np.full(like.shape, np.nan, kind)
        given = [record.get(name, missing) for record in found.values()]
        arrays[name] = np.stack([x if x.shape == like.shape else missing for x in given])
    return Records.of(np.array([int(path.stem) for path in found]), arrays)


def _axes(name: str, count: int) -> tuple[str, ...]:
    if not count:
        return ()
    if name.endswith("_edges") or name.startswith("curve_"):
        return ("edge",)
    if name.startswith("watched_"):
        return ("image", "dimension")
    return ("kind", "similarity" if name == "gradient" else name)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob("*.npz") if path.stem.isdecimal())


def as_bytes(found: Mapping[str, Any]) -> bytes:
    """A file of arrays; of equal arrays equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in found.items():
            # A date of its own would make the files of two equal runs differ.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as entry:
                np.lib.format.write_array(entry, np.asarray(value), allow_pickle=False)
    return file.getvalue()


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
        FileError: it is damaged or not there.
    """
    with told(path, "read"):
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except OSError:
            raise
        except Exception as error:  # zipfile and NumPy have many kinds
            raise OSError(f"it is no whole .npz file ({type(error).__name__})") from error
