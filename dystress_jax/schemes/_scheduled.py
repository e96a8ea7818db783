"""Temperatures that follow the number of steps."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from ..temperatures import Temperature, check_positive, check_range
from ._scheme import Scheme, SchemeInputs


def scheduled(
    make: Callable[..., Temperature],
    **fields: ArrayLike | Temperature | Callable[[Array], ArrayLike],
) -> Scheme:
    """A temperature whose fields follow schedules.

    Args:
        make: a function of `temperatures`, such as `dystress`.
        **fields: its arguments; each is a number, a Temperature where `make` takes one, or a
            schedule (step -> number) such as those of optax or `cosine_schedule`.

    Returns:
        The scheme; its state is the number of updates so far.

    Example:
        >>> from dystress_jax.temperatures import dystress
        >>> scheme = scheduled(dystress, tau_min=lambda step: 0.1 + 0.01 * step, tau_max=0.5)
        >>> state = scheme.update(scheme.init(), None, None)
        >>> round(float(scheme.resolve(state, None).tau_min), 4)
        0.11
    """

    def resolve(step: Int[Array, ""], inputs: SchemeInputs | None) -> Temperature:
        del inputs
        now = {
            name: value if isinstance(value, Temperature) or not callable(value) else value(step)
            for name, value in fields.items()
        }
        return make(**now)

    return Scheme(
        init=lambda: jnp.zeros((), jnp.int32),
        resolve=resolve,
        update=lambda step, inputs, gradient: step + 1,
    )


def cosine_schedule(
    tau_min: float = 0.1, tau_max: float = 1.0, *, half_period: float = 200
) -> Callable[[ArrayLike], Array]:
    r"""The temperature schedule of Kukleva et al.

    $$\tau(t) = \tau_{min} + \tfrac12 (\tau_{max} - \tau_{min}) (1 + \cos(\pi t / T))$$

    Starts at tau_max, reaches tau_min after T and goes on oscillating.

    Args:
        tau_min: lowest temperature, > 0.
        tau_max: highest temperature, >= tau_min.
        half_period: T, in the unit of the argument, above 0. The authors count epochs and use 200,
            so a full period takes 400 epochs; in steps, multiply by the steps of an epoch.

    Returns:
        The schedule t -> tau.

    Raises:
        ArgumentError: when tau_min <= 0, tau_min > tau_max or half_period <= 0.

    Example:
        >>> [round(float(cosine_schedule()(epoch)), 3) for epoch in (0, 100, 200, 400)]
        [1.0, 0.55, 0.1, 1.0]

    References:
        Kukleva et al., [arXiv 2303.13664](https://arxiv.org/abs/2303.13664), and their code.
    """
    check_range(tau_min, tau_max)
    check_positive("half_period", half_period)
    return lambda t: tau_min + (tau_max - tau_min) / 2 * (1 + jnp.cos(jnp.pi * t / half_period))
