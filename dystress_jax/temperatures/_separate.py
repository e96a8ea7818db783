"""One temperature for positive pairs and another for negative ones."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jaxtyping import Array, ArrayLike, Float

from ..errors import ArgumentError
from ._checks import concrete, numbers
from ._constant import PerAnchor
from ._function import as_temperature
from ._temperature import Leaf, NumberLike, Temperature, TemperatureLike, array_of


@register_dataclass
@dataclass(frozen=True)
class Separate(Temperature):
    """See `separate`."""

    positives: Leaf
    negatives: Leaf

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        raise TypeError(
            "separate has two temperatures, for positive and for negative pairs: call its "
            "for_positives or its for_negatives."
        )

    @property
    def for_positives(self) -> Temperature:
        return self.positives

    @property
    def for_negatives(self) -> Temperature:
        return self.negatives


def separate(positives: TemperatureLike, negatives: TemperatureLike) -> Separate:
    """One temperature for positive pairs and another for negative ones.

    Args:
        positives: temperature of the positive pairs, wherever they appear in the loss.
        negatives: temperature of all other pairs.

    Returns:
        A temperature with the leaves of both.

    Example:
        >>> from dystress_jax.temperatures import dystress
        >>> separate(0.1, dystress(0.1, 0.2)).for_positives
        Constant(tau=0.1)
    """
    return Separate(as_temperature(positives), as_temperature(negatives))


@register_dataclass
@dataclass(frozen=True)
class Hardened(Temperature):
    """See `hard_negatives`: the temperature of the negatives."""

    temperature: Leaf
    beta: Leaf

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        beta = self.beta
        if self.is_per_anchor:
            beta = beta.reshape(beta.shape + (1,) * (similarity.ndim - 1))
        return _hardened(self.temperature(similarity), beta)

    def lower_bound(self) -> ArrayLike | None:
        bound = self.temperature.lower_bound()
        highest = jnp.max(self.beta) if self.is_per_anchor else self.beta
        return None if bound is None else _hardened(bound, highest)

    @property
    def is_per_anchor(self) -> bool:
        return self.temperature.is_per_anchor


def _hardened(tau: ArrayLike, beta: ArrayLike) -> Any:
    return tau / (1.0 + beta * tau)


def hard_negatives(temperature: TemperatureLike, beta: NumberLike = 1.0) -> Separate:
    r"""Counts a negative the more, the more similar it is: with the weight e^(beta s).

    $$e^{\beta s} \, e^{s / \tau(s)} = e^{s / \tau'(s)}, \qquad
      \tau'(s) = \frac{\tau(s)}{1 + \beta\, \tau(s)}$$

    So hard-negative weighting is a lower temperature for the negatives alone. The published form
    also divides by the mean of the weights, which changes the loss of an anchor by a number of its
    own and the balance between its positive and its negatives with it; `weights` of the losses can
    say so.

    Args:
        temperature: of the positives, and of the negatives before they are weighed.
        beta: how much harder negatives count, >= 0; 0 changes nothing. With a temperature per
            anchor it may be one for each anchor, [n], too.

    Returns:
        Two temperatures, both made of the numbers of `temperature`. To learn these or beta, make
        it inside the loss, of your parameters: trained as it is, the two would part.

    Raises:
        ArgumentError: when beta < 0, or for another shape of it.

    Example:
        >>> hard_negatives(0.1, 10.0).for_negatives(jnp.zeros(1))
        Array([0.05], dtype=float32)

    References:
        Robinson et al., "Contrastive Learning with Hard Negative Samples",
        [arXiv 2010.04592](https://arxiv.org/abs/2010.04592), for the weights.
    """
    if concrete(beta) and np.any(numbers(beta) < 0):
        raise ArgumentError("beta", f"found {beta}; allowed: >= 0.")
    found = as_temperature(temperature)
    of_negatives = found.for_negatives
    if of_negatives.is_per_anchor:  # every leaf of one per anchor is per anchor
        each, anchors = array_of(beta), jnp.shape(jax.tree.leaves(of_negatives)[0])[:1]
        if jnp.shape(each) not in ((), anchors):
            raise ArgumentError(
                "beta", f"found shape {jnp.shape(each)}; allowed: one number, or shape {anchors}."
            )
        if isinstance(of_negatives, PerAnchor):
            return Separate(found.for_positives, PerAnchor(_hardened(of_negatives.tau, each)))
        beta = jnp.broadcast_to(jnp.asarray(each, float), anchors)
    return Separate(found.for_positives, Hardened(of_negatives, beta))
