"""Every method on a part of CIFAR-10, for two CPU cores: a minute or two a run.

    dystress train --config=cifar10_small:METHOD --workdir=DIR

METHOD is simclr (also without it), dcl, moco_v2 or moco_v3. The small network with the patch stem
sees 128,000 images in 1,000 steps. The temperature is the dynamic one; the constant in the middle
of its range is --config.temperature.name=constant --config.temperature.tau=0.15. What comes out,
with seeds, is in docs/results/cifar10.md, and how the settings were chosen.

CIFAR-10 through tensorflow-datasets, or from an .npz: --config.data.source=npz
--config.data.path=FILE.
"""

from ml_collections import ConfigDict

from dystress_jax import run


def get_config(method: str = "simclr") -> ConfigDict:
    """The settings of the run; `method` is what follows the colon in --config=FILE:METHOD."""
    config = run.defaults()
    config.batch_size = 128
    config.steps = 1000
    config.log_every = 50
    config.checkpoint_every = 500
    config.checkpoint_keep = 1
    config.knn_every = 0
    config.data.source = "tfds"
    config.data.name = "cifar10"
    config.data.holdout = 0.02
    config.data.limit = 10_000
    config.optimizer.learning_rate = 0.2
    config.probe.features = "cached"
    config.probe.learning_rates = (0.1, 1.0, 10.0)
    match method:
        case "simclr":
            pass
        case "dcl":
            config.loss.name = "dcl"
        case "moco_v2":
            config.method = "moco_v2"
            config.projector.name = "byol"
            config.moco.queue_size = 1024
            config.moco.momentum = 0.97
            config.moco.bn_groups = 4
            config.optimizer.learning_rate = 0.1
        case "moco_v3":
            config.method = "moco_v3"
            config.moco.momentum = 0.97
            config.optimizer.learning_rate = 0.5
        case _:
            raise ValueError(f"found {method!r}; allowed: simclr, dcl, moco_v2, moco_v3")
    return config
