"""The first run on any machine: SimCLR with the DySTreSS temperature on the embedded drawings.

    python train.py

One minute on two CPU cores. A six-layer ResNet learns from 2,814 emoji drawings by Google and
Twitter, without their labels; nearest neighbours then tell the category of 1,563 drawings by
Microsoft, the same concepts in a style that it has never seen. What to expect is in the README.

How these settings were chosen is in docs/results/quickstart.md; the temperature is the paper's for
ImageNet.
"""

from ml_collections import ConfigDict

from dystress_jax import run


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = run.defaults()
    config.batch_size = 128
    config.epochs = 36
    config.log_every = 10
    config.checkpoint_every = 210
    config.knn_every = 105  # five epochs
    config.optimizer.learning_rate = 0.1
    return config
