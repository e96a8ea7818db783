"""Measure the encoder of a run; the numbers go to the terminal and to WORKDIR/eval.

dystress eval --workdir=runs/quickstart --evaluation=knn,linear_probe
    by two evaluations, on the test images of the run

dystress eval --workdir=runs/quickstart --evaluation=knn --config.knn.k=1,20,200
    with several settings of an evaluation, each of which is measured

dystress eval --workdir=runs/photos --evaluation=finetune --label_fraction=0.01,0.1 --seeds=3
    by fine-tuning with 1% and 10% of the labels, mean and deviation of three seeds

dystress eval --workdir=runs/photos --evaluation=knn --on.source=folder --on.path=~/sketches
    on other images, which may have other classes: learned from their training images, measured
    on their test images, or on those that --on.holdout keeps out
"""

from typing import Any

from absl import flags

from .. import run
from ..evaluation import Result
from ..files import FileError
from ..run import cli, compiled_programs, config_files, show, summary
from ..run.evaluations import EVALUATIONS
from ..run.measuring import SHORT
from ..run_files import RESULTS


def main(argv: list[str]) -> None:
    """The command; `argv` is its name and its flags."""
    cli.start(
        argv,
        described=__doc__,
        define=define,
        parse=parse,
        run=evaluate,
        settings={"--on.": "data.", "--config.": ""},
    )


def evaluate(command: cli.Command) -> None:
    """Evaluate the encoder of a run; the results go to the terminal and to DIR/eval."""
    args = flags.FLAGS
    workdir = cli.directory(args.workdir).absolute()
    settings = command.settings(args.config)
    for line in command.put_back:
        print(line)
    compiled_programs.keep()
    of = " ".join(
        str(command.on[name]) for name in ("source", "name", "path") if name in command.on
    )

    lost: list[FileError] = []

    def measured(name: str, result: Result, numbers: dict[str, Any]) -> None:
        on = f" of {of}" if of else ""
        print(show.results({name: result}, note=f"{on}, checkpoint {numbers['checkpoint_step']}"))
        print(*show.details(result), sep="\n", flush=True)
        try:
            path = summary.keep_result(
                workdir / RESULTS, name, args.checkpoint, numbers, result.confusion
            )
        except FileError as error:  # what is measured is told, and the others are measured
            lost.append(error)
            return
        print(f"protocol and numbers: {path}", flush=True)

    run.evaluate_all(
        workdir,
        args.evaluation,
        args.checkpoint,
        config=settings,
        given=command.overridden,
        on=command.on,
        measured=measured,
    )
    if lost:
        raise FileError("\n".join(map(str, lost))) from lost[0]


def define() -> None:
    """The flags beside those of the settings."""
    flags.DEFINE_string("workdir", None, "The run to evaluate.", required=True)
    flags.DEFINE_list(
        "evaluation",
        None,
        f"What to measure, or several: {', '.join(EVALUATIONS)}, or MODULE:OBJECT.",
        required=True,
    )
    flags.DEFINE_string("checkpoint", "newest", "newest, best (by kNN), or a step.")
    for flag, field in SHORT.items():
        flags.DEFINE_string(flag, None, f"The same as --config.{field}.")


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Parse the flags; `--config.FIELD` overrides the run's own config.json."""
    arguments = command.read(cli.in_full(command.read_on(arguments), SHORT))
    flags.FLAGS(arguments, known_only=True)
    config_files.define_run(cli.directory(flags.FLAGS.workdir), arguments)
    return config_files.parse_flags(arguments)
