"""What a scheme is, what it may look at, and the one that never changes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._placement import whole
from ..losses import dcl, info_nce
from ..temperatures import PerAnchor, Temperature, TemperatureLike, as_temperature, of_anchors

State = Any
Optimizer = Any  # an optax GradientTransformation, or anything with its init and update


_WITHOUT_POSITIVES = functools.partial(info_nce, decoupled=True)
# (anchors, candidates) of one way and of the other; candidate i is the positive of anchor i.
Ways = tuple[
    tuple[Float[Array, "n d"], Float[Array, "n d"]],
    tuple[Float[Array, "n d"], Float[Array, "n d"]],
]


class SchemeInputs(NamedTuple):
    """What a scheme may look at: the anchors of a loss, in its order. No gradient flows back.

    Attributes:
        anchors: embeddings of the anchors.
        positives: embedding of each anchor's positive.
        decoupled: `temperature per anchor -> N_i - l_ip`, the loss without the positive in the
            denominator; for schemes with a state per example.
        negatives: how many negatives each anchor has in it.
        example: number of each anchor's example in the data set, for states per example.
        side: 0 or 1, which of the two views of the example the anchor is; of an image and its text
            0 is the image.
        key: randomness for this step, for schemes that use it.
    """

    anchors: Float[Array, "a d"]
    positives: Float[Array, "a d"]
    decoupled: Callable[[PerAnchor], Float[Array, " a"]] | None = None
    negatives: int = 0
    example: Int[Array, " a"] | None = None
    side: Int[Array, " a"] | None = None
    key: PRNGKeyArray | None = None


def of_views(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    example: Int[Array, " n"] | None = None,
    key: PRNGKeyArray | None = None,
    decoupled: Callable[..., Float[Array, " 2*n"]] = dcl,
) -> SchemeInputs:
    """What a scheme may look at in a loss between two views, such as `losses.nt_xent`.

    Args:
        view_a: embeddings of the first view.
        view_b: embeddings of the second view.
        example: number of each example in the data set.
        key: randomness for this step.
        decoupled: `losses.dcl`, or the same with options of one's own.

    Returns:
        The inputs, their anchors in the order of the loss: all of a, then all of b.

    Example:
        >>> of_views(jnp.eye(2), -jnp.eye(2)).positives[0]
        Array([-1., -0.], dtype=float32)
    """
    value = lambda temperature: whole(decoupled(view_a, view_b, temperature=temperature))
    ways = (view_a, view_b), (view_b, view_a)
    inputs = of_ways(ways, decoupled, examples=(example, example), key=key)
    return inputs._replace(decoupled=value, negatives=2 * view_a.shape[0] - 2)


def of_image_text(
    images: Float[Array, "n d"],
    texts: Float[Array, "n d"],
    *,
    example: Int[Array, " n"] | None = None,
    of_text: Int[Array, " n"] | None = None,
    key: PRNGKeyArray | None = None,
    decoupled: Callable[..., Float[Array, " n"]] = _WITHOUT_POSITIVES,
) -> SchemeInputs:
    """What a scheme may look at in a loss between images and texts, such as `losses.clip`.

    Args:
        images: embeddings of the images.
        texts: embeddings of their texts.
        example: number of each pair in the data set.
        of_text: number of the example that each text is of, where texts have changed places; None:
            `example`.
        key: randomness for this step.
        decoupled: `losses.info_nce` with `decoupled=True`, or the same with options of one's own,
            such as another `similarity`.

    Returns:
        The inputs, whose anchors are first all images, then all texts: a temperature with one entry
        for each is what these losses take as [2n].

    Example:
        >>> of_image_text(jnp.eye(2), -jnp.eye(2)).side
        Array([0, 0, 1, 1], dtype=int32)
    """
    of_text = example if of_text is None else of_text
    ways = (images, texts), (texts, images)
    return of_ways(ways, decoupled, examples=(example, of_text), key=key)


def of_ways(
    ways: Ways,
    decoupled: Callable[..., Float[Array, " n"]],
    *,
    examples: tuple[Int[Array, " n"] | None, Int[Array, " n"] | None],
    key: PRNGKeyArray | None,
) -> SchemeInputs:
    """What a scheme may look at where a loss compares both ways, each anchor with n - 1 negatives.

    Args:
        ways: who is compared with whom.
        decoupled: the loss of one way with the positive left out of the sum.
        examples: numbers in the data set of the anchors of each way; None: they have none.
        key: randomness for this step.
    """
    n = ways[0][0].shape[0]
    seen, (first, second) = whole((ways, examples))
    return SchemeInputs(
        anchors=jnp.concatenate([anchors for anchors, _ in seen]),
        positives=jnp.concatenate([positives for _, positives in seen]),
        decoupled=lambda temperature: both_ways(decoupled, ways, temperature),
        negatives=n - 1,
        example=None if first is None or second is None else jnp.concatenate([first, second]),
        side=jnp.repeat(jnp.arange(2), n),
        key=key,
    )


def both_ways(
    loss: Callable[..., Float[Array, " n"]], ways: Ways, temperature: Temperature | None
) -> Float[Array, " anchors"]:
    """The loss of the anchors of the first way, then that of the anchors of the second.

    Args:
        loss: `(anchors, candidates, *, temperature) -> [n]`.
        ways: who is compared with whom.
        temperature: one for each of the 2n anchors, in this order; or any that is the same for all;
            None: the loss takes none.
    """
    n = ways[0][0].shape[0]

    def of(rows: slice) -> dict[str, Temperature]:
        return {} if temperature is None else {"temperature": of_anchors(temperature, rows)}

    first, second = ways
    values = loss(*first, **of(slice(n))), loss(*second, **of(slice(n, None)))
    return jnp.concatenate(whole(values))


class Scheme(NamedTuple):
    """How a temperature evolves.

    Attributes:
        init: () -> state.
        resolve: (state, inputs) -> the temperature of this step. Schemes that do not look at the
            embeddings take None.
        update: (state, inputs, gradient) -> state of the next step.
        learns: whether `update` needs the gradient.
        reweight: how the loss of each anchor is weighed before the mean; None: not at all.
    """

    init: Callable[[], State]
    resolve: Callable[..., Temperature]
    update: Callable[..., State]
    learns: bool = False
    reweight: Callable[[Float[Array, " anchors"]], Float[Array, " anchors"]] | None = None


def as_scheme(scheme: Scheme | TemperatureLike) -> Scheme:
    """Returns the scheme that a temperature stands for: the same in every step.

    Args:
        scheme: a Scheme, which is returned as it is, or what every loss takes as a temperature.

    Returns:
        The scheme.

    Raises:
        ArgumentError: as `temperatures.as_temperature`.
        TypeError: as `temperatures.as_temperature`.

    Example:
        >>> from dystress_jax.schemes import macl, macl_reweight
        >>> as_scheme(0.1).resolve((), None)
        Constant(tau=0.1)
        >>> as_scheme(macl()).reweight is macl_reweight
        True
    """
    return scheme if isinstance(scheme, Scheme) else fixed(scheme)


def fixed(temperature: TemperatureLike) -> Scheme:
    """The same temperature in every step.

    Args:
        temperature: what every loss takes.

    Returns:
        The scheme; its state is empty.

    Raises:
        ArgumentError: as `temperatures.as_temperature`.
        TypeError: as `temperatures.as_temperature`.

    Example:
        >>> fixed(0.1).resolve((), None)
        Constant(tau=0.1)
    """
    made = as_temperature(temperature)
    return Scheme(
        init=lambda: (),
        resolve=lambda state, inputs: made,
        update=lambda state, inputs, gradient: state,
    )
