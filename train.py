"""Train: python train.py --config=configs/NAME.py --workdir=DIR [--config.FIELD=VALUE ...]."""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from dystress_jax import config, trainer
from dystress_jax.checkpoint import CheckpointError
from dystress_jax.report import DivergedError

HERE = pathlib.Path(__file__).parent
config_flags.DEFINE_config_file(
    "config",
    str(HERE / "configs" / "quickstart.py"),
    "The experiment; override with --config.FIELD.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run is written, or continued; default: runs/NAME of the config."
)


def main(_: list[str]) -> None:
    """Run the experiment that the flags describe."""
    logging.set_verbosity(logging.WARNING)
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = pathlib.Path(WORKDIR.value or HERE / "runs" / name)
    trainer.train(config.from_config_dict(flags.FLAGS.config), workdir)


def parse(arguments: list[str]) -> list[str]:
    """Parse the flags, with our own answer to a field that does not exist."""
    config.check_overrides(arguments)
    return flags.FLAGS(arguments)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse)
    except (config.ConfigError, CheckpointError, DivergedError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
