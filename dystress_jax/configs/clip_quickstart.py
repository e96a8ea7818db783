"""A first image-text run: the embedded drawings and their names, with the dynamic temperature.

    dystress train --config=clip_quickstart

Two and a half minutes on two CPU cores. A small ResNet and a transformer learn from 3,126 drawings
by Google and Twitter and their names; then each of 1,563 drawings by Microsoft, the same concepts
in a style that neither tower has seen, looks for its name among all names, and the other way round.
Pictures of what the names find are in DIR/retrieval.png. What to expect, and how the settings were
chosen, is in docs/results/alignment.md.

Several tokens on an oblique manifold: --config.topology.name=oblique --config.topology.tokens=4
--config.topology.dims=16 --config.topology.mode=reshape. A learned temperature:
--config.temperature.name=learned --config.temperature.tau=0.07.
"""

from ml_collections import ConfigDict

from dystress_jax import run


def get_config() -> ConfigDict:
    """The settings of the run."""
    config = run.defaults()
    config.method = "clip"
    config.batch_size = 128
    config.steps = 2400
    config.log_every = 20
    config.checkpoint_every = 500
    config.knn_every = 0
    config.data.holdout = 0.0
    config.augment.recipe = "captioned"
    config.probe.online = False

    config.text.context = 12
    config.text.vocab_size = 2000
    config.topology.dims = 64
    config.zero_shot.classes = "captions"
    config.zero_shot.prompts = "name"

    config.temperature.name = "dystress"
    config.temperature.tau_min = 0.05
    config.temperature.tau_max = 0.2

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.004
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay_vectors = False
    config.optimizer.warmup_epochs = 10.0  # a tenth of the run
    return config
