"""Train every combination of some settings, each with several seeds, and lay them side by side.

dystress sweep --over.temperature.tau=0.05,0.1,0.2 --config.temperature.name=constant
    the first run with three temperatures and three seeds each: 9 runs, into
    runs/quickstart_tau; the same command goes on after a break

dystress sweep --over.temperature.name=constant,dystress --over.temperature.tau=0.1,0.2 --seeds=5
    a setting that a run would ignore is left out: constant twice, dystress once

dystress sweep --over.method=simclr,moco_v2 --config=photos.py --print
    prints the commands that train the runs, a line each, and trains none: for a queue of jobs

What there is of a sweep is laid side by side at any time: dystress report runs/quickstart_tau
"""

import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from .. import report, run
from ..errors import end_with_the_pipe
from ..files import write_text
from ..run import cli, compiled_programs, config_files
from ..run.checks import put_back
from ..run.command_line import words
from ..run.fields import fields
from ..run.overrides import changed_by
from ..run.relevance import useless
from ..run.show import note
from ..run_files import ENDS
from . import train

WITH_VALUE = ("config", "workdir", "seeds")


def main(argv: list[str]) -> None:
    """The command; `argv` is its name and its flags."""
    cli.start(
        argv,
        described=f"{__doc__}\nConfigs by name: {', '.join(config_files.names())}",
        define=define,
        parse=parse,
        run=sweep,
        settings={"--config. or --over.": ""},
    )


def sweep(command: cli.Command) -> None:
    """Train the runs that the flags describe, and write how they compare."""
    args = flags.FLAGS
    settings, overridden = command.loose(args.config)
    runs = run.combinations(settings, command.over, seeds=args.seeds, overridden=overridden)
    varied = "_".join(map(run.short_name, command.over)) or "seeds"
    default = f"runs/{command.config_name}_{varied}"
    workdir = cli.directory(default if args.workdir is None else args.workdir)
    if args.print:
        end_with_the_pipe()
        for one in runs:
            flags_of_run = flags_of(one, workdir, command.given)
            print(shlex.join(["dystress", "train", *flags_of_run]))
        return
    note(f"settings: {len(runs) // args.seeds}, seeds of each: {args.seeds}; runs: {workdir}")
    print(compiled_programs.keep(), *command.put_back, *unused_by_all(settings, runs), sep="\n")
    try:
        done = run.sweep(runs, workdir)
    finally:  # an error in one run hides none of the others
        compare([workdir / one.name for one in runs], workdir)
    ended_by = lambda why: [name for name, summary in done.items() if why in summary]
    diverged, refused = ended_by("diverged"), ended_by("refused")
    complete = len(done) - len(diverged) - len(refused)
    if len(done) < len(runs) or refused:
        note(f"{complete} of {len(runs)} runs are complete; the same command goes on")
    if diverged:
        sys.exit(f"DivergedError: {len(diverged)} of {len(runs)} runs: {', '.join(diverged)}.")
    if refused:
        whys = {done[name]["refused"]: name for name in reversed(refused)}
        told = "\n".join(f"{name}: {why}" for why, name in whys.items())
        sys.exit(f"ConfigError: {len(refused)} of {len(runs)} runs, such as {told}")


def unused_by_all(settings: Mapping[str, Any], runs: Sequence[run.Combination]) -> list[str]:
    """What the flags have made useless of the config file for every run, a line each.

    Args:
        settings: of the file and the flags, unchecked.
        runs: of the sweep.
    """
    told = [put_back(changed_by(settings, one.changes)[0], one.config) for one in runs]
    return [line for line in told[0] if all(line in of_another for of_another in told)]


def compare(runs: Sequence[pathlib.Path], workdir: pathlib.Path) -> None:
    """Show and write how the runs compare that have come to an end, be it that they diverged.

    Args:
        runs: their directories, which need not be there.
        workdir: of the sweep; what else has ended in it, as of a larger grid, follows them.
    """
    there = sorted(file.parent for name in ENDS for file in workdir.glob(f"*/{name}"))
    ended = [run for run in dict.fromkeys([*runs, *there]) if run in there]
    found = report.gather(ended)
    if not found:
        return
    text = report.markdown(report.overview(found))
    print(f"\n{text}\n")
    write_text(workdir / "table.md", f"{text}\n")
    write_text(workdir / "runs.csv", report.as_csv(found))
    page = f"dystress report {shlex.quote(str(workdir))} --open"
    print(f"written: {workdir}/table.md, runs.csv; the page: {page}")


def flags_of(one: run.Combination, workdir: pathlib.Path, given: Sequence[str]) -> list[str]:
    """The flags with which `dystress train` trains a run of a sweep.

    Args:
        one: the run.
        workdir: of the sweep.
        given: the flags of the sweep, without what is varied.
    """
    dropped = {*WITH_VALUE[1:], "print", "noprint"}
    dropped |= {f"config.{name}" for name in (*one.changes, *useless(one.config))}
    # Options of what another name stands for in this run.
    holders = {f"config.{field.name}": field for field in fields() if field.takes_options}

    def has_no_use(flag: str) -> bool:
        begins = next((name for name in holders if flag.startswith(f"{name}.")), None)
        if begins is None:
            return flag in dropped
        option = flag.removeprefix(f"{begins}.").partition(".")[0]
        return flag in dropped or option not in holders[begins].value(one.config)

    of_all = words(given, WITH_VALUE.__contains__)
    kept = [word.text for word in of_all if not has_no_use(word.flag)]
    is_field = {field.name for field in fields()}
    said = lambda name, value: str(value) if name in is_field else repr(value)
    changes = [f"--config.{name}={said(name, value)}" for name, value in one.changes.items()]
    return [f"--workdir={workdir / one.name}", *kept, *changes]


def define() -> None:
    """The flags beside those of the settings."""
    flags.DEFINE_string(
        "workdir", None, "Where the runs are written; default: runs/ and what is varied."
    )
    flags.DEFINE_integer("seeds", 3, "Runs of each setting, from config.seed on.")
    flags.DEFINE_bool("print", False, "Print the command of each run, and run none.")


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Parse the flags and the settings; `--over` is taken out first."""
    arguments = command.read(cli.in_full(command.read_over(arguments), train.SHORT))
    arguments = config_files.find(arguments)
    command.config_name = config_files.name_of(arguments)
    return config_files.parse(arguments)
