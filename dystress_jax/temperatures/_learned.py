"""Temperatures whose number is trained: the scale of CLIP, with the bias of SigLIP."""

import math
from dataclasses import dataclass, field

import jax.numpy as jnp
from jax.tree_util import register_dataclass
from jaxtyping import Array, ArrayLike, Float

from ._checks import check_scales
from ._constant import filled
from ._temperature import Leaf, NumberLike, Temperature

# ln(1 / 0.07), where CLIP starts.
CLIP_LOG_SCALE = math.log(1 / 0.07)


@register_dataclass
@dataclass(frozen=True)
class Learned(Temperature):
    """See `learned`."""

    log_scale: Leaf
    min_scale: float = field(default=1.0, metadata={"static": True}, kw_only=True)
    max_scale: float = field(default=100.0, metadata={"static": True}, kw_only=True)

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        lowest, highest = math.log(self.min_scale), math.log(self.max_scale)
        log_scale = jnp.asarray(self.log_scale)
        if not jnp.issubdtype(log_scale.dtype, jnp.inexact):  # a whole number rounds the limits
            log_scale = log_scale.astype(float)
        # Not clip alone: where training holds the scale on a limit, it has half a gradient.
        inside = (log_scale >= log_scale.dtype.type(lowest)) & (
            log_scale <= log_scale.dtype.type(highest)
        )
        log_scale = jnp.where(inside, log_scale, jnp.clip(log_scale, lowest, highest))
        return filled(similarity, jnp.exp(-log_scale))

    def lower_bound(self) -> ArrayLike:
        return self(jnp.zeros(()))  # not the limit, which is below what needs no maximum first

    @property
    def scale(self) -> Array:
        """1 / tau."""
        return 1.0 / self(jnp.zeros(()))


@register_dataclass
@dataclass(frozen=True)
class LearnedWithBias(Learned):
    """A learned temperature with the bias of SigLIP, of `schemes.learned_scale_and_bias`.

    Attributes:
        log_scale: logarithm of 1 / tau.
        min_scale: the least 1 / tau.
        max_scale: the greatest 1 / tau.
        bias: b, added to every logit.
    """

    bias: Leaf = -10.0


def learned(
    log_scale: NumberLike = CLIP_LOG_SCALE, *, min_scale: float = 1.0, max_scale: float = 100.0
) -> Learned:
    r"""The learned temperature of CLIP, parameterised by the logarithm of its inverse.

    $$\tau = e^{-t}, \qquad t \in [\ln(\text{min\_scale}), \ln(\text{max\_scale})]$$

    The clamp has no gradient outside its range: bring the parameter back after each update, as
    `schemes.learned_scale` does.

    Args:
        log_scale: t, the parameter to train, any number. A Python float is taken as is: make it an
            array and differentiate with respect to it (or to the whole temperature) to learn it.
        min_scale: smallest 1 / tau, > 0.
        max_scale: largest 1 / tau, > min_scale.

    Returns:
        A temperature with the leaf `log_scale`.

    Raises:
        ArgumentError: when not 0 < min_scale < max_scale.

    Example:
        >>> import jax
        >>> learned()(jnp.zeros(1))
        Array([0.07], dtype=float32)
        >>> float(jax.grad(lambda t: learned(t)(jnp.zeros(())))(2.0))
        -0.1353

    References:
        Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020), section 2.5.
    """
    min_scale, max_scale = check_scales(min_scale, max_scale)
    return Learned(log_scale, min_scale=min_scale, max_scale=max_scale)
