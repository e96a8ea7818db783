"""Evaluate: python eval.py --workdir=DIR --evaluation=NAME [--config.FIELD=VALUE]."""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Libraries swallow a Ctrl-C while they are imported, and compilers do not hear it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from absl import flags, logging
from ml_collections import config_flags

from dystress_jax import run
from dystress_jax.run import cli, show, summary
from dystress_jax.run.evaluations import EVALUATIONS


def main(arguments: list[str], command: cli.Command) -> None:
    """Evaluate the encoder of a run; the result goes to the terminal and to DIR/eval."""
    logging.set_verbosity(logging.WARNING)
    if arguments[1:]:
        raise run.ConfigError(f"found {arguments[1:]}; allowed: flags, as --workdir=DIR")
    args = flags.FLAGS
    name, workdir = args.evaluation, cli.directory(args.workdir).absolute()
    settings = command.settings(args.config)
    cli.keep_compiled_programs()
    result, numbers = run.evaluate(settings, workdir, name, args.checkpoint)
    path = summary.keep_result(workdir / "eval", name, args.checkpoint, numbers)
    print(show.results({name: result}, note=f", checkpoint {numbers['checkpoint_step']}"))
    print(f"protocol and numbers: {path}")


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Define and parse the flags; `--config.FIELD` overrides the run's own config.json."""
    flags.DEFINE_string("workdir", None, "The run to evaluate.", required=True)
    flags.DEFINE_string(
        "evaluation",
        None,
        f"What to measure: {', '.join(EVALUATIONS)}, or MODULE:OBJECT.",
        required=True,
    )
    flags.DEFINE_string("checkpoint", "newest", "newest, best (by kNN), or a step.")
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


if __name__ == "__main__":
    cli.start(main, parse)
