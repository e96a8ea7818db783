"""SimCLR with the DySTreSS temperature on ImageNet-1k: the settings of the paper's public code.

Paper: Manna et al., Dynamically Scaled Temperature in Self-Supervised Contrastive Learning,
https://arxiv.org/abs/2308.01140.

    dystress train --config=simclr_imagenet --workdir=runs/simclr_imagenet \
        --config.data.path=IMAGENET
    dystress eval --workdir=runs/simclr_imagenet --evaluation=linear_probe

IMAGENET holds `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`. On GPUs and TPUs add
`--config.dtype=bfloat16`.

Published: 65.21 % linear-probe accuracy (top-1) after 100 epochs, one seed, reported second-hand.
Not measured here: it takes accelerators. As the code has it: the head ends in a BatchNorm with
scale and offset, residual scales start at 1, LARS is lightly's. Differences: 1 % of the training
images are kept out for the accuracy that is shown during training; the learning rate is a step
behind lightly's, whose warm-up starts at the first step and not at 0; linear layers start as Flax
has them by default.
"""

from ml_collections import ConfigDict

from dystress_jax import run


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = run.defaults()
    config.batch_size = 256
    config.epochs = 100
    config.log_every = 100
    config.checkpoint_every = config.knn_every = 5000

    config.data.source = "folder"
    config.data.image_size = 256
    config.data.holdout = 0.01
    config.data.threads = 16
    config.augment.recipe = "simclr"
    config.augment.antialias = True
    config.augment.size = 224
    config.augment.mean = (0.485, 0.456, 0.406)
    config.augment.std = (0.229, 0.224, 0.225)

    config.model.name = "resnet50"
    config.model.stem = "imagenet"
    config.model.zero_residual = False
    config.projector.name = "dystress_cifar"

    config.temperature.name = "dystress"
    config.temperature.tau_min = 0.1
    config.temperature.tau_max = 0.2

    config.optimizer.name = "lars"
    config.optimizer.form = "lightly"
    config.optimizer.learning_rate = 0.075
    config.optimizer.rule = "sqrt"
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-6
    config.optimizer.warmup_epochs = 10.0

    config.knn.k = 20
    return config
