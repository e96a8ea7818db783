"""Train: python train.py --config=configs/NAME.py --workdir=DIR [--config.FIELD=VALUE ...]."""

import difflib
import itertools
import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from dystress_jax import config, trainer
from dystress_jax.checkpoint import CheckpointError
from dystress_jax.report import DivergedError

HERE = pathlib.Path(__file__).parent


def main(arguments: list[str]) -> None:
    """Run the experiment that the flags describe."""
    logging.set_verbosity(logging.WARNING)
    if arguments[1:]:
        raise config.ConfigError(f"found {arguments[1:]}; allowed: flags, as --config=FILE")
    args = flags.FLAGS
    if args.distributed:
        jax.distributed.initialize(args.coordinator_address, args.num_processes, args.process_id)
    name = pathlib.Path(config_flags.get_config_filename(args["config"])).stem
    workdir = pathlib.Path(args.workdir or HERE / "runs" / name)
    trainer.train(config.from_config_dict(args.config), workdir)


def check_config_file(arguments: list[str]) -> None:
    """Answer to a config file that is not there before its fields are asked for."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        path = (value if equals else following).partition(":")[0]
        if flag in ("--config", "-config") and not pathlib.Path(path).is_file():
            names = sorted(file.stem for file in (HERE / "configs").glob("[!_]*.py"))
            near = difflib.get_close_matches(pathlib.Path(path).stem, names, n=1)
            hint = f" Did you mean configs/{near[0]}.py?" if near else ""
            raise config.ConfigError(
                f"--config: there is no file {path!r}.{hint} In {HERE / 'configs'}: "
                f"{', '.join(names)}."
            )


def parse(arguments: list[str]) -> list[str]:
    """Define and parse the flags, with our own answers to names that do not exist."""
    config.check_overrides(arguments)
    check_config_file(arguments)
    config_flags.DEFINE_config_file(
        "config",
        str(HERE / "configs" / "quickstart.py"),
        "The experiment; override its fields with --config.FIELD=VALUE.",
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
    return flags.FLAGS(arguments)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse)
    except (config.ConfigError, CheckpointError, DivergedError, flags.Error, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the newest checkpoint")
