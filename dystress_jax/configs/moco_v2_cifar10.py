"""MoCo v2 on CIFAR-10: the settings of the authors' demo, with MoCo v2's head.

Papers: He et al., Momentum Contrast for Unsupervised Visual Representation Learning,
https://arxiv.org/abs/1911.05722; Chen et al., https://arxiv.org/abs/2003.04297. Settings:
`colab/moco_cifar10_demo.ipynb` of https://github.com/facebookresearch/moco.

    dystress train --config=moco_v2_cifar10 --workdir=runs/moco_v2_cifar10
    dystress eval --workdir=runs/moco_v2_cifar10 --evaluation=knn

With the DySTreSS temperature instead: `--config.temperature.name=dystress`.

Published: 82.6 % kNN accuracy (k 200) after 200 epochs, by the demo. Not measured here: it takes an
accelerator. Differences from the demo: a hidden layer in the head, as in MoCo v2 (the demo has one
linear layer); kNN on the encoder's features (there on the 128 outputs of the head); 2 % of the
training images are kept out for the accuracy that is shown during training; the demo's cosine is
an epoch ahead, so that its first epoch is already below the peak.

The data set is read through tensorflow-datasets, without TensorFlow; to prepare it once takes an
environment that has it:

    tfds build cifar10 --file_format=array_record
"""

from ml_collections import ConfigDict

from dystress_jax import run


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = run.defaults()
    config.method = "moco_v2"
    config.batch_size = 512
    config.epochs = 200
    config.log_every = 50
    config.checkpoint_every = config.knn_every = 950  # ten epochs

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
    config.projector.name = "moco_v2"
    config.projector.out = 128

    config.moco.queue_size = 4096
    config.moco.momentum = 0.99
    config.moco.bn_groups = 8
    config.temperature.name = "constant"
    config.temperature.tau = 0.1

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.06
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.interval = "epoch"
    return config
