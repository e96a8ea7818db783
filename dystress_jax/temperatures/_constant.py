"""Temperatures that do not look at the similarity: one for all pairs, or one for each anchor."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jaxtyping import Array, ArrayLike, Float

from ..errors import ArgumentError
from ._checks import as_floats, check_positive, concrete, numbers
from ._temperature import HoldsArray, Leaf, NumberLike, Temperature, array_of

T = TypeVar("T")


@register_dataclass
@dataclass(frozen=True)
class Constant(Temperature):
    """See `constant`."""

    tau: Leaf

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        return filled(similarity, self.tau)

    def lower_bound(self) -> ArrayLike:
        return self.tau


def constant(tau: NumberLike) -> Constant:
    """The same temperature for every pair: the classic InfoNCE.

    Args:
        tau: the temperature, > 0.

    Returns:
        A temperature with the leaf `tau`.

    Raises:
        ArgumentError: when tau <= 0.

    Example:
        >>> constant(0.1)(jnp.array([-1.0, 0.0, 1.0]))
        Array([0.1, 0.1, 0.1], dtype=float32)
    """
    check_positive("tau", tau)
    return Constant(tau)


@register_dataclass
@dataclass(frozen=True)
class PerAnchor(Temperature):
    """See `per_anchor`."""

    tau: Leaf

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        column = self.tau.reshape(self.tau.shape + (1,) * (similarity.ndim - 1))
        return jnp.broadcast_to(column, similarity.shape)

    def lower_bound(self) -> ArrayLike:
        return jnp.min(self.tau)

    @property
    def is_per_anchor(self) -> bool:
        return True


@register_dataclass
@dataclass(frozen=True)
class PerExample(PerAnchor):
    """A temperature for each anchor whose example has a running mean, as `losses.rgcl` needs it.

    Attributes:
        tau: the temperatures.
        log_mean: logarithm of the running mean of exp(h / tau) over the negatives, h = s_ij - s_ip,
            before this batch; minus infinity where there was none yet.
        gamma: weight of the present batch in the mean, in (0, 1].
    """

    log_mean: Leaf
    gamma: float = field(default=0.8, metadata={"static": True}, kw_only=True)

    def moved(self, now: Float[Array, " n"]) -> Float[Array, " n"]:
        """Returns the logarithm of the running mean after a batch whose own is `now`."""
        averaged = jnp.logaddexp(jnp.log1p(-self.gamma) + self.log_mean, math.log(self.gamma) + now)
        return jnp.where(jnp.isneginf(self.log_mean), now, averaged)


def per_anchor(tau: Float[ArrayLike, " n"] | HoldsArray) -> PerAnchor:
    """One temperature for each anchor: a row of the similarity matrix shares it.

    Args:
        tau: the temperatures, shape [n] with n the number of anchors of the loss, > 0. NaN may
            stand for anchors that `where` of the loss leaves out; a loss refuses it elsewhere.

    Returns:
        A temperature with the leaf `tau`.

    Raises:
        ArgumentError: when a tau <= 0, or the shape is not one axis.

    Example:
        >>> per_anchor(jnp.array([0.1, 0.5]))(jnp.zeros((2, 3)))
        Array([[0.1, 0.1, 0.1],
               [0.5, 0.5, 0.5]], dtype=float32)
    """
    array = jnp.asarray(array_of(tau))
    if array.ndim != 1:
        raise ArgumentError(
            "tau", f"found shape {array.shape}; allowed: one axis, with one entry per anchor."
        )
    if concrete(tau) and np.any(numbers(tau) <= 0):
        raise ArgumentError("tau", f"found {tau}; allowed: > 0.")
    return PerAnchor(array)


def is_per_anchor(node: Any) -> bool:
    """Whether it is a temperature whose leaves have one entry per anchor."""
    return isinstance(node, Temperature) and node.is_per_anchor


def map_per_anchor(function: Callable[[Any], Array], tree: Any) -> Any:
    """The tree with the function of every leaf that has one entry per anchor."""
    change = lambda node: jax.tree.map(function, node) if is_per_anchor(node) else node
    return jax.tree.map(change, tree, is_leaf=is_per_anchor)


def of_anchors(tree: T, rows: Any) -> T:
    """The tree with those entries of every leaf that has one per anchor."""
    return map_per_anchor(lambda leaf: leaf[rows], tree)


def uncertainty(logit: Float[ArrayLike, " n"] | HoldsArray, tau: NumberLike = 0.07) -> PerAnchor:
    r"""Temperature as uncertainty (TaU): one for each anchor, which the encoder puts out.

    $$\frac{s_{ij}}{\tau_i} = \frac{s_{ij}\, \sigma(t_i)}{\tau_0}, \qquad
      \tau_i = \frac{\tau_0}{\sigma(t_i)}$$

    Args:
        logit: t, one further output of the encoder for each anchor of the loss, [n], any number.
            The smaller, the less sure; gradients reach it.
        tau: tau_0 > 0, the temperature of an anchor that is sure.

    Returns:
        A temperature with the leaf `tau`.

    Raises:
        ArgumentError: when tau <= 0, or the shape is not one axis.

    Example:
        >>> uncertainty(jnp.array([0.0, 9.0])).tau.round(3)
        Array([0.14, 0.07], dtype=float32)

    References:
        The authors' code
        ([mhw32/temperature-as-uncertainty-public](https://github.com/mhw32/temperature-as-uncertainty-public)).
    """
    check_positive("tau", tau)
    t = jnp.asarray(array_of(logit))
    t = t if t.dtype == jnp.float64 else t.astype(jnp.float32)
    # 1 / sigmoid(t), written so that neither it nor its slope overflows: exp(80) is < 1e35.
    return per_anchor(array_of(tau) * (1 + jnp.exp(jnp.minimum(-t, 80.0))))


def filled(similarity: Float[Array, "..."], tau: ArrayLike) -> Float[Array, "..."]:
    similarity = as_floats(similarity)
    if jnp.ndim(tau):  # as sums do: losses refuse several numbers by the shape of the result
        return jnp.zeros_like(similarity) + tau
    return jnp.full_like(similarity, tau)
