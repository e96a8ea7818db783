"""Temperatures: how strongly a similarity counts, as a function of the similarity itself.

A logit is `similarity / temperature(similarity)`. Every loss takes its temperature as a float, an
array with one entry per anchor, a `Temperature`, or a plain elementwise function.

A `Temperature` is data: a frozen dataclass registered as a pytree. Its numbers are leaves, so they
can be traced, differentiated, `vmap`-ed over, scheduled and stored like any other array, and none
of them is a reason to recompile. Inside a loss they are scalars, but for one per anchor. Write one
of your own by subclassing `Temperature`:

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Quadratic(Temperature):
        tau: Array
        def __call__(self, similarity): return self.tau * (1 + similarity**2)
"""

from ._checks import check_positive as check_positive
from ._checks import check_range as check_range
from ._checks import check_scales as check_scales
from ._checks import concrete as concrete
from ._checks import numbers as numbers
from ._constant import Constant, PerAnchor, PerExample, constant, per_anchor, uncertainty
from ._constant import is_per_anchor as is_per_anchor
from ._constant import map_per_anchor as map_per_anchor
from ._constant import of_anchors as of_anchors
from ._function import Function as Function
from ._function import as_temperature
from ._function import check_elementwise as check_elementwise
from ._learned import CLIP_LOG_SCALE as CLIP_LOG_SCALE
from ._learned import Learned, LearnedWithBias, learned
from ._of_similarity import (
    Dystress,
    Exponential,
    Linear,
    MonotoneCosine,
    ShiftedDystress,
    Temo,
    TemperatureFree,
    dystress,
    exponential,
    linear,
    monotone_cosine,
    shifted_dystress,
    temo,
    temperature_free,
)
from ._separate import Separate, hard_negatives, separate
from ._temperature import HoldsArray as HoldsArray
from ._temperature import NumberLike as NumberLike
from ._temperature import Temperature, TemperatureLike
from ._temperature import array_of as array_of

__all__ = [
    "Constant",
    "Dystress",
    "Exponential",
    "Learned",
    "LearnedWithBias",
    "Linear",
    "MonotoneCosine",
    "PerAnchor",
    "PerExample",
    "Separate",
    "ShiftedDystress",
    "Temo",
    "Temperature",
    "TemperatureFree",
    "TemperatureLike",
    "as_temperature",
    "constant",
    "dystress",
    "exponential",
    "hard_negatives",
    "learned",
    "linear",
    "monotone_cosine",
    "per_anchor",
    "separate",
    "shifted_dystress",
    "temo",
    "temperature_free",
    "uncertainty",
]
