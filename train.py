"""Train: python train.py --config=configs/NAME.py --workdir=DIR [--config.FIELD=VALUE ...]."""

import pathlib

import jax
from absl import flags, logging
from ml_collections import config_flags

from dystress_jax import run
from dystress_jax.run import cli

HERE = pathlib.Path(__file__).parent


def main(arguments: list[str], command: cli.Command) -> None:
    """Run the experiment that the flags describe."""
    logging.set_verbosity(logging.WARNING)
    if arguments[1:]:
        raise run.ConfigError(f"found {arguments[1:]}; allowed: flags, as --config=FILE")
    args = flags.FLAGS
    join_others(args)
    name = pathlib.Path(config_flags.get_config_filename(args["config"])).stem
    workdir = HERE / "runs" / name if args.workdir is None else args.workdir
    run.train(command.settings(args.config), cli.directory(workdir))


def join_others(args: flags.FlagValues) -> None:
    """Wait for the other processes of the run, if there are any."""
    known = "--coordinator_address=HOST:PORT --num_processes=N --process_id=I"
    process = (args.coordinator_address, args.num_processes, args.process_id)
    if not args.distributed:
        if process != (None, None, None):
            raise run.ConfigError(f"found one of {known}; allowed: with --distributed.")
        return
    try:
        jax.distributed.initialize(*process)
    except ValueError as error:
        raise run.ConfigError(
            f"--distributed: {error} Slurm, Open MPI, Kubernetes and Cloud TPU are recognised; "
            f"elsewhere add {known}."
        ) from error


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Define and parse the flags, with our own answers to names that do not exist."""
    arguments = command.read(arguments)
    cli.check_config_file(arguments, HERE / "configs")
    config_flags.DEFINE_config_file(
        "config",
        str(HERE / "configs" / "quickstart.py"),
        "The experiment; override its fields with --config.FIELD=VALUE.",
        sys_argv=arguments,
    )
    flags.DEFINE_string(
        "workdir", None, "Where the run is written, or continued; default: runs/NAME of the config."
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Join the other processes of this run first. Slurm, Open MPI, Kubernetes and Cloud TPU are "
        "recognised; elsewhere give the next three flags too.",
    )
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0.")
    flags.DEFINE_integer("num_processes", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "This one's number, from 0.")
    return cli.parse_flags(arguments)


if __name__ == "__main__":
    cli.start(
        main,
        parse,
        interrupted="interrupted; the same command goes on from the newest checkpoint there is",
    )
