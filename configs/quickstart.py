"""SimCLR with the DySTreSS temperature on the embedded drawings: the first run on any machine."""

from ml_collections import ConfigDict

from dystress_jax import config


def get_config() -> ConfigDict:
    """The settings of the run."""
    return config.defaults()
