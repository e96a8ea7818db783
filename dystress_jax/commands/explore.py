"""Write a page that shows what every temperature does, with sliders; it needs no network.

dystress explore
    writes explore.html here

dystress explore runs/quickstart --open
    draws the similarities of a run's last record as each temperature would weigh them, and opens it

dystress explore --out=docs/temperatures.html
    writes it elsewhere
"""

import argparse
import pathlib
import sys
import webbrowser

from .. import explorer, microscope
from ..errors import UserError
from ..files import write_text


def main(argv: list[str]) -> None:
    """The command; `argv` is its name and its arguments."""
    assert __doc__ is not None
    command, *arguments = argv
    parser = argparse.ArgumentParser(
        prog=command, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", nargs="?", help="a run with records of the microscope")
    parser.add_argument("--out", default="explore.html", help="the page; default: %(default)s")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    given = parser.parse_args(arguments)
    try:
        records = None if given.workdir is None else microscope.read(_path(given.workdir))
        name = "" if given.workdir is None else _path(given.workdir).absolute().name
        out = _path(given.out)
        write_text(out, explorer.page(records, name=name))
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(out)
    if given.open:
        webbrowser.open(out.absolute().as_uri())


def _path(path: str) -> pathlib.Path:
    return pathlib.Path(path).expanduser()
