"""Contrastive learning with a temperature that depends on the similarity of each pair.

Importing this package costs jax and jaxtyping only; the trainer's packages (flax, grain, orbax
and the rest) are loaded by the modules that use them.
"""

from . import losses as losses
from . import metrics as metrics
from . import schemes as schemes
from . import similarities as similarities
from . import temperatures as temperatures

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Answer what an earlier version had under another name."""
    if name in _MOVED:
        raise ImportError(f"dystress_jax.{name} is now {_MOVED[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_MOVED = {
    "config": "dystress_jax.run (defaults, from_config_dict, ConfigError)",
    "trainer": "dystress_jax.run (train)",
    "evaluator": "dystress_jax.run (evaluate)",
    "experiment": "dystress_jax.run (build)",
    "objective": "dystress_jax.losses (on_mesh) and dystress_jax.run",
    "networks": "dystress_jax.run",
    "image_text": "dystress_jax.run (evaluate)",
    "checkpoint": "dystress_jax.training.checkpoint",
    "optim": "dystress_jax.training.optim",
    "state": "dystress_jax.training",
    "step": "dystress_jax.training",
    "report": "dystress_jax.training.log",
    "interrupt": "dystress_jax.training.interrupt",
    "vocabulary": "dystress_jax.run.language",
    "command_line": "dystress_jax.run.cli",
}
