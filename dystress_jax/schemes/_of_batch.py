"""Temperatures and weights that follow from the batch: MACL and dual temperature."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import ArgumentError, known
from ..similarities import normalize, sphere
from ..temperatures import Constant, check_positive
from ._scheme import Scheme, SchemeInputs, State


def macl(*, tau: float = 0.1, alpha: float = 0.5, threshold: float = 0.0) -> Scheme:
    r"""The model-aware temperature of MACL: it rises with the similarity of the positives.

    $$\tau = \tau_0 (1 + \alpha (A - A_0)), \qquad A = \text{mean positive similarity}$$

    The method also weighs the loss: the scheme's `reweight` is `macl_reweight`.

    Args:
        tau: tau_0 > 0.
        alpha: how strongly tau follows, in [0, 1].
        threshold: A_0, in [0, 1].

    Returns:
        The scheme; its state is empty, `resolve` needs the inputs.

    Raises:
        ArgumentError: when tau <= 0, or alpha or threshold is not in [0, 1].

    Example:
        >>> from dystress_jax.schemes import of_views
        >>> views = jnp.eye(2)
        >>> macl().resolve((), of_views(views, views))
        Constant(tau=Array(0.15, dtype=float32))

    References:
        Huang et al., [arXiv 2207.07874](https://arxiv.org/abs/2207.07874), and the authors' code.
    """
    check_positive("tau", tau)
    alpha, threshold = known(alpha=alpha, threshold=threshold)
    for argument, value in (("alpha", alpha), ("threshold", threshold)):
        if not 0 <= value <= 1:
            raise ArgumentError(argument, f"found {value}; allowed: in [0, 1].")

    def resolve(state: State, inputs: SchemeInputs) -> Constant:
        del state
        pairs = [normalize(x) for x in (inputs.anchors, inputs.positives)]
        positive = jnp.mean(jax.lax.stop_gradient(sphere.paired(*pairs)))
        return Constant(tau * (1 + alpha * (positive - threshold)))

    keep = lambda state, inputs, gradient: state
    return Scheme(lambda: (), resolve, keep, reweight=macl_reweight)


def macl_reweight(loss: Float[Array, " n"]) -> Float[Array, " n"]:
    r"""The loss of MACL from a softmax loss: examples that are learned keep their gradient.

    $$-\mathrm{sg}\Big[\frac{1}{1 - P_i}\Big] \log P_i, \qquad P_i = e^{-L_i}$$

    Args:
        loss: L_i = -log P_i, such as `losses.nt_xent` returns.

    Returns:
        The weighted loss of each anchor.

    Example:
        >>> macl_reweight(jnp.array([0.6931472]))
        Array([1.3863], dtype=float32)

    References:
        Huang et al., [arXiv 2207.07874](https://arxiv.org/abs/2207.07874), and the authors' code.
    """
    return loss / jax.lax.stop_gradient(_not_sure(loss))


def dual_temperature_reweight(
    loss: Float[Array, " n"], wide: Float[Array, " n"]
) -> Float[Array, " n"]:
    r"""The dual temperature: a loss at one temperature, its anchors weighed as at another.

    $$-\mathrm{sg}\Big[\frac{1 - P_i^b}{1 - P_i^a}\Big] \log P_i^a, \qquad P_i = e^{-L_i}$$

    The temperature a says which negatives of an anchor count, b which anchors do.

    Args:
        loss: L_i at the temperature a, such as `losses.nt_xent` returns at 0.1.
        wide: L_i of the same anchors at the temperature b, ten times a in the authors' code.

    Returns:
        The weighted loss of each anchor. No gradient reaches `wide`.

    Example:
        >>> dual_temperature_reweight(jnp.array([0.6931472]), jnp.array([1.3862944]))
        Array([1.0397], dtype=float32)

    References:
        Zhang et al., CVPR 2022, and the authors' code
        ([ChaoningZhang/Dual-temperature](https://github.com/ChaoningZhang/Dual-temperature)).
    """
    return loss * jax.lax.stop_gradient(_not_sure(wide) / _not_sure(loss))


def _not_sure(loss: Float[Array, " n"]) -> Float[Array, " n"]:
    """1 - P; 1 where the loss is 0, as rounding or a mask makes it, or is no -log P at all."""
    is_one = loss > jnp.finfo(loss.dtype).tiny
    return jnp.where(is_one, -jnp.expm1(-jnp.where(is_one, loss, 1.0)), 1.0)
