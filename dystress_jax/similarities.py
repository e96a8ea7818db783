"""Similarities between rows of embeddings, and the manifold that each one measures on.

Every similarity is called as `similarity(a, b)` with a [n d] and b [m d] and returns [n m]. The
losses also take a plain function with that signature.
"""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jax.lax import DotAlgorithmPreset, Precision
from jaxtyping import Array, Float, Int

from .errors import ArgumentError, known, look_up

__all__ = [
    "Similarity",
    "euclidean",
    "geodesic",
    "inner_product",
    "kernel",
    "oblique",
    "oblique_geodesic",
    "sphere",
    "squared_euclidean",
]

PrecisionLike = Literal["float32", "tensorfloat32", "bfloat16"] | DotAlgorithmPreset
PRECISIONS: dict[str, Precision | None] = {
    "float32": Precision.HIGHEST,
    "tensorfloat32": Precision.HIGH,
    "bfloat16": None,
}
"""The names of precisions, and how JAX says them; None: the operands are cast."""


@dataclass(frozen=True)
class Similarity:
    """A similarity: a projection of the rows onto a manifold, and a measure between its points.

    Attributes:
        project: puts each row onto the manifold, [n d] -> [n d].
        between: measures all pairs of points, [n d], [m d] -> [n m].
        low: least value that `between` takes.
        high: greatest value that `between` takes.
        between_reverse: `between` for reverse mode only, with a faster gradient, if there is one.
        symmetric: whether `between` of two points does not depend on their order, which saves the
            losses half of the pairs.
        positive: what the losses make of the cosine of a positive pair, elementwise, such as a
            margin; None: nothing.
    """

    project: Callable[[Float[Array, "n d"]], Float[Array, "n d"]]
    between: Callable[[Float[Array, "n d"], Float[Array, "m d"]], Float[Array, "n m"]]
    low: float = -math.inf
    high: float = math.inf
    between_reverse: Callable[..., Float[Array, "n m"]] | None = None
    symmetric: bool = False
    positive: Callable[[Float[Array, "..."]], Float[Array, "..."]] | None = None

    def __call__(self, a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """Returns the similarity of every row of a with every row of b, in float32 at least."""
        a, b = at_least_float32(a), at_least_float32(b)
        return self.between(self.project(a), self.project(b))

    def paired(self, a: Float[Array, "n d"], b: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Returns the measure between points a[i] and b[i], already on the manifold."""
        return jax.vmap(lambda x, y: self.between(x[None], y[None])[0, 0])(a, b)

    def for_reverse_mode(self) -> "Similarity":
        """Returns the same similarity for code that is never differentiated forward."""
        return replace(self, between=self.between_reverse or self.between)

    @property
    def for_positives(self) -> "Similarity":
        """The similarity of positive pairs."""
        positive = self.positive
        if positive is None:
            return self
        after = lambda measure: measure and _Then(measure, positive)
        between, reverse = after(self.between), after(self.between_reverse)
        ends = {"low": -math.inf, "high": math.inf}  # of a function that nobody knows
        return replace(self, between=between, between_reverse=reverse, positive=None, **ends)

    def with_angular_margin(self, margin: float) -> "Similarity":
        r"""The same similarity, with an additive angular margin for positive pairs.

        $$s_{ip} = \cos(\theta_{ip} + m) \text{ where } \cos \theta_{ip} \text{ is the similarity}$$

        A positive must then be nearer than all negatives by the angle m. Where $\theta + m$ would
        pass $\pi$ it is $\cos\theta - m \sin m$, as in the authors' code, so that the value falls
        with every angle. The losses apply it to their positives, and to no others.

        Args:
            margin: m in radians, in [0, pi).

        Raises:
            ArgumentError: for another margin, or a similarity that is no cosine.

        Example:
            >>> similarity = sphere.with_angular_margin(0.5)
            >>> similarity.for_positives(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])).round(4)
            Array([[-0.4794]], dtype=float32)

        References:
            Deng et al. (ArcFace), [arXiv 1801.07698](https://arxiv.org/abs/1801.07698), Eq. 3.
        """
        [margin] = known(margin=margin)
        if not 0 <= margin < math.pi:
            raise ArgumentError("margin", f"found {margin}; allowed: in [0, pi), in radians.")
        if (self.low, self.high) != (-1.0, 1.0):
            raise ArgumentError(
                "margin",
                f"found one for a similarity of [{self.low}, {self.high}]; allowed: for a cosine, "
                "such as `sphere`.",
            )
        return replace(self, positive=_AngularMargin(margin))

    def with_precision(self, precision: PrecisionLike) -> "Similarity":
        """The same similarity, with its matrix products in another precision.

        Sums stay in float32, and so does all that comes after the products. A logit is off by about
        the error of a product over tau: at tau = 0.1 some 1e-2 in bfloat16, 1e-3 in tensorfloat32.

        Args:
            precision: "float32", the default of all similarities; "tensorfloat32", 10 bits of
                mantissa on NVIDIA GPUs, three bfloat16 products on TPUs, float32 on CPUs;
                "bfloat16", 7 bits everywhere; or a `jax.lax.DotAlgorithmPreset`.

        Raises:
            ArgumentError: for an unknown name, or a measure that takes no precision.

        Example:
            >>> a = jnp.array([[3.0, 4.0]])
            >>> sphere.with_precision("bfloat16")(a, a)
            Array([[1.]], dtype=float32)
        """
        if isinstance(precision, str):
            look_up(PRECISIONS, precision, argument="precision")
        plain = lambda measure: measure.measure if isinstance(measure, _InPrecision) else measure
        measures = (plain(self.between), plain(self.between_reverse))
        if "precision" not in inspect.signature(measures[0]).parameters:
            raise ArgumentError(
                "precision",
                "found one for a measure of your own; allowed: those of "
                "`dystress_jax.similarities`, or a measure with a keyword `precision`.",
            )
        between, reverse = (m and _InPrecision(m, precision) for m in measures)
        return replace(self, between=between, between_reverse=reverse)

    def as_cosine(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """Maps [low, high] onto [-1, 1], the scale on which temperatures are defined."""
        if math.isinf(self.low) or math.isinf(self.high) or (self.low, self.high) == (-1.0, 1.0):
            return value
        return (value - self.low) * (2.0 / (self.high - self.low)) - 1.0


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Casts half precision to float32, the least in which similarities are computed."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def normalize(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Scales each row to length 1, in float32 at least.

    A zero row stays zero, without a gradient; NaN stays NaN.
    """
    x = at_least_float32(x)
    # The result does not depend on the scale of the row: taking it out first keeps the squares
    # from under- and overflowing, and it needs no gradient.
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    # Else XLA, of rows that are constants of a program, divides by the square of the scale.
    scale = jax.lax.optimization_barrier(scale)
    zero = scale == 0  # not of what is no number: a row with NaN must show
    # One over the largest numbers would be too small to be one.
    less = jnp.where(scale > 1, 0.125, 1.0).astype(x.dtype)
    x = jnp.where(zero, 0.0, (x * less) / jnp.where(zero, 1.0, scale * less))
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(zero, 1.0, squares))


