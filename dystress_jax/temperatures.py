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

import contextlib
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer, eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.tree_util import register_dataclass
from jaxtyping import Array, ArrayLike, Float

from .errors import ArgumentError

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

# A number or an array; tree operations may put anything into a leaf, so it is not checked.
Leaf = Any

# ln(1 / 0.07), where CLIP starts.
CLIP_LOG_SCALE = math.log(1 / 0.07)


class Temperature:
    """Base of all temperatures: an elementwise function of the similarity, and a pytree.

    Similarities reach it on the scale of the cosine, -1 (opposite) to 1 (aligned); rounding may
    exceed that range by a few units in the last place.
    """

    def __post_init__(self):
        """Take variables of a module library, such as `nnx.Param`, by their arrays."""
        for each in dataclasses.fields(self) if dataclasses.is_dataclass(self) else ():
            value = getattr(self, each.name)
            if array_of(value) is not value:
                object.__setattr__(self, each.name, array_of(value))

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns tau > 0 for each similarity, in the shape of the similarities [n] or [n m]."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__, which returns tau")

    def lower_bound(self) -> ArrayLike | None:
        """Returns a number that tau never falls below, or None when there is none to promise.

        The losses use it to see, before they compute any logit, whether exp(logit) can overflow.
        """
        return None

    @property
    def is_per_anchor(self) -> bool:
        """Whether every leaf has one entry per anchor in its leading axis.

        The losses then call it with as many rows of similarities, [n] or [n m]: a leaf t [n] counts
        there as t.reshape(-1, *[1] * (similarity.ndim - 1)).
        """
        return False

    @property
    def for_positives(self) -> "Temperature":
        """The temperature of positive pairs."""
        return self

    @property
    def for_negatives(self) -> "Temperature":
        """The temperature of negative pairs."""
        return self


@runtime_checkable
class HoldsArray(Protocol):
    """A variable of a module library, such as `nnx.Param`."""

    def __jax_array__(self) -> Array:
        """Returns the array."""
        ...


NumberLike = ArrayLike | HoldsArray
TemperatureLike = Temperature | NumberLike | Callable[[Array], Array]
"""What a loss takes: a number, one an anchor, a `Temperature`, or a function of the similarity."""


def array_of(value: Any) -> Any:
    """The array that a `HoldsArray` holds; else the value."""
    if isinstance(value, Tracer | Array | type) or not hasattr(value, "__jax_array__"):
        return value
    return value.__jax_array__()


@register_dataclass
@dataclass(frozen=True)
class Constant(Temperature):
    """See `constant`."""

    tau: Leaf

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        return _filled(similarity, self.tau)

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
    if concrete(tau) and np.any(_numbers(tau) <= 0):
        raise ArgumentError("tau", f"found {tau}; allowed: > 0.")
    return PerAnchor(array)


def is_per_anchor(node: Any) -> bool:
    """Whether it is a temperature whose leaves have one entry per anchor."""
    return isinstance(node, Temperature) and node.is_per_anchor


def map_per_anchor(function: Callable[[Any], Array], tree: Any) -> Any:
    """The tree with the function of every leaf that has one entry per anchor."""
    change = lambda node: jax.tree.map(function, node) if is_per_anchor(node) else node
    return jax.tree.map(change, tree, is_leaf=is_per_anchor)


