"""SimCLR with the DySTreSS temperature on ImageNet-100, a subset of 100 classes of ImageNet-1k.

Paper: Manna et al., Dynamically Scaled Temperature in Self-Supervised Contrastive Learning,
https://arxiv.org/abs/2308.01140.

    dystress train --config=simclr_imagenet100 --workdir=runs/simclr_imagenet100 \
        --config.data.path=IMAGENET100
    dystress eval --workdir=runs/simclr_imagenet100 --evaluation=linear_probe

As `simclr_imagenet.py`, for 200 epochs. Published: 78.78 % linear-probe accuracy (top-1), 78.82 %
with `--config.temperature.name=shifted_dystress`, one seed, reported second-hand. Not measured
here: it takes accelerators.
"""

from ml_collections import ConfigDict

from dystress_jax.configs import simclr_imagenet


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = simclr_imagenet.get_config()
    config.epochs = 200
    return config
