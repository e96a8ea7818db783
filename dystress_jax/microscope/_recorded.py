"""What a run has recorded, as far as it can be read."""

import pathlib
from typing import NamedTuple

from ..files import FileError, told
from ._records import Records, folder_of, load, paths_of, together
from ._watched import Watched, watched


class Recorded(NamedTuple):
    """What a run has recorded.

    Attributes:
        records: those that can be read; None: there are none.
        images: those that the run watches; None: there are none.
        missing: what is not there or cannot be read, in sentences.
    """

    records: Records | None
    images: Watched | None
    missing: tuple[str, ...]


def of_run(workdir: pathlib.Path | str) -> Recorded:
    """What a run has recorded; `read` refuses what is damaged, here it is left out and named.

    Args:
        workdir: of the run, finished or not.

    Raises:
        FileError: the directory is not there, or is none of a run.

    Example:
        >>> import numpy as np
        >>> from dystress_jax import microscope
        >>> pathlib.Path("mine").mkdir()
        >>> recorder = microscope.Recorder(pathlib.Path("mine"), first_step=0)
        >>> recorder.write(10, {"entropy": np.float32(1.5)})
        >>> of_run("mine").missing
        ('No record has images that could be drawn as a map.',)
    """
    workdir = pathlib.Path(workdir)
    with told(workdir, "read"):
        if not workdir.is_dir():
            of_file = "it is a file; of embeddings: dystress report --embeddings=FILE"
            raise FileNotFoundError(
                2, of_file if workdir.is_file() else "there is no such directory"
            )
        if not any(workdir.glob("config.*")) and not folder_of(workdir).is_dir():
            raise FileNotFoundError(2, "it holds no run: neither settings nor records")
    missing, found = [], {}
    try:
        for path in paths_of(workdir):
            try:
                found[path] = load(path)
            except FileError as error:
                missing.append(f"{error} This record is left out.")
    except FileError as error:
        missing.append(str(error))
    if not found:
        return Recorded(None, None, tuple(missing))
    records, images = together(found), None
    try:
        images = watched(workdir, records)
    except FileError as error:
        missing.append(str(error))
    if images is None:
        missing.append("No record has images that could be drawn as a map.")
    return Recorded(records, images, tuple(missing))
