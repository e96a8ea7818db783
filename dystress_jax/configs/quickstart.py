"""The first run on any machine: SimCLR with the DySTreSS temperature on patches of photographs.

    dystress train

A minute or two on two CPU cores. A six-layer ResNet learns from 2,188 grey patches of 11
photographs, without their labels; nearest neighbours then tell which photograph each of 1,051 other
patches is from. All patches have the same histogram, so only structure helps. What to expect is in
the README.

How these settings were chosen is in docs/results/quickstart.md; the temperature is the paper's for
ImageNet.
"""

from ml_collections import ConfigDict

from dystress_jax import run


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = run.defaults()
    config.data.name = "patches"
    config.batch_size = 128
    config.epochs = 45
    config.log_every = 10
    config.checkpoint_every = 255
    config.knn_every = 85  # five epochs
    config.optimizer.learning_rate = 0.1
    config.knn.k = 20
    return config
