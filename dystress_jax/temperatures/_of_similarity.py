"""Temperatures that depend on the similarity of each pair."""

import math
import warnings
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jaxtyping import Array, ArrayLike, Float

from ..errors import ArgumentError, known
from ._checks import as_floats, check_positive, check_range, concrete, numbers
from ._temperature import Leaf, NumberLike, Temperature


@register_dataclass
@dataclass(frozen=True)
class _Range(Temperature):
    """A temperature that moves between two ends."""

    tau_min: Leaf
    tau_max: Leaf
    stop_gradient: bool = field(default=True, metadata={"static": True}, kw_only=True)

    def lower_bound(self) -> ArrayLike:
        if concrete(self.tau_min, self.tau_max):
            return self.tau_min
        return jnp.minimum(self.tau_min, self.tau_max)  # ends that are traced may have crossed

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        similarity = as_floats(similarity)
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
        size = jnp.abs(similarity)
        return jnp.where(size <= 1.0, size, 1.0)  # clip has half a slope at 1


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
        inside = jnp.abs(similarity) <= 1.0  # clip alone has half a slope at the ends
        return (1.0 + jnp.where(inside, similarity, jnp.clip(similarity, -1.0, 1.0))) / 2.0


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
    if concrete(rate) and np.any(numbers(rate) < 0):
        raise ArgumentError("rate", f"found {rate}; allowed: >= 0.")
    return Exponential(tau_min, tau_max, rate, stop_gradient=stop_gradient)


@register_dataclass
@dataclass(frozen=True)
class TemperatureFree(Temperature):
    """See `temperature_free`."""

    scale: Leaf
    epsilon: float = field(default=1e-6, metadata={"static": True}, kw_only=True)

    def __call__(self, similarity: Float[Array, "..."]) -> Float[Array, "..."]:
        limit = 1.0 - self.epsilon
        s = as_floats(similarity)
        if s.dtype.itemsize < 4:  # half precision rounds the limit to 1
            return self(s.astype(jnp.float32)).astype(s.dtype)
        s = jnp.clip(s, -limit, limit)
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
    [epsilon] = known(epsilon=epsilon)
    if not 1e-7 <= epsilon < 1:
        raise ArgumentError("epsilon", f"found {epsilon}; allowed: in [1e-7, 1).")
    return TemperatureFree(scale, epsilon=epsilon)


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


def _monotone_ratio(shift: NumberLike, width: NumberLike) -> ArrayLike:
    """The greatest tau_max / tau_min with which s / tau(s) increases; 4.504 for D = -1, k = 1.

    With tau = tau_min (1 + (r - 1) p(s)) it increases where tau - s tau' > 0, for every s where
    r - 1 < 1 / max(s p' - p).
    """
    shift, width = np.broadcast_arrays(numbers(shift), numbers(width))
    s = np.linspace(-1.0, 1.0, 4001).reshape(-1, *[1] * shift.ndim)
    phase = np.pi * (np.minimum(s, -shift) + shift) / width
    p, slope = (1 + np.cos(phase)) / 2, -np.pi / (2 * width) * np.sin(phase)
    return 1 + 1 / np.maximum(np.max(s * slope - p, axis=0), np.finfo(float).tiny)


def _check_monotone(tau_min: NumberLike, tau_max: NumberLike, limit: ArrayLike) -> None:
    if not concrete(tau_min, tau_max):
        return
    ratio, limit = np.broadcast_arrays(numbers(tau_max) / numbers(tau_min), limit)
    worst = np.argmax(ratio / limit)
    if ratio.flat[worst] > limit.flat[worst]:
        warnings.warn(
            f"tau_max / tau_min = {ratio.flat[worst]:.3g} exceeds {limit.flat[worst]:.4g}: without "
            "stop_gradient the logit s / tau(s) is no longer increasing, so some negatives are "
            "pulled closer. Use stop_gradient=True or a narrower range.",
            stacklevel=3,
        )
