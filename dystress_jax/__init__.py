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
