"""MoCo v3 on CIFAR-10: the published method, in the surroundings of `moco_v2_cifar10`.

Paper: Chen et al., An Empirical Study of Training Self-Supervised Vision Transformers,
https://arxiv.org/abs/2104.02057, whose experiments are on ImageNet.

    dystress train --config=moco_v3_cifar10 --workdir=runs/moco_v3_cifar10
    dystress eval --workdir=runs/moco_v3_cifar10 --evaluation=knn

With the DySTreSS temperature instead: `--config.temperature.name=dystress`. With a ViT:
`--config.model.name=vit_tiny --config.model.freeze_patches=True --config.optimizer.name=adamw
--config.optimizer.learning_rate=1.5e-4 --config.optimizer.weight_decay=0.1`.

Published: the momentum from .99 to 1, heads 4096 wide with 256 outputs, the factor 2 tau, 10 epochs
of warm-up (facebookresearch/moco-v3); tau .2 on CIFAR-10 (solo-learn,
`scripts/pretrain/cifar/mocov3.yaml`, which reports 93.10 % with an online linear probe after
1,000 epochs of LARS). Ours: batch size, length, SGD, its learning rate and weight decay, and the
augmentation, all as in `moco_v2_cifar10`. Not measured here: it takes an accelerator.
"""

from ml_collections import ConfigDict

from dystress_jax import run


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = run.defaults()
    config.method = "moco_v3"
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
    config.projector.hidden = 4096
    config.projector.out = 256

    config.moco.momentum = 0.99
    config.moco.scale_by_tau = True
    config.temperature.name = "constant"
    config.temperature.tau = 0.2

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.06
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.warmup_epochs = 10.0
    return config
