"""SimCLR with the DySTreSS temperature on CIFAR-10: the settings of the paper's public code.

Paper: Manna et al., Dynamically Scaled Temperature in Self-Supervised Contrastive Learning,
https://arxiv.org/abs/2308.01140.

    dystress train --config=simclr_cifar10 --workdir=runs/simclr_cifar10
    dystress eval --workdir=runs/simclr_cifar10 --evaluation=knn

Published: 85.68 % kNN accuracy (k 200) after 200 epochs, one seed, reported second-hand. Not
measured here: it takes an accelerator.

As the code has it (`smallscale/` of sadimanna/DySTreSS): the head ends in a BatchNorm, residual
scales start at 1, the cosine moves once an epoch, SGD has no momentum. Differences from it:

- 2 % of the training images are kept out for the accuracy that is shown during training; the code
  shows test accuracy and keeps the epoch where it is best.
- BatchNorm sees both views of a batch together; in the code each view is a batch of its own.
- The first convolution and the head's linear layers start as Flax has them by default, or with He's
  variance; in the code as PyTorch has them by default.
- The code trains a class that is not in the release; the head is that of the class which its
  evaluation loads the weights into.
- Its default for the temperature is a constant, tau_max; the dynamic one has to be named there.

The data set is read through tensorflow-datasets, without TensorFlow; to prepare it once takes an
environment that has it:

    tfds build cifar10 --file_format=array_record
"""

from ml_collections import ConfigDict

from dystress_jax import run


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = run.defaults()
    config.batch_size = 128
    config.epochs = 200
    config.log_every = 50
    config.checkpoint_every = config.knn_every = 3820  # ten epochs

    config.data.source = "tfds"
    config.data.name = "cifar10"
    config.data.holdout = 0.02
    config.augment.recipe = "simclr_cifar"
    config.augment.antialias = True
    config.augment.mean = (0.4914, 0.4822, 0.4465)
    config.augment.std = (0.2023, 0.1994, 0.2010)

    config.model.name = "resnet18"
    config.model.stem = "cifar"
    config.model.zero_residual = False
    config.projector.name = "dystress_cifar"

    config.temperature.name = "dystress"
    config.temperature.tau_min = 0.07
    config.temperature.tau_max = 0.2

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.2
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 5e-4
    config.optimizer.interval = "epoch"
    return config
