"""Temperatures that gradient descent learns: the scale of CLIP, with the bias of SigLIP."""

import math

import jax
import jax.numpy as jnp

from ..temperatures import CLIP_LOG_SCALE, Learned, LearnedWithBias, check_scales
from ._scheme import Optimizer, Scheme, SchemeInputs, State


def learned_scale(
    optimizer: Optimizer,
    *,
    log_scale: float = CLIP_LOG_SCALE,
    min_scale: float = 1.0,
    max_scale: float = 100.0,
) -> Scheme:
    r"""The learned temperature of CLIP, with an optimiser of its own.

    $$\tau = e^{-t}, \qquad
      t \leftarrow \mathrm{clip}(t + u, \ln \text{min\_scale}, \ln \text{max\_scale})$$

    where u is the optimiser's update for the gradient of the loss. The clamp acts after each step.

    Args:
        optimizer: an optax optimiser for the one parameter.
        log_scale: initial t, any number.
        min_scale: smallest 1 / tau, > 0. An oblique manifold of m tokens that starts from the
            logits of the sphere has a scale m times smaller, which may be below 1.
        max_scale: largest 1 / tau, > min_scale.

    Returns:
        The scheme; its state holds t and the optimiser's state, and `resolve` a
        `temperatures.learned`.

    Raises:
        ArgumentError: when not 0 < min_scale < max_scale.

    Example:
        >>> import optax
        >>> scheme = learned_scale(optax.sgd(0.1), log_scale=math.log(20.0))
        >>> tau = scheme.resolve(scheme.init(), None)
        >>> float(tau(jnp.array([0.5]))[0])
        0.05

    References:
        Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020), section 2.5.
    """
    min_scale, max_scale = check_scales(min_scale, max_scale)

    def init() -> State:
        t = jnp.float32(log_scale)
        return t, optimizer.init(t)

    def resolve(state: State, inputs: SchemeInputs | None) -> Learned:
        del inputs
        return Learned(state[0], min_scale=min_scale, max_scale=max_scale)

    def update(state: State, inputs: SchemeInputs | None, gradient: Learned) -> State:
        del inputs
        t, optimizer_state = state
        change, optimizer_state = optimizer.update(gradient.log_scale, optimizer_state, t)
        return jnp.clip(t + change, math.log(min_scale), math.log(max_scale)), optimizer_state

    return Scheme(init, resolve, update, learns=True)


def learned_scale_and_bias(
    optimizer: Optimizer,
    *,
    log_scale: float = math.log(10.0),
    bias: float = -10.0,
    min_scale: float = 1.0,
    max_scale: float = 100.0,
) -> Scheme:
    r"""The learned scale and bias of SigLIP, with an optimiser of their own.

    $$t' \leftarrow \mathrm{clip}(t' + u, \ln \text{min\_scale}, \ln \text{max\_scale}), \qquad
      b \leftarrow b + v$$

    Args:
        optimizer: an optax optimiser for the two parameters.
        log_scale: initial t', the logarithm of the scale, any number.
        bias: initial b, any number.
        min_scale: smallest scale, > 0.
        max_scale: largest scale, > min_scale.

    Returns:
        The scheme; `resolve` gives a temperature whose `scale` and `bias` `losses.siglip` takes.

    Raises:
        ArgumentError: when not 0 < min_scale < max_scale.

    Example:
        >>> import optax
        >>> scheme = learned_scale_and_bias(optax.sgd(0.1))
        >>> learned = scheme.resolve(scheme.init(), None)
        >>> float(learned.scale), float(learned.bias)
        (10.0, -10.0)

    References:
        Zhai et al., [arXiv 2303.15343](https://arxiv.org/abs/2303.15343), section 3.2; the clamp
        is that of open_clip.
    """
    min_scale, max_scale = check_scales(min_scale, max_scale)

    def init() -> State:
        parameters = (jnp.float32(log_scale), jnp.float32(bias))
        return parameters, optimizer.init(parameters)

    def resolve(state: State, inputs: SchemeInputs | None) -> LearnedWithBias:
        del inputs
        t, b = state[0]
        return LearnedWithBias(t, b, min_scale=min_scale, max_scale=max_scale)

    def update(state: State, inputs: SchemeInputs | None, gradient: LearnedWithBias) -> State:
        del inputs
        parameters, optimizer_state = state
        slopes = (gradient.log_scale, gradient.bias)
        changes, optimizer_state = optimizer.update(slopes, optimizer_state, parameters)
        t, b = jax.tree.map(jnp.add, parameters, changes)
        return (jnp.clip(t, math.log(min_scale), math.log(max_scale)), b), optimizer_state

    return Scheme(init, resolve, update, learns=True)
