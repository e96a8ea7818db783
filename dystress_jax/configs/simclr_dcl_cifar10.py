"""Decoupled contrastive learning (DCL) on CIFAR-10 with the settings of the DySTreSS paper's code.

    dystress train --config=simclr_dcl_cifar10 --workdir=DIR

The network, optimiser and augmentation of configs/simclr_cifar10.py with the loss of Yeh et al.,
arXiv 2110.06848, which leaves the positive out of the denominator. For a comparable setting (batch
128, 200 epochs, ResNet-18) and a constant temperature, lightly's documentation reports 84.4 % kNN
(published); nothing was measured here, it needs an accelerator.
"""

from ml_collections import ConfigDict

from dystress_jax.configs import simclr_cifar10


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = simclr_cifar10.get_config()
    config.loss.name = "dcl"
    return config