@register_dataclass
@dataclass(frozen=True)
class _Range(Temperature):
    """A temperature that moves between two ends."""

    tau_min: Leaf
    tau_max: Leaf
    stop_gradient: bool = field(default=True, metadata={"static": True}, kw_only=True)

    def lower_bound(self) -> ArrayLike:
        return self.tau_min

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        if self.stop_gradient:
            similarity = jax.lax.stop_gradient(similarity)
        return self.tau_min + (self.tau_max - self.tau_min) * self.profile(similarity)

    def profile(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the position between tau_min (0) and tau_max (1)."""
        raise NotImplementedError


@register_dataclass
@dataclass(frozen=True)
class Dystress(_Range):
    """See `dystress`."""

    def profile(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        return _sin_squared(jnp.clip(similarity, -1.0, 1.0))


def dystress(
    tau_min: NumberLike = 0.1, tau_max: NumberLike = 0.2, *, stop_gradient: bool = True
) -> Dystress:
    r"""The dynamically scaled temperature of DySTreSS.

    $$\tau(s) = \tau_{min} + \tfrac12 (\tau_{max} - \tau_{min}) (1 + \cos(\pi (1 + s)))
              = \tau_{min} + (\tau_{max} - \tau_{min}) \sin^2(\pi s / 2)$$

    Lowest at s = 0, highest at s = -1 and s = 1.

    Args:
        tau_min: temperature of orthogonal pairs, > 0.
        tau_max: temperature of aligned and of opposite pairs, >= tau_min.
        stop_gradient: whether tau counts as a number in the gradient with respect to the
            similarity, as in the authors' SimCLR code. If not, the gradient of a logit is
            (tau - s tau') / tau^2, which changes its sign on some pairs when
            tau_max / tau_min > 4.504. Gradients with respect to tau_min and tau_max always flow.

    Returns:
        A temperature with the leaves `tau_min` and `tau_max`.

    Raises:
        ArgumentError: when tau_min <= 0 or tau_min > tau_max.

    Example:
        >>> dystress(0.1, 0.2)(jnp.array([-1.0, 0.0, 0.5, 1.0]))
        Array([0.2 , 0.1 , 0.15, 0.2 ], dtype=float32)

    References:
        Manna et al., "Dynamically Scaled Temperature in Self-Supervised Contrastive Learning",
        [arXiv 2308.01140](https://arxiv.org/abs/2308.01140).
    """
    check_range(tau_min, tau_max)
    if not stop_gradient:
        _check_monotone(tau_min, tau_max, _monotone_ratio(shift=-1.0, width=1.0))
    return Dystress(tau_min, tau_max, stop_gradient=stop_gradient)


@register_dataclass
@dataclass(frozen=True)
class ShiftedDystress(_Range):
    """See `shifted_dystress`."""

    shift: Leaf = -0.4
    width: Leaf = 0.7

    def profile(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        # (1 + cos(pi u)) / 2 = sin^2(pi (u + 1) / 2), which has period 2 in u.
        phase = (jnp.minimum(similarity, -self.shift) + self.shift) / self.width + 1.0
        return _sin_squared(phase - 2.0 * jnp.round(phase / 2.0))


def shifted_dystress(
    tau_min: NumberLike = 0.1,
    tau_max: NumberLike = 0.2,
    *,
    shift: NumberLike = -0.4,
    width: NumberLike = 0.7,
    stop_gradient: bool = True,
) -> ShiftedDystress:
    r"""The shifted profile of DySTreSS: flat at the top, its minimum moved below zero.

    $$\tau(s) = \tau_{min} + \tfrac12 (\tau_{max} - \tau_{min}) (1 + \cos(\pi (s + D) / k))
      \text{ for } s \le -D, \qquad \tau_{max} \text{ for } s > -D$$

    The minimum lies at s = -D - k, the flat top begins at s = -D. D = -1, k = 1 is `dystress`.

    Args:
        tau_min: lowest temperature, > 0.
        tau_max: highest temperature, >= tau_min.
        shift: D, usually in [-1, 0].
        width: k, the distance between the minimum and the flat top, > 0.
        stop_gradient: whether tau counts as a number in the gradient with respect to the
            similarity (see `dystress`). If not, the gradient of a logit changes its sign on some
            pairs at a lower tau_max / tau_min than there: above 2.04 for D = -0.4, k = 0.7.

    Returns:
        A temperature with the leaves `tau_min`, `tau_max`, `shift` and `width`.

    Raises:
        ArgumentError: when tau_min <= 0, tau_min > tau_max or width <= 0.

    Example:
        >>> shifted_dystress(0.1, 0.2)(jnp.array([-1.0, -0.3, 0.4, 1.0]))
        Array([0.2, 0.1, 0.2, 0.2], dtype=float32)

    References:
        Manna et al., [arXiv 2308.01140](https://arxiv.org/abs/2308.01140), the starred rows of its
        tables; D = -0.4, k = 0.7 are the best values reported there.
    """
    check_range(tau_min, tau_max)
    check_positive("width", width)
    if not stop_gradient and concrete(shift, width):
        _check_monotone(tau_min, tau_max, _monotone_ratio(shift, width))
    return ShiftedDystress(tau_min, tau_max, shift, width, stop_gradient=stop_gradient)


@register_dataclass
@dataclass(frozen=True)
class Linear(_Range):
    """See `linear`."""

    def profile(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.clip(jnp.abs(similarity), 0.0, 1.0)


def linear(
    tau_min: NumberLike = 0.1, tau_max: NumberLike = 0.2, *, stop_gradient: bool = True
) -> Linear:
    r"""A temperature linear in the magnitude of the similarity (form of this library).

    $$\tau(s) = \tau_{min} + (\tau_{max} - \tau_{min}) |s|$$

    Args:
        tau_min: temperature of orthogonal pairs, > 0.
        tau_max: temperature of aligned and of opposite pairs, >= tau_min.
        stop_gradient: whether tau counts as a number in the gradient with respect to the
            similarity. s / tau(s) increases for every tau_min > 0.

    Returns:
        A temperature with the leaves `tau_min` and `tau_max`.

    Raises:
        ArgumentError: when tau_min <= 0 or tau_min > tau_max.

    Example:
        >>> linear(0.1, 0.2)(jnp.array([-1.0, 0.0, 0.5]))
        Array([0.2 , 0.1 , 0.15], dtype=float32)
    """
    check_range(tau_min, tau_max)
    return Linear(tau_min, tau_max, stop_gradient=stop_gradient)


@register_dataclass
@dataclass(frozen=True)
class MonotoneCosine(_Range):
    """See `monotone_cosine`."""

    def profile(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        return (1.0 + jnp.clip(similarity, -1.0, 1.0)) / 2.0


def monotone_cosine(
    tau_min: NumberLike = 0.1, tau_max: NumberLike = 0.2, *, stop_gradient: bool = True
) -> MonotoneCosine:
    r"""A temperature that grows with the cosine all the way (form of this library).

    $$\tau(s) = \tau_{min} + (\tau_{max} - \tau_{min}) (1 + s) / 2$$

    Args:
        tau_min: temperature of opposite pairs, > 0.
        tau_max: temperature of aligned pairs, >= tau_min.
        stop_gradient: whether tau counts as a number in the gradient with respect to the
            similarity. s / tau(s) increases for every tau_min > 0.

    Returns:
        A temperature with the leaves `tau_min` and `tau_max`.

    Raises:
        ArgumentError: when tau_min <= 0 or tau_min > tau_max.

    Example:
        >>> monotone_cosine(0.1, 0.2)(jnp.array([-1.0, 0.0, 1.0]))
        Array([0.1 , 0.15, 0.2 ], dtype=float32)
    """
    check_range(tau_min, tau_max)
    return MonotoneCosine(tau_min, tau_max, stop_gradient=stop_gradient)


@register_dataclass
@dataclass(frozen=True)
class Temo(_Range):
    """See `temo`."""

    def profile(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        # The slope is infinite at s = -1, and rounding takes a cosine a few units in the last place
        # beyond. Nearer than that a slope would be made of rounding errors: stop there.
        lowest = -1.0 + 4 * float(jnp.finfo(similarity.dtype).eps)
        return jnp.sqrt((1.0 + jnp.maximum(similarity, lowest)) / 2.0)


def temo(
    tau_min: NumberLike = 0.01, tau_max: NumberLike = 0.05, *, stop_gradient: bool = False
) -> Temo:
    r"""The modulated temperature of TeMo: the square root of the similarity on the scale 0 to 1.

    $$\tau(s) = \tau_{min} + a \sqrt{(1 + s) / 2}, \qquad a = \tau_{max} - \tau_{min}$$

    The authors give a = 0.04, which is `tau_max` = 0.05 here.

    Args:
        tau_min: temperature of opposite pairs, > 0.
        tau_max: temperature of aligned pairs, >= tau_min.
        stop_gradient: whether tau counts as a number in the gradient with respect to the
            similarity. It does not in TeMo: the gradient flows through tau. s / tau(s) increases
            for every tau_min > 0.

    Returns:
        A temperature with the leaves `tau_min` and `tau_max`. The slope is infinite at s = -1:
        similarities are clipped to s >= -1 + 4 units in the last place of their dtype, so that tau
        is 0.2 % too high there (with the defaults, in float32) and its gradient finite.

    Raises:
        ArgumentError: when tau_min <= 0 or tau_min > tau_max.

    Example:
        >>> temo()(jnp.array([-0.5, 0.0, 1.0]))
        Array([0.03  , 0.0383, 0.05  ], dtype=float32)

    References:
        TeMo, [arXiv 2609.07540](https://arxiv.org/abs/2609.07540), and the authors' code.
    """
    check_range(tau_min, tau_max)
    return Temo(tau_min, tau_max, stop_gradient=stop_gradient)


@register_dataclass
@dataclass(frozen=True)
class Exponential(_Range):
    """See `exponential`."""

    rate: Leaf

    def profile(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        return 1 - jnp.exp(-self.rate * jnp.abs(similarity))


def exponential(
    tau_min: NumberLike = 0.1,
    tau_max: NumberLike = 0.2,
    rate: NumberLike = 3.5,
    *,
    stop_gradient: bool = True,
) -> Exponential:
    r"""A temperature that saturates away from orthogonal pairs.

    $$\tau(s) = \tau_{min} + (\tau_{max} - \tau_{min}) (1 - e^{-c |s|})$$

    Args:
        tau_min: temperature of orthogonal pairs, > 0.
        tau_max: the limit for large |s|, >= tau_min.
        rate: c, >= 0, how fast it saturates.
        stop_gradient: whether tau counts as a number in the gradient with respect to the
            similarity.

    Returns:
        A temperature with the leaves `tau_min`, `tau_max` and `rate`.

    Raises:
        ArgumentError: when tau_min <= 0, tau_max < tau_min or rate < 0.

    Example:
        >>> exponential()(jnp.array([0.0, 1.0]))
        Array([0.1  , 0.197], dtype=float32)

    References:
        A profile that the authors of DySTreSS tried, with the defaults of their code, which writes
        it as $a - b\, e^{-c |s|}$: $a$ is tau_max, $a - b$ is tau_min.
    """
    check_range(tau_min, tau_max)
    if concrete(rate) and np.any(_numbers(rate) < 0):
        raise ArgumentError("rate", f"found {rate}; allowed: >= 0.")
    return Exponential(tau_min, tau_max, rate, stop_gradient=stop_gradient)


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
        # Not clip alone: where training holds the scale on a limit, it has half a gradient.
        inside = (log_scale >= log_scale.dtype.type(lowest)) & (
            log_scale <= log_scale.dtype.type(highest)
        )
        log_scale = jnp.where(inside, log_scale, jnp.clip(log_scale, lowest, highest))
        return _filled(similarity, jnp.exp(-log_scale))

    def lower_bound(self) -> ArrayLike:
        return 1.0 / self.max_scale

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
        >>> learned()(jnp.zeros(1))
        Array([0.07], dtype=float32)
        >>> float(jax.grad(lambda t: learned(t)(jnp.zeros(())))(2.0))
        -0.1353

    References:
        Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020), section 2.5.
    """
    check_scales(min_scale, max_scale)
    return Learned(log_scale, min_scale=min_scale, max_scale=max_scale)


def check_scales(min_scale: float, max_scale: float) -> None:
    """Refuses numbers that are no limits of 1 / tau."""
    check_positive("min_scale", min_scale)
    if not min_scale < max_scale:
        raise ArgumentError(
            "max_scale",
            f"found {max_scale}; allowed: more than `min_scale` = {min_scale}, they are the limits "
            "of 1 / tau.",
        )


@register_dataclass
@dataclass(frozen=True)
class TemperatureFree(Temperature):
    """See `temperature_free`."""

    scale: Leaf
    epsilon: float = field(default=1e-6, metadata={"static": True}, kw_only=True)

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        limit = 1.0 - self.epsilon
        s = jnp.clip(similarity, -limit, limit)
        # s / artanh(s) = 1 - s^2/3 - 4 s^4/45 - ...: the quotient itself is 0 / 0 at s = 0.
        small = jnp.abs(s) < 1e-2
        quotient = jnp.where(small, 0.5, s) / jnp.arctanh(jnp.where(small, 0.5, s))
        series = 1.0 - s**2 * (1 / 3 + s**2 * (4 / 45 + s**2 * 44 / 945))
        return jnp.where(small, series, quotient) / self.scale

    def lower_bound(self) -> ArrayLike:
        limit = 1.0 - self.epsilon
        return limit / math.atanh(limit) / self.scale


def temperature_free(scale: NumberLike = 2.0, *, epsilon: float = 1e-6) -> TemperatureFree:
    r"""No temperature: the logit is the scaled log-odds of the similarity.

    $$s / \tau(s) = 2\, \mathrm{artanh}(s) = \ln \frac{1 + s}{1 - s}$$

    Args:
        scale: the factor before artanh, > 0. Some ports use 1.
        epsilon: similarities are clipped to [-1 + epsilon, 1 - epsilon], where artanh is finite.

    Returns:
        A temperature with the leaf `scale`.

    Raises:
        ArgumentError: when scale <= 0 or epsilon is not in [1e-7, 1).

    Example:
        >>> s = jnp.array([0.0, 0.5])
        >>> s / temperature_free()(s)
        Array([0.    , 1.0986], dtype=float32)

    References:
        Kim and Kim, "Temperature-Free Loss Function for Contrastive Learning",
        [arXiv 2501.17683](https://arxiv.org/abs/2501.17683).
    """
    check_positive("scale", scale)
    if not 1e-7 <= epsilon < 1:
        raise ArgumentError("epsilon", f"found {epsilon}; allowed: in [1e-7, 1).")
    return TemperatureFree(scale, epsilon=epsilon)


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
        A temperature with the leaves of `temperature` and `beta`.

    Raises:
        ArgumentError: when beta < 0, or for another shape of it.

    Example:
        >>> hard_negatives(0.1, 10.0).for_negatives(jnp.zeros(1))
        Array([0.05], dtype=float32)

    References:
        Robinson et al., "Contrastive Learning with Hard Negative Samples",
        [arXiv 2010.04592](https://arxiv.org/abs/2010.04592), for the weights.
    """
    if concrete(beta) and np.any(_numbers(beta) < 0):
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


@register_dataclass
@dataclass(frozen=True)
class Function(Temperature):
    """A plain elementwise function, with the traced values it closes over made explicit."""

    closed_over: Leaf
    function: Callable[..., Array] = field(metadata={"static": True})
    dtype: np.dtype = field(metadata={"static": True})  # that the closed over values came with

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        scalar = lambda s: jnp.asarray(self.function(s, *self.closed_over))
        try:
            return jnp.vectorize(scalar)(similarity.astype(self.dtype)).astype(similarity.dtype)
        except ValueError as error:
            if not self.closed_over or "manual axes" not in str(error):
                raise
            # What is closed over was traced apart from a similarity that differs by device.
            raise ArgumentError(
                "temperature",
                "found a function that closes over traced values, inside a shard_map; allowed: a "
                "Temperature of your own, a pytree class with these values as leaves (as at the "
                "top of dystress_jax.temperatures), or check_vma=False for the shard_map.",
            ) from error


T = TypeVar("T", bound=Temperature)


@overload
def as_temperature(temperature: T) -> T: ...
@overload
def as_temperature(temperature: NumberLike) -> Constant | PerAnchor: ...
@overload
def as_temperature(temperature: TemperatureLike) -> Temperature: ...
def as_temperature(temperature: TemperatureLike) -> Temperature:
    """Returns the Temperature that a float, an array [n], a function or a Temperature stands for.

    Args:
        temperature: a float or scalar array (`constant`), an array [n] (`per_anchor`), an
            elementwise function of the similarity, or a Temperature, which is returned as it is.
            What holds an array, such as an `nnx.Param`, counts as the array.
            A function may close over traced values, such as a parameter to learn. Inside a
            `shard_map` of your own (not that of `losses.on_mesh`) write such a one as a
            Temperature, or pass check_vma=False to the `shard_map`.

    Returns:
        The temperature.

    Raises:
        ArgumentError: when a float or array is <= 0, an array has more than one axis, or a function
            cannot be traced, such as one with a Python `if`.
        TypeError: when it is none of these (a bool is none), or a Temperature that is no pytree.

    Example:
        >>> as_temperature(0.1)
        Constant(tau=0.1)
        >>> as_temperature(lambda s: 0.1 + 0.1 * s**2)(jnp.array([0.0, 1.0]))
        Array([0.1, 0.2], dtype=float32)
    """
    temperature = array_of(temperature)
    if isinstance(temperature, bool) or getattr(temperature, "dtype", None) == np.bool_:
        raise TypeError("temperature must be a number; found a bool.")
    if isinstance(temperature, Temperature):
        if jax.tree_util.all_leaves([temperature]):
            raise TypeError(
                f"temperature: {type(temperature).__name__} is no pytree; write "
                "@jax.tree_util.register_dataclass above its @dataclasses.dataclass(frozen=True)."
            )
        return temperature
    if callable(temperature):
        # A custom derivative cannot reach what a function closes over: hand it over as leaves.
        scalar = jnp.zeros(())
        traced = _traced(temperature, scalar)
        if concrete(*traced.consts):
            return Function((), temperature, scalar.dtype)
        return Function(
            tuple(traced.consts), functools.partial(_replay, traced.jaxpr), scalar.dtype
        )
    if isinstance(temperature, float | int | np.number | np.ndarray | Array):
        return per_anchor(temperature) if jnp.ndim(temperature) else constant(temperature)
    raise TypeError(
        "temperature must be a float, an array with one entry per anchor, a Temperature or an "
        f"elementwise function of the similarity; found {type(temperature).__name__}."
    )


def _traced(function: Callable, similarity: Float[Array, ""]) -> ClosedJaxpr:
    def tau(similarity):
        tau = function(similarity)
        if isinstance(tau, Temperature):
            raise TypeError(
                f"temperature returned a {type(tau).__name__}: give what it returns, called with "
                "its numbers, and not the function that makes it."
            )
        return tau

    with _written_in_jax():
        return jax.make_jaxpr(tau)(similarity)


def _replay(function: Jaxpr, similarity: Float[Array, ""], *closed_over: Array) -> Array:
    return eval_jaxpr(function, closed_over, similarity)[0]


def check_elementwise(temperature: Temperature) -> None:
    """Refuses a temperature whose tau has another shape than the similarities.

    Strategies call it with rows, tiles and whole matrices of similarities: what has entries of its
    own for the rows or columns of one of them would be wrong in the others.
    """
    positives, negatives = temperature.for_positives, temperature.for_negatives
    for part in (positives,) if positives is negatives else (positives, negatives):
        rows = jnp.shape(jax.tree.leaves(part)[0])[0] if part.is_per_anchor else 1
        shapes = (rows,), (rows, 1)
        for shape, found in zip(shapes, _shapes_of_tau(part, shapes), strict=True):
            if found not in ((), shape):
                raise ArgumentError(
                    "temperature",
                    f"found one whose tau has shape {found} for similarities of shape {shape}; "
                    "allowed: the same shape, as tau depends on each similarity alone and the "
                    "numbers of a temperature are scalars. One tau for each anchor is an array [n] "
                    "as `temperature`, or a pytree class with is_per_anchor, in which a leaf t "
                    "[n] counts as t.reshape(-1, *[1] * (s.ndim - 1)) beside similarities s.",
                )


def _shapes_of_tau(part: Temperature, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    similarities = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    # Shapes alone matter here, and wrong ones should come out.
    of_types, of_ranks = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with _written_in_jax(), of_types, of_ranks:
        tau = jax.eval_shape(lambda *similarities: [*map(part, similarities)], *similarities)
    return jax.tree.map(lambda x: x.shape, tau)


@contextlib.contextmanager
def _written_in_jax() -> Iterator[None]:
    """Says in words that a temperature cannot be traced."""
    try:
        yield
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise ArgumentError(
            "temperature",
            "found one that needs to see numbers, as a Python `if` and NumPy do; allowed: one "
            "written with jax.numpy. jnp.where takes the place of `if`.",
        ) from error


def _filled(similarity: Float[Array, "..."], tau: ArrayLike) -> Float[Array, "..."]:
    if jnp.ndim(tau):  # as sums do: losses refuse several numbers by the shape of the result
        return jnp.zeros_like(similarity) + tau
    return jnp.full_like(similarity, tau)


def _sin_squared(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """sin^2(pi x / 2) for |x| <= 1."""
    if x.dtype == jnp.float64:
        return jnp.sin(jnp.pi / 2 * x) ** 2
    # Least maximum error in x^2: 6e-9, below the rounding of float32, and relative near 0. It
    # takes a fifth of the time of a library sine, where all the time of the loss is spent.
    t = x * x
    q = 0.012686259444 - 0.000799058868 * t
    q = -0.117523253817 + q * t
    q = 0.667584136892 + q * t
    q = -2.029348819628 + q * t
    return (2.467400730053 + q * t) * t


def concrete(*values: NumberLike) -> bool:
    """Whether all values are known while a program is traced."""
    return not any(isinstance(array_of(value), Tracer) for value in values)


def _numbers(value: NumberLike) -> np.ndarray:
    """Concrete numbers as NumPy sees them."""
    return np.asarray(array_of(value))


def check_positive(argument: str, value: NumberLike) -> None:
    """Refuses a concrete number that is not > 0; traced ones pass."""
    if concrete(value) and not np.all(_numbers(value) > 0):
        raise ArgumentError(argument, f"found {value}; allowed: > 0.")


def check_range(tau_min: NumberLike, tau_max: NumberLike) -> None:
    """Refuses concrete numbers unless 0 < tau_min <= tau_max; traced ones pass."""
    check_positive("tau_min", tau_min)
    if concrete(tau_min, tau_max) and np.any(_numbers(tau_min) > _numbers(tau_max)):
        raise ArgumentError("tau_min", f"found {tau_min}; allowed: <= `tau_max` = {tau_max}.")


def _monotone_ratio(shift: NumberLike, width: NumberLike) -> ArrayLike:
    """The greatest tau_max / tau_min with which s / tau(s) increases; 4.504 for D = -1, k = 1.

    With tau = tau_min (1 + (r - 1) p(s)) it increases where tau - s tau' > 0, for every s where
    r - 1 < 1 / max(s p' - p).
    """
    shift, width = np.broadcast_arrays(_numbers(shift), _numbers(width))
    s = np.linspace(-1.0, 1.0, 4001).reshape(-1, *[1] * shift.ndim)
    phase = np.pi * (np.minimum(s, -shift) + shift) / width
    p, slope = (1 + np.cos(phase)) / 2, -np.pi / (2 * width) * np.sin(phase)
    return 1 + 1 / np.maximum(np.max(s * slope - p, axis=0), np.finfo(float).tiny)


def _check_monotone(tau_min: NumberLike, tau_max: NumberLike, limit: ArrayLike) -> None:
    if not concrete(tau_min, tau_max):
        return
    ratio, limit = np.broadcast_arrays(_numbers(tau_max) / _numbers(tau_min), limit)
    worst = np.argmax(ratio / limit)
    if ratio.flat[worst] > limit.flat[worst]:
        warnings.warn(
            f"tau_max / tau_min = {ratio.flat[worst]:.3g} exceeds {limit.flat[worst]:.4g}: without "
            "stop_gradient the logit s / tau(s) is no longer increasing, so some negatives are "
            "pulled closer. Use stop_gradient=True or a narrower range.",
            stacklevel=3,
        )
