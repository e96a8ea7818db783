"""MoCo v3 with a ViT-Small on ImageNet-1k: the authors' settings.

Paper: Chen et al., An Empirical Study of Training Self-Supervised Vision Transformers,
https://arxiv.org/abs/2104.02057. Settings: `CONFIG.md` and `main_moco.py` of
https://github.com/facebookresearch/moco-v3.

    dystress train --config=moco_v3_vit_imagenet --workdir=runs/moco_v3_vit_imagenet \
        --config.data.path=IMAGENET
    dystress eval --workdir=runs/moco_v3_vit_imagenet --evaluation=linear_probe

IMAGENET holds `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`. On GPUs and TPUs add
`--config.dtype=bfloat16`. With the DySTreSS temperature instead:
`--config.temperature.name=dystress`.

Published: 73.2 % linear-probe accuracy (top-1) after 300 epochs with batch 4096. Not measured here:
it takes accelerators. Differences: 1 % of the training images are kept out for the accuracy that is
shown during training.
"""

from ml_collections import ConfigDict

from dystress_jax import run


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = run.defaults()
    config.method = "moco_v3"
    config.batch_size = 4096
    config.epochs = 300
    config.log_every = 100
    config.checkpoint_every = config.knn_every = 3090  # ten epochs

    config.data.source = "folder"
    config.data.image_size = 256
    config.data.holdout = 0.01
    config.data.threads = 16
    config.augment.recipe = "moco_v3"
    config.augment.antialias = True
    config.augment.size = 224
    config.augment.mean = (0.485, 0.456, 0.406)
    config.augment.std = (0.229, 0.224, 0.225)

    config.model.name = "vit_small"
    config.model.patch = 16
    config.model.heads = 12
    config.model.freeze_patches = True
    config.projector.hidden = 4096
    config.projector.out = 256

    config.moco.momentum = 0.99
    config.moco.scale_by_tau = True
    config.temperature.name = "constant"
    config.temperature.tau = 0.2

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.rule = "linear"
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup_epochs = 40.0

    config.knn.k = 20
    return config
