"""Write a page that shows what every temperature does, with sliders; it needs no network.

dystress explore
    writes explore.html here

dystress explore runs/quickstart --open
    draws the similarities of a run's last record as each temperature would weigh them, its own
    first, with the hardest negatives of its images, and opens it; what is missing or damaged is
    said and left out

dystress explore --embeddings=z.npz
    the same of embeddings made anywhere: an .npz or .parquet with features [n d], or view_a
    and view_b [n d], and labels, class_names, images and captions as far as there are

dystress explore --out=docs/temperatures.html
    writes it elsewhere
"""

import argparse
import pathlib
import sys
import webbrowser
from typing import Any

from .. import explorer, microscope, temperatures
from ..errors import UserError
from ..files import parse_json, write_text
from ..run_files import SETTINGS_FILE
from . import written


def main(argv: list[str]) -> None:
    """The command; `argv` is its name and its arguments."""
    assert __doc__ is not None
    command, *arguments = argv
    parser = argparse.ArgumentParser(
        prog=command, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", nargs="?", help="a run, finished or not")
    parser.add_argument("--workdir", dest="more", help="the same")
    parser.add_argument("--embeddings", help="a file of embeddings in place of a run")
    parser.add_argument("--out", default="explore.html", help="the page; default: %(default)s")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    given = parser.parse_args(arguments)
    if given.workdir and given.more:
        parser.error("found two runs; allowed: one.")
    given.workdir = given.workdir or given.more
    if given.workdir is not None and given.embeddings is not None:
        parser.error("found a workdir and --embeddings; allowed: one of them.")
    try:
        name, records, images, missing, temperature = "", None, None, (), None
        if given.workdir is not None:
            records, images, missing = microscope.of_run(_path(given.workdir))
            name = _path(given.workdir).absolute().name
            temperature = _temperature(_path(given.workdir))
        elif given.embeddings is not None:
            images = microscope.read_embeddings(_path(given.embeddings))
            records = microscope.as_records(images, temperatures.constant(0.1))
            name, missing = _path(given.embeddings).stem, images.notes
        out = _path(given.out)
        content = explorer.page(
            records, name=name, images=images, missing=missing, temperature=temperature
        )
        write_text(out, content)
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for text in missing:
        print(f"{name}: {text}", file=sys.stderr)
    print(written(out, content))
    if given.open:
        webbrowser.open(out.absolute().as_uri())


def _temperature(workdir: pathlib.Path) -> Any:
    """The settings of a run's temperature, as far as they can be read."""
    try:
        return parse_json((workdir / SETTINGS_FILE).read_bytes())["temperature"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(path: str) -> pathlib.Path:
    return pathlib.Path(path).expanduser()
