"""Write a page about one run or several: did it learn, what does the temperature do, what was it?

dystress report runs/quickstart
    writes report.html here; it opens without a network

dystress report runs/a runs/b runs/c --out=abc.html --open
    lays runs over one another, and opens the page; runs that differ in their seed only are a band

dystress report runs/tau
    about all runs in a directory: one row for all seeds of the same settings, means, standard
    deviations, and which differences seeds alone could make; --out=tau.md writes this table alone,
    --out=tau.csv a line for each run

dystress report --embeddings=z.npz
    of embeddings made anywhere: an .npz or .parquet with features [n d], or view_a and
    view_b [n d], and labels, class_names, images and captions as far as there are
"""

import argparse
import pathlib
import sys
import webbrowser
from collections.abc import Callable, Sequence

from .. import report, temperatures
from ..errors import UserError
from ..files import write_text
from . import missing, written


def main(argv: list[str]) -> None:
    """The command; `argv` is its name and its arguments."""
    assert __doc__ is not None
    command, *arguments = argv
    parser = argparse.ArgumentParser(
        prog=command, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", nargs="*", help="a run, finished or not, or a directory of runs")
    parser.add_argument("--workdir", action="append", default=[], dest="more", help="the same")
    parser.add_argument("--embeddings", action="append", default=[], help="a file of embeddings")
    parser.add_argument(
        "--tau",
        type=_positive,
        default=0.1,
        help="temperature of --embeddings; default: %(default)s",
    )
    parser.add_argument(
        "--out", default="report.html", help="the page, or a .md or a .csv; default: %(default)s"
    )
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    given = parser.parse_args(arguments)
    given.workdir += given.more
    if not given.workdir and not given.embeddings:
        parser.error("found nothing to report on; allowed: at least one WORKDIR, or --embeddings.")
    out = pathlib.Path(given.out).expanduser()
    try:
        write = _writer(out)
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except ModuleNotFoundError as error:
        sys.exit(missing("report", error))
    try:
        runs = report.gather(given.workdir)
        tau = temperatures.constant(given.tau)
        files = dict.fromkeys(
            pathlib.Path(file).expanduser().resolve() for file in given.embeddings
        )
        runs = report.told_apart(runs + [report.of_embeddings(file, tau) for file in files])
        content = write(runs)
        write_text(out, content)
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for run in runs:
        for text in run.missing:
            print(f"{run.name}: {text}", file=sys.stderr)
    print_overview(runs)
    print(written(out, content))
    if given.open:
        webbrowser.open(out.absolute().as_uri())


def print_overview(runs: Sequence[report.Run]) -> None:
    """The accuracies of several settings beside each other, where there are several.

    Args:
        runs: of `report.gather`.
    """
    found = report.overview(runs)
    if len(found.rows) > 1 and found.measures:
        print(f"{report.markdown(found)}\n")


def _writer(out: pathlib.Path) -> Callable[[list[report.Run]], str]:
    """What makes the content of a file, by the ending of its name."""
    ending = out.suffix.lower()
    if ending not in (".html", ".htm", ".md", ".csv"):
        raise UserError(f"--out: found {out}; allowed: a name that ends in .html, .md or .csv.")
    if ending == ".md":
        return lambda runs: f"{report.markdown(report.overview(runs))}\n"
    return report.as_csv if ending == ".csv" else report.page


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}; allowed: a number above 0")
    return value