def rows_or_nan(x: Float[Array, "m ..."], index: Int[Array, "..."]) -> Float[Array, "..."]:
    """Returns the rows of that index, and NaN where there is none: jit can refuse no number."""
    return x.at[index].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@dataclass(frozen=True)
class _InPrecision:
    """A measure with its precision; hashable, so that equal ones compile once."""

    measure: Callable[..., Float[Array, "n m"]]
    precision: PrecisionLike

    def __call__(self, a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.measure(a, b, precision=self.precision)


@dataclass(frozen=True)
class _Then:
    """A measure, and a function of its values; hashable."""

    measure: Callable[..., Float[Array, "n m"]]
    function: Callable[[Float[Array, "n m"]], Float[Array, "n m"]]

    def __call__(self, a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.function(self.measure(a, b))


@dataclass(frozen=True)
class _AngularMargin:
    """cos(theta + m) of cos(theta); hashable."""

    margin: float

    def __call__(self, cosine: Float[Array, "..."]) -> Float[Array, "..."]:
        sin, cos = math.sin(self.margin), math.cos(self.margin)
        inside = cosine > -cos  # theta + m < pi
        s = jnp.where(inside, cosine, 0.0)
        # The slope of a sine is infinite at s = 1: stop a few units in the last place before it.
        limit = 1.0 - 4 * float(jnp.finfo(cosine.dtype).eps)
        sine = jnp.sqrt(1.0 - jnp.clip(s, -limit, limit) ** 2)
        return jnp.where(inside, s * cos - sine * sin, cosine - self.margin * sin)


def _einsum(subscripts: str, a: Array, b: Array, precision: PrecisionLike) -> Float[Array, "..."]:
    """The product of two float arrays, their dtype kept."""
    # By default accelerators would round float32 products to fewer bits, and a low temperature
    # magnifies that error by 1 / tau. So the precision is always said.
    if precision == "bfloat16":
        narrow = jnp.bfloat16
        return jnp.einsum(
            subscripts, a.astype(narrow), b.astype(narrow), preferred_element_type=a.dtype
        )
    how = PRECISIONS[precision] if isinstance(precision, str) else precision
    return jnp.einsum(subscripts, a, b, precision=how)


def _dot(
    a: Float[Array, "n d"],
    b: Float[Array, "m d"],
    *,
    precision: PrecisionLike = "float32",
) -> Float[Array, "n m"]:
    return _einsum("nd,md->nm", a, b, precision)


def _dot_reverse(
    a: Float[Array, "n d"],
    b: Float[Array, "m d"],
    *,
    precision: PrecisionLike = "float32",
) -> Float[Array, "n m"]:
    return _dot_with_gradient(precision, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dot_with_gradient(
    precision: PrecisionLike, a: Float[Array, "n d"], b: Float[Array, "m d"]
) -> Float[Array, "n m"]:
    return _dot(a, b, precision=precision)


def _dot_bwd(
    precision: PrecisionLike,
    saved: tuple[Float[Array, "n d"], Float[Array, "m d"]],
    cotangent: Float[Array, "n m"],
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    a, b = saved
    of_a = _einsum("nm,md->nd", cotangent, b, precision)
    if precision != "float32" or jax.default_backend() != "cpu":
        return of_a, _einsum("nm,nd->md", cotangent, a, precision)
    of_b = jax.lax.platform_dependent(
        cotangent, a, cpu=_transposed_product, default=_transposed_product_plain
    )
    return of_a, of_b


def _transposed_product_plain(
    x: Float[Array, "n m"], a: Float[Array, "n d"]
) -> Float[Array, "m d"]:
    return _einsum("nm,nd->md", x, a, "float32")


def _transposed_product(x: Float[Array, "n m"], a: Float[Array, "n d"]) -> Float[Array, "m d"]:
    # On a CPU the product with a transposed left side runs at half the speed. (a^T x)^T transposes
    # the two small matrices instead of the large one; the barriers keep XLA from undoing that.
    still = jax.lax.optimization_barrier
    return still(_einsum("dn,nm->dm", still(a.T), x, "float32")).T


_dot_with_gradient.defvjp(
    lambda precision, a, b: (_dot(a, b, precision=precision), (a, b)), _dot_bwd
)


def _identity(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return x


sphere = Similarity(normalize, _dot, -1.0, 1.0, _dot_reverse, symmetric=True)
"""Cosine similarity, u.v of the rows scaled to length 1; range [-1, 1]."""

inner_product = Similarity(_identity, _dot, between_reverse=_dot_reverse, symmetric=True)
"""Inner product u.v of the rows as they are; unbounded."""


def oblique(num_tokens: int, *, mean: bool = False) -> Similarity:
    r"""Similarity on the oblique manifold, a product of `num_tokens` unit spheres.

    $$\mathrm{tr}(A^T B) = \sum_{k=1}^m a_k \cdot b_k, \qquad |a_k| = |b_k| = 1$$

    Token k meets token k only, so the value is m times the cosine of the flattened tokens, and
    `oblique(1)` is `sphere`. The range is [-m, m]; temperatures see value / m.

    Args:
        num_tokens: m >= 1; a row of length d holds m tokens of d / m numbers, one after another.
        mean: divide by m, so that the range is [-1, 1], that of the sphere. A temperature of m tau
            without it gives the same logits as tau with it.

    Returns:
        The similarity.

    Raises:
        ArgumentError: when num_tokens < 1, or, when called, does not divide the row length.

    Example:
        >>> a = jnp.array([[3.0, 0.0, 0.0, 2.0]])
        >>> oblique(2)(a, a)
        Array([[2.]], dtype=float32)

    References:
        Sun, "Design of the topology for contrastive visual-textual alignment",
        [arXiv 2209.02127](https://arxiv.org/abs/2209.02127).
    """
    if mean:  # points of length 1: the product of two is the mean
        return replace(sphere, project=_Tokens(num_tokens, length=1.0))
    high = float(num_tokens)
    return replace(sphere, project=_Tokens(num_tokens), low=-high, high=high)


def _arccos(cosine: Float[Array, "..."]) -> Float[Array, "..."]:
    # The slope is infinite at +-1: stop a few units in the last place before it.
    limit = 1.0 - 4 * float(jnp.finfo(cosine.dtype).eps)
    return jnp.arccos(jnp.clip(cosine, -limit, limit))


def _negative_angle(
    a: Float[Array, "n d"],
    b: Float[Array, "m d"],
    *,
    precision: PrecisionLike = "float32",
) -> Float[Array, "n m"]:
    return -_arccos(_dot(a, b, precision=precision))


geodesic = Similarity(normalize, _negative_angle, -math.pi, 0.0, symmetric=True)
"""Minus the angle between the rows, -arccos(u.v); range [-pi, 0]."""


def oblique_geodesic(num_tokens: int) -> Similarity:
    r"""Minus the length of the shortest path on the oblique manifold.

    $$-\sqrt{\sum_{k=1}^m \arccos(a_k \cdot b_k)^2} \in [-\pi \sqrt m, 0]$$

    Args:
        num_tokens: m >= 1; a row of length d holds m tokens of d / m numbers, one after another.

    Returns:
        The similarity.

    Raises:
        ArgumentError: when num_tokens < 1, or, when called, does not divide the row length.

    Example:
        >>> a = jnp.array([[1.0, 0.0, 1.0, 0.0]])
        >>> oblique_geodesic(2)(a, -a)
        Array([[-4.44]], dtype=float32)

    References:
        Sun, [arXiv 2209.02127](https://arxiv.org/abs/2209.02127).
    """
    tokens, lowest = _Tokens(num_tokens), -math.pi * math.sqrt(num_tokens)
    return Similarity(tokens, _NegativePath(tokens), lowest, 0.0, symmetric=True)


@dataclass(frozen=True)
class _Tokens:
    """Rows read as `num_tokens` tokens, each normalised; equal ones are equal, and compile once.

    The rows have the given length in the end; None: the tokens have length 1.
    """

    num_tokens: int
    length: float | None = None

    def __post_init__(self):
        if self.num_tokens < 1:
            raise ArgumentError("num_tokens", f"found {self.num_tokens}; allowed: at least 1.")

    def split(self, x: Float[Array, "n d"]) -> Float[Array, "n m k"]:
        if x.shape[-1] % self.num_tokens:
            raise ArgumentError(
                "num_tokens",
                f"found {self.num_tokens}; allowed: a divisor of {x.shape[-1]}, the length of a "
                "row.",
            )
        return x.reshape(x.shape[0], self.num_tokens, -1)

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        points = normalize(self.split(x)).reshape(x.shape)
        return points if self.length is None else points * self.length / math.sqrt(self.num_tokens)


@dataclass(frozen=True)
class _NegativePath:
    """Minus the length of the shortest path between points of several tokens."""

    tokens: _Tokens

    def __call__(
        self,
        a: Float[Array, "n d"],
        b: Float[Array, "m d"],
        *,
        precision: PrecisionLike = "float32",
    ) -> Float[Array, "n m"]:
        split = self.tokens.split
        cosines = _einsum("nkd,mkd->knm", split(a), split(b), precision)
        return -jnp.sqrt(jnp.sum(_arccos(cosines) ** 2, axis=0))  # no angle of `_arccos` is 0


def _squares(
    a: Float[Array, "n d"], b: Float[Array, "m d"], precision: PrecisionLike
) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """Squared distances, and what they may have of rounding, > 0."""
    # Moved alike, which keeps distances: the squares of rows far from 0 would hide them. The two
    # rows of a pair by itself are then at 0 and at their difference.
    lengths = lambda a, b: jnp.sum(a * a, axis=-1)[:, None] + jnp.sum(b * b, axis=-1)[None, :]
    of_points = jax.lax.stop_gradient(lengths(a, b))
    centre = _middle_row(jax.lax.stop_gradient(b))
    a, b = a - centre, b - centre
    of_both = lengths(a, b)
    squares = jnp.maximum(of_both - 2.0 * _dot(a, b, precision=precision), 0.0)
    of = jnp.finfo(squares.dtype)
    eps = float(of.eps)
    # That of the products, and that with which the points came: there a slope has no direction.
    rounding = jax.lax.stop_gradient(of_both) * (4 * eps) + of_points * (256 * eps) ** 2
    return squares, jnp.maximum(rounding, float(of.tiny))


def _middle_row(b: Float[Array, "m d"]) -> Float[Array, "1 d"]:
    """The row nearest to the mean, which a few rows far from all others move, and not to them."""
    mean = jnp.nanmean(b, axis=0, keepdims=True)
    away = jnp.max(jnp.abs(b - mean), axis=-1)
    number = jnp.argmin(jnp.where(jnp.isfinite(away), away, jnp.inf))
    # Not b[number], which JAX refuses of rows that are split over an Explicit axis.
    it = (jnp.arange(b.shape[0]) == number)[:, None]
    nearest = jnp.sum(jnp.where(it, b, 0.0), axis=0, keepdims=True)
    return jnp.where(jnp.isfinite(nearest), nearest, 0.0)


def _power(
    squares: Float[Array, "n m"], rounding: Float[Array, "n m"], exponent: float
) -> Float[Array, "n m"]:
    """A power, in (0, 1], of squared distances; of those that rounding hides, a bounded slope.

    The slope of the power itself would multiply what rounding makes of them by any number: it is
    that of its tangent where rounding begins.
    """
    far = squares > rounding
    power = jnp.where(far, squares, rounding) ** exponent
    power = power * (1.0 + exponent * (jnp.where(far, rounding, squares) / rounding - 1.0))
    exact, power_alone = jax.lax.stop_gradient((squares, power))
    return power + (exact**exponent - power_alone)


def _negative_squares(
    a: Float[Array, "n d"],
    b: Float[Array, "m d"],
    *,
    precision: PrecisionLike = "float32",
) -> Float[Array, "n m"]:
    return -_squares(a, b, precision)[0]


def _negative_distance(
    a: Float[Array, "n d"],
    b: Float[Array, "m d"],
    *,
    precision: PrecisionLike = "float32",
) -> Float[Array, "n m"]:
    return -_power(*_squares(a, b, precision), 0.5)


squared_euclidean = Similarity(_identity, _negative_squares, high=0.0, symmetric=True)
"""Minus the squared distance, -|u - v|^2, of the rows as they are; range (-inf, 0]."""

euclidean = Similarity(_identity, _negative_distance, high=0.0, symmetric=True)
"""Minus the distance, -|u - v|, of the rows as they are; range (-inf, 0]."""


@dataclass(frozen=True)
class _Powers:
    """Minus the sum of powers of the distance on the sphere; hashable."""

    gammas: tuple[float, ...]

    def __call__(
        self,
        a: Float[Array, "n d"],
        b: Float[Array, "m d"],
        *,
        precision: PrecisionLike = "float32",
    ) -> Float[Array, "n m"]:
        squares, rounding = _squares(a, b, precision)
        powers = (_power(squares, rounding, gamma / 2.0) for gamma in self.gammas)
        return -sum(powers, start=jnp.zeros_like(squares))


def kernel(*gammas: float) -> Similarity:
    r"""The exponential kernels of Kernel-InfoNCE: minus a power of the distance on the sphere.

    $$s = -|u - v|^\gamma = -(2 - 2\, u \cdot v)^{\gamma / 2}, \qquad |u| = |v| = 1$$

    With $\gamma = 2$ (the Gaussian kernel) a loss at temperature tau is that of `sphere` at
    tau / 2; $\gamma = 1$ is the Laplacian kernel. Several powers are added: exp(s / tau) is the
    product of their kernels. The range is [-sum of 2^gamma, 0].

    Args:
        *gammas: the powers, each in (0, 2].

    Raises:
        ArgumentError: for no power, or one that is not in (0, 2].

    Example:
        >>> a = jnp.array([[1.0, 0.0]])
        >>> kernel(1)(a, -a)
        Array([[-2.]], dtype=float32)

    References:
        The authors' code ([yifanzhang-pro/Kernel-InfoNCE](https://github.com/yifanzhang-pro/Kernel-InfoNCE)).
    """
    gammas = tuple(known(**{f"gammas[{i}]": gamma for i, gamma in enumerate(gammas)}))
    if not gammas or not all(0 < gamma <= 2 for gamma in gammas):
        raise ArgumentError("gammas", f"found {gammas}; allowed: one or more numbers in (0, 2].")
    lowest = -sum(2.0**gamma for gamma in gammas)
    powers = _Powers(tuple(float(gamma) for gamma in gammas))
    return Similarity(normalize, powers, lowest, 0.0, symmetric=True)


def as_similarity(
    similarity: Similarity | Callable[[Array, Array], Array],
) -> Similarity:
    """Returns the Similarity that a plain function (a [n d], b [m d]) -> [n m] stands for."""
    if isinstance(similarity, Similarity):
        return similarity
    if not callable(similarity):
        raise TypeError(
            "similarity must be one of dystress_jax.similarities or a function (a [n d], b [m d]) "
            f"-> [n m]; found {similarity!r}."
        )
    return Similarity(_identity, similarity)
