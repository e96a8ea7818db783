"""Say what stands out in a run: each sentence with its rule, and a command that finds out more.

dystress advise runs/quickstart
    did it learn, is it still learning, how many negatives does the temperature listen to; a command
    below a sentence finds out more, and promises nothing

dystress advise runs/a runs/b
    what differs between runs, then what stands out in each

dystress advise runs/tau
    of a directory of runs, such as a sweep: which setting is best, and whether seeds could make the
    difference

The same sentences stand on the page that dystress report writes, with charts.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence

from .. import report
from ..errors import UserError, end_with_the_pipe
from .report import print_overview

WIDTH = 96  # of the lines; a command is never broken
FEW = 6  # runs at most, of which each is told by itself


def main(argv: list[str]) -> None:
    """The command; `argv` is its name and its arguments."""
    assert __doc__ is not None
    command, *arguments = argv
    parser = argparse.ArgumentParser(
        prog=command, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", nargs="*", help="a run, finished or not, or a directory of runs")
    parser.add_argument("--workdir", action="append", default=[], dest="more", help="the same")
    given = parser.parse_args(arguments)
    if not (workdirs := given.workdir + given.more):
        parser.error("found nothing to advise on; allowed: at least one WORKDIR.")
    try:
        runs = report.gather(workdirs)
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    end_with_the_pipe()
    print_overview(runs)
    if between := report.compare(runs):
        _say("between the runs", between)
    for run in runs if len(runs) <= FEW else ():
        _say(run.name, report.stand_out(run), run.missing)
    if len(runs) > FEW:
        print(f"{len(runs)} runs: name one to hear what stands out in it.")


def _say(title: str, sentences: Sequence[report.Sentence], missing: Sequence[str] = ()) -> None:
    print(f"{title}\n")
    if not sentences and not missing:
        print("  nothing stands out, by the rules\n")
    for text in missing:
        print(f"{_wrapped(text, '  ', '  ')}\n")
    for sentence in sentences:
        print(_wrapped(sentence.text, "- ", "  "))
        print(_wrapped(f"rule: {sentence.rule}", "    ", "          "))
        print(f"    more: {sentence.next}\n" if sentence.next else "")


def _wrapped(text: str, first: str, others: str) -> str:
    """The text in lines; no number stands in another line than its percent sign."""
    together = text.replace(" %", "\N{NO-BREAK SPACE}%")
    lines = textwrap.fill(together, WIDTH, initial_indent=first, subsequent_indent=others)
    return lines.replace("\N{NO-BREAK SPACE}", " ")
