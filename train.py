"""Train: python train.py --config=configs/NAME.py --workdir=DIR [--config.FIELD=VALUE ...]."""

import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from dystress_jax import config, trainer
from dystress_jax.checkpoint import CheckpointError
from dystress_jax.report import DivergedError

HERE = pathlib.Path(__file__).parent
CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(HERE / "configs" / "quickstart.py"),
    "The experiment; override with --config.FIELD.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run is written, or continued; default: runs/NAME of the config."
)


def main(_: list[str]) -> None:
    """Run the experiment that the flags describe."""
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = pathlib.Path(WORKDIR.value or HERE / "runs" / name)
    trainer.train(config.from_config_dict(CONFIG.value), workdir)


def parse(arguments: list[str]) -> list[str]:
    """Parse the flags, with our own answer to a field that does not exist."""
    names = [a.lstrip("-").partition("=")[0] for a in arguments[1:] if a.startswith("-")]
    config.check_field_names(n.removeprefix("config.") for n in names if n.startswith("config."))
    return flags.FLAGS(arguments)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse)
    except (config.ConfigError, CheckpointError, DivergedError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
