"""Optimisers, learning-rate rules and the schedule, built from optax."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike

from .errors import ArgumentError, at_least_one, look_up

# Step to value, as optax's schedules.
Schedule = Callable[[Any], Any]


def is_matrix(params: Any) -> Any:
    """Mark the arrays with two axes or more: kernels, but no biases and no norm's scale or offset.

    This is the mask by which weight decay and layer-wise adaptation leave BatchNorm and biases
    alone. It needs shapes only, so a new layer cannot be forgotten in a list of names.

    Args:
        params: a tree of arrays.

    Returns:
        The same tree of booleans.

    Example:
        >>> is_matrix({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)})
        {'bias': False, 'kernel': True}
    """
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def sgd(
    schedule: float | Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay_vectors: bool = True,
) -> optax.GradientTransformation:
    r"""SGD with momentum and coupled weight decay, as PyTorch's.

    $$v \gets m v + g + \lambda w, \qquad w \gets w - \eta v$$

    Args:
        schedule: the learning rate $\eta$, at least 0: a number, or a function of the step.
        momentum: m, in [0, 1).
        weight_decay: $\lambda$, at least 0.
        decay_vectors: whether biases and norms decay too, as in PyTorch.

    Example:
        >>> optimizer = sgd(0.1, momentum=0.0, weight_decay=0.5)
        >>> params = {"kernel": jnp.ones((1, 1))}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["kernel"])
        [[-0.15]]
    """
    _check(momentum=momentum, weight_decay=weight_decay)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=True if decay_vectors else is_matrix),
        optax.sgd(schedule, momentum=momentum or None),
    )


def adamw(
    schedule: float | Schedule,
    *,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay_vectors: bool = True,
) -> optax.GradientTransformation:
    r"""Adam with $\beta_1 = .9$ and decoupled weight decay, as PyTorch's.

    $$m \gets .9 m + .1 g, \qquad v \gets \beta_2 v + (1 - \beta_2) g^2$$
    $$w \gets w - \eta \left(
      \frac{m / (1 - .9^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda w \right)$$

    Args:
        schedule: the learning rate $\eta$, at least 0: a number, or a function of the step.
        beta2: $\beta_2$, in [0, 1); CLIP's ViTs have 0.98.
        eps: $\epsilon$, above 0; CLIP's ViTs have 1e-6.
        weight_decay: $\lambda$, at least 0.
        decay_vectors: whether biases and norms decay too, as in PyTorch.

    Raises:
        ArgumentError: a number is out of range.

    Example:
        >>> optimizer = adamw(0.1)
        >>> params = {"w": jnp.zeros((1, 2))}
        >>> updates, _ = optimizer.update({"w": jnp.ones((1, 2))}, optimizer.init(params), params)
        >>> updates["w"]
        Array([[-0.1, -0.1]], dtype=float32)

    References:
        Loshchilov and Hutter, [arXiv 1711.05101](https://arxiv.org/abs/1711.05101). The numbers of
        CLIP: Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020), table 18.
    """
    _check(weight_decay=weight_decay)
    if not 0 <= beta2 < 1:
        raise ArgumentError("beta2", f"found {beta2}; allowed: in [0, 1).")
    if eps <= 0:
        raise ArgumentError("eps", f"found {eps}; allowed: above 0.")
    return optax.adamw(
        schedule,
        b2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        mask=True if decay_vectors else is_matrix,
    )


def _trust_of_the_decayed(
    weight_decay: float, schedule: float | Schedule
) -> optax.GradientTransformation:
    del schedule
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=is_matrix),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), is_matrix),
    )


def _trust_of_both_lengths(
    weight_decay: float, schedule: float | Schedule
) -> optax.GradientTransformation:
    del schedule

    def adapt(gradient: ArrayLike, w: ArrayLike) -> ArrayLike:
        if jnp.ndim(w) < 2 or weight_decay == 0:
            return gradient
        length, slope = (jnp.linalg.norm(jnp.ravel(x)) for x in (w, gradient))
        trust = 0.001 * length / (slope + weight_decay * length + 1e-8)
        moving = (length > 0) & (slope > 0)
        return jnp.where(moving, trust * (gradient + weight_decay * w), gradient)

    return optax.stateless(lambda updates, params: jax.tree.map(adapt, updates, params))


def _trust_up_to_the_rate(
    weight_decay: float, schedule: float | Schedule
) -> optax.GradientTransformation:
    def adapt(gradient: ArrayLike, w: ArrayLike, rate: Array | float) -> ArrayLike:
        if jnp.ndim(w) < 2:
            return gradient
        length, slope = (jnp.linalg.norm(jnp.ravel(x)) for x in (w, gradient))
        trust = 0.02 * length / (slope + weight_decay * length + 1e-8)
        # Of a rate of 0 the quotient is no number, and nothing moves.
        share = jnp.where(trust < rate, trust / jnp.where(rate > 0, rate, 1), 1)
        moving = (length > 0) & (slope > 0)
        return jnp.where(moving, share * (gradient + weight_decay * w), gradient)

    def update(updates, state, params=None):
        rate = schedule(state.count) if callable(schedule) else schedule
        adapted = jax.tree.map(lambda g, w: adapt(g, w, rate), updates, params)
        return adapted, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    first = lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))
    return optax.GradientTransformation(first, update)


class _Lars(NamedTuple):
    adapt: Callable[[float, float | Schedule], optax.GradientTransformation]
    rate_in_momentum: bool = False


LARS_FORMS: dict[str, _Lars] = {
    "moco_v3": _Lars(_trust_of_the_decayed),
    "lightly": _Lars(_trust_of_both_lengths),
    "simclr": _Lars(_trust_of_the_decayed, rate_in_momentum=True),
    "solo_learn": _Lars(_trust_up_to_the_rate),
}
"""Whose LARS; `lars` says how they differ."""


def lars(
    schedule: float | Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    form: str = "moco_v3",
) -> optax.GradientTransformation:
    r"""LARS: every matrix and kernel has a step in proportion to its own length.

    With $u = g + \lambda w$, and $\eta$ outside the momentum or inside,

    $$a = .001 \frac{|w|}{|u|} u, \qquad \text{or} \qquad
      a = .001 \frac{|w|}{|g| + \lambda |w| + 10^{-8}} u$$
    $$v \gets m v + a, \quad w \gets w - \eta v, \qquad \text{or} \qquad
      v \gets m v + \eta a, \quad w \gets w - v$$

    | form      | a          | rate    |
    | --------- | ---------- | ------- |
    | `moco_v3` | the first  | outside |
    | `lightly` | the second | outside |
    | `simclr`  | the first  | inside  |

    With `solo_learn` the step of a layer is .02 of its length, but at most that of SGD:

    $$a = \min\left(\frac{.02}{\eta} \frac{|w|}{|g| + \lambda |w| + 10^{-8}}, 1\right) u, \qquad
      v \gets m v + a, \quad w \gets w - \eta v$$

    The two rates are the same while the rate is constant; inside, a step of a warm-up is shorter.
    On biases and norms there is neither decay nor adaptation: $a = g$. A kernel of zeros has
    $a = u$. Under a gradient of zeros a kernel decays by $a = .001 \, w$; with `lightly` and
    `solo_learn` it stays. With `lightly` and $\lambda = 0$ every $a$ is $g$.

    Args:
        schedule: the learning rate $\eta$, at least 0: a number, or a function of the step.
        momentum: m, in [0, 1).
        weight_decay: $\lambda$, at least 0.
        form: whose LARS, one of the names above.

    Raises:
        ArgumentError: the form is unknown or a number is out of range.

    Example:
        >>> optimizer = lars(1.0, momentum=0.0)
        >>> params = {"kernel": jnp.full((1, 4), 2.0), "bias": jnp.zeros(1)}
        >>> gradient = {"kernel": jnp.full((1, 4), 50.0), "bias": jnp.ones(1)}
        >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        >>> float(updates["kernel"][0, 0]), float(updates["bias"][0])
        (-0.002, -1.0)

    References:
        You et al., [arXiv 1708.03888](https://arxiv.org/abs/1708.03888). `moco_v3`:
        `moco/optimizer.py` of [facebookresearch/moco-v3](https://github.com/facebookresearch/moco-v3).
        `lightly`: `utils/lars.py` of [lightly-ai/lightly](https://github.com/lightly-ai/lightly),
        which DySTreSS uses on ImageNet. `simclr`: `lars_optimizer.py` of
        [google-research/simclr](https://github.com/google-research/simclr). `solo_learn`:
        `solo/utils/lars.py` of [vturrisi/solo-learn](https://github.com/vturrisi/solo-learn) with
        the `clip_lr`, `eta` and `exclude_bias_n_norm` of its scripts.
    """
    _check(momentum=momentum, weight_decay=weight_decay)
    adapt, rate_in_momentum = look_up(LARS_FORMS, form, argument="form")
    rate, trace = optax.scale_by_learning_rate(schedule), optax.trace(momentum)
    steps = (rate, trace) if rate_in_momentum else (trace, rate)
    return optax.chain(adapt(weight_decay, schedule), *steps)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "adamw": adamw,
    "lars": lars,
}
"""Optimisers by name."""
LAYERWISE = ("lars",)
"""Those whose rate is for kernels, in proportion to their own length: too high for a number."""


def _check(*, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
    if not 0 <= momentum < 1:
        raise ArgumentError("momentum", f"found {momentum}; allowed: in [0, 1).")
    if weight_decay < 0:
        raise ArgumentError("weight_decay", f"found {weight_decay}; allowed: at least 0.")


RULES: dict[str, Callable[[float, int], float]] = {
    "constant": lambda base, batch_size: base,
    "linear": lambda base, batch_size: base * batch_size / 256,
    "sqrt": lambda base, batch_size: base * math.sqrt(batch_size),
}
"""How the peak learning rate follows from the base rate and the batch size."""


def learning_rate(rule: str, base: float, batch_size: int) -> float:
    r"""Scale a base learning rate to the batch.

    | rule | learning rate |
    |---|---|
    | `constant` | $b$ |
    | `linear` | $b B / 256$ |
    | `sqrt` | $b \sqrt{B}$ |

    Args:
        rule: one of the names above.
        base: the base b, above 0.
        batch_size: images a step B (pairs of views, not views), at least 1.

    Returns:
        The peak of the schedule.

    Raises:
        ArgumentError: the rule is unknown or a number is out of range.

    Example:
        >>> learning_rate("sqrt", 0.075, 256)
        1.2

    References:
        `linear`: Goyal et al., [arXiv 1706.02677](https://arxiv.org/abs/1706.02677). `sqrt`: Chen
        et al., [arXiv 2002.05709](https://arxiv.org/abs/2002.05709), Appendix B.1, with base .075,
        which DySTreSS keeps for ImageNet.
    """
    scale = look_up(RULES, rule, argument="rule")
    if base <= 0:
        raise ArgumentError("base", f"found {base}; allowed: above 0.")
    at_least_one(batch_size=batch_size)
    return scale(base, batch_size)


def warmup_cosine(
    peak: float, *, total_steps: int, warmup_steps: int = 0, final: float = 0.0, interval: int = 1
) -> Schedule:
    r"""Rise linearly from 0 to the peak, then fall along half a cosine to the final value.

    $$\eta(t) = \begin{cases} p \, t / W & t < W \\
      f + \frac{p - f}{2} \left(1 + \cos \pi \frac{t - W}{T - W}\right) & W \le t \le T
      \end{cases}$$

    Args:
        peak: the highest value p, above 0.
        total_steps: steps of the whole schedule T, at least 1; beyond them it stays at `final`.
        warmup_steps: steps of the rise W, in [0, total_steps); 0 starts at the peak.
        final: the last value f, in [0, peak].
        interval: steps between two values of the cosine, at least 1: with the steps of an epoch it
            stays the same for an epoch, as where PyTorch's `CosineAnnealingLR` steps by the epoch.
            The rise goes step by step all the same.

    Returns:
        The schedule: step to learning rate, jittable.

    Raises:
        ArgumentError: a number is out of range, or the warm-up leaves no step for the cosine.

    Example:
        >>> schedule = warmup_cosine(1.0, total_steps=30, warmup_steps=10)
        >>> [round(float(schedule(step)), 2) for step in (0, 5, 10, 20, 30)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if peak <= 0:
        raise ArgumentError("peak", f"found {peak}; allowed: above 0.")
    if not 0 <= final <= peak:
        raise ArgumentError("final", f"found {final}; allowed: in [0, peak = {peak}].")
    if not 0 <= warmup_steps < total_steps:
        raise ArgumentError(
            "warmup_steps",
            f"found {warmup_steps} in a run of {total_steps} steps; allowed: fewer than the run "
            "has, so that the cosine has a step left.",
        )
    if warmup_steps == 0:
        schedule = optax.cosine_decay_schedule(peak, total_steps, alpha=final / peak)
    else:
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, total_steps, final)
    schedule = of_floats(schedule)
    falling = every(interval, schedule, start=warmup_steps)
    return lambda step: jnp.where(step < warmup_steps, schedule(step), falling(step))


def of_floats(schedule: Schedule) -> Schedule:
    """The schedule, given its step as a float: strict promotion divides no whole numbers by others.

    Args:
        schedule: of the step.

    Example:
        >>> half = of_floats(lambda step: step / 2.0)
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     float(half(jnp.int32(3)))
        1.5
    """
    return lambda step: schedule(jnp.asarray(step, jnp.float32))


def every(interval: int, schedule: Schedule, *, start: int = 0) -> Schedule:
    """A schedule that keeps its value between multiples of `interval`.

    Args:
        interval: steps between two changes, at least 1; those of an epoch for a schedule by epochs.
        schedule: of the step.
        start: a step, at least 0; the value before it is the one at it.

    Raises:
        ArgumentError: interval is below 1.

    Example:
        >>> by_epoch = every(10, lambda step: step)
        >>> [int(by_epoch(step)) for step in (0, 9, 10, 25)]
        [0, 0, 10, 20]
    """
    at_least_one(interval=interval)
    return lambda step: schedule(jnp.maximum(step // interval * interval, start))
