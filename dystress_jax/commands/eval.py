"""Measure the encoder of a run; the numbers go to the terminal and to WORKDIR/eval.

dystress eval --workdir=runs/quickstart --evaluation=knn
    nearest neighbours, on the test images of the run

dystress eval --workdir=runs/quickstart --evaluation=linear_probe --checkpoint=best
    a linear classifier on the features of the best checkpoint

dystress eval --workdir=runs/quickstart --evaluation=knn --config.knn.k=20
    with a setting of the evaluation changed
"""

from absl import flags
from ml_collections import config_flags

from .. import run
from ..run import cli, show, summary
from ..run.evaluations import EVALUATIONS


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
    """Evaluate the encoder of a run; the result goes to the terminal and to DIR/eval."""
    args = flags.FLAGS
    name, workdir = args.evaluation, cli.directory(args.workdir).absolute()
    settings = command.settings(args.config)
    cli.keep_compiled_programs()
    result, numbers = run.evaluate(settings, workdir, name, args.checkpoint)
    path = summary.keep_result(workdir / "eval", name, args.checkpoint, numbers)
    print(show.results({name: result}, note=f", checkpoint {numbers['checkpoint_step']}"))
    print(f"protocol and numbers: {path}")


def define() -> None:
    """The flags beside those of the settings."""
    flags.DEFINE_string("workdir", None, "The run to evaluate.", required=True)
    flags.DEFINE_string(
        "evaluation",
        None,
        f"What to measure: {', '.join(EVALUATIONS)}, or MODULE:OBJECT.",
        required=True,
    )
    flags.DEFINE_string("checkpoint", "newest", "newest, best (by kNN), or a step.")


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Parse the flags; `--config.FIELD` overrides the run's own config.json."""
    arguments = command.read(arguments)
    flags.FLAGS(arguments, known_only=True)
    path = cli.directory(flags.FLAGS.workdir) / "config.json"
    if not path.is_file():
        raise run.ConfigError(f"--workdir: found no run in {path.parent} (no config.json)")
    base = run.to_config_dict(run.read_config(path))
    config_flags.DEFINE_config_dict(
        "config", base, "Override its fields with --config.FIELD=VALUE.", sys_argv=arguments
    )
    return cli.parse_flags(arguments)
