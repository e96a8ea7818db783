"""Contrastive learning with a temperature that depends on the similarity of each pair.

Its modules are imported when they are used. Those of the losses cost jax and jaxtyping only; the
trainer's packages (flax, grain, orbax and the rest) come with the modules that need them.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import gradcache as gradcache
    from . import losses as losses
    from . import metrics as metrics
    from . import microscope as microscope
    from . import schemes as schemes
    from . import similarities as similarities
    from . import temperatures as temperatures
    from .run import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import what is asked for, so that nothing else is; answer what earlier versions had."""
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name == "load":
        try:
            return importlib.import_module(".run", __name__).load
        except ModuleNotFoundError as error:
            from .errors import how_to_install

            needed = f"load needs the package {error.name}: {how_to_install('train')}"
            raise ModuleNotFoundError(needed, name=error.name) from error
    if name in _MOVED:
        raise ImportError(f"dystress_jax.{name} is now {_MOVED[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES, "load"])


_MODULES = (
    "gradcache",
    "losses",
    "metrics",
    "microscope",
    "schemes",
    "similarities",
    "temperatures",
)
_MOVED = {
    "config": "dystress_jax.run (defaults, from_config_dict, ConfigError)",
    "trainer": "dystress_jax.run (train)",
    "evaluator": "dystress_jax.run (evaluate)",
    "experiment": "dystress_jax.run (build)",
    "objective": "dystress_jax.losses (on_mesh) and dystress_jax.run",
    "networks": "dystress_jax.run",
    "image_text": "dystress_jax.run (evaluate)",
    "checkpoint": "dystress_jax.training.checkpoint",
    "state": "dystress_jax.training",
    "step": "dystress_jax.training",
    "interrupt": "dystress_jax.training.interrupt",
    "vocabulary": "dystress_jax.run.language",
    "command_line": "dystress_jax.run.cli",
}
