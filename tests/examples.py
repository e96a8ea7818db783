"""What the examples of docstrings find: a directory of their own, with the runs that they name.

Nothing has trained in these runs, they only look so: what an example shows of them does not depend
on what was learned.
"""

import functools
import importlib
import pathlib
import re
import shutil
import tempfile

from dystress_jax import run
from tests import runs

STEPS = (255, 765)  # of the checkpoints of `dystress train`
DRAWINGS = "drawings"  # a run with the settings that nobody has changed


def prepare(docstring: str, directory: pathlib.Path) -> None:
    """Put copies of the runs that a docstring reads into a directory."""
    for name in dict.fromkeys(
        re.findall(r"runs/(quickstart|clip_quickstart|drawings)\b", docstring)
    ):
        shutil.copytree(_made(name), directory / "runs" / name, dirs_exist_ok=True)


@functools.cache
def _made(name: str) -> pathlib.Path:
    """Once in a process."""
    settings = run.defaults()
    if name != DRAWINGS:
        settings = importlib.import_module(f"dystress_jax.configs.{name}").get_config()
    workdir = pathlib.Path(tempfile.mkdtemp(), name)
    runs.saved(run.from_config_dict(settings), workdir, steps=STEPS)
    return workdir
