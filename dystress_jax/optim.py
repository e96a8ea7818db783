"""Optimisers, learning-rate rules and the schedule, built from optax."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

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


def make_optimizer(
    name: str,
    schedule: float | Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay_vectors: bool = True,
) -> optax.GradientTransformation:
    r"""Make an optimiser.

    With gradient :math:`g`, weight decay :math:`\lambda`, momentum :math:`m`, rate :math:`\eta`:

    ========  =====================================================================================
    sgd       :math:`v \gets m v + g + \lambda w, \quad w \gets w - \eta v`:
              coupled L2 on every parameter, as PyTorch's SGD
    adamw     Adam with :math:`\beta = (.9, .999)` and decoupled decay :math:`\eta \lambda w`
    lars      :math:`u = g + \lambda w, \; v \gets m v + \eta \, .001 \frac{|w|}{|u|} u, \;
              w \gets w - v` on matrices and kernels; on BatchNorm and biases neither decay nor
              adaptation: :math:`v \gets m v + \eta g`
    ========  =====================================================================================

    Args:
        name: ``sgd``, ``adamw`` or ``lars``.
        schedule: the learning rate: a number, or a function of the step.
        momentum: for sgd and lars, in [0, 1); adamw has no use for it.
        weight_decay: at least 0.
        decay_vectors: whether sgd and adamw decay biases and BatchNorm too, as PyTorch's do; lars
            never does.

    Returns:
        The transformation; its ``update`` needs the parameters.

    Raises:
        ValueError: the name is unknown or a number is out of range.

    Example:
        >>> optimizer = make_optimizer("sgd", 0.1, momentum=0.0, weight_decay=0.5)
        >>> params = {"kernel": jnp.ones((1, 1))}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["kernel"])
        [[-0.15]]

    References:
        LARS: You et al., arXiv 1708.03888, with the order of momentum and rate, the coefficient
        .001 and the exclusions of SimCLR (google-research/simclr, ``lars_optimizer.py``).
        AdamW: Loshchilov and Hutter, arXiv 1711.05101.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1); found {momentum}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be at least 0; found {weight_decay}")
    decayed = True if decay_vectors else is_matrix
    match name:
        case "sgd":
            return optax.chain(
                optax.add_decayed_weights(weight_decay, mask=decayed),
                optax.sgd(schedule, momentum=momentum or None),
            )
        case "adamw":
            return optax.adamw(schedule, weight_decay=weight_decay, mask=decayed)
        case "lars":
            return optax.lars(
                schedule,
                weight_decay=weight_decay,
                weight_decay_mask=is_matrix,
                trust_ratio_mask=is_matrix,
                momentum=momentum,
            )
    raise ValueError(f"unknown optimizer {name!r}; choose one of ['sgd', 'adamw', 'lars']")


def learning_rate(rule: str, base: float, batch_size: int) -> float:
    r"""Scale a base learning rate to the batch.

    ``constant``: :math:`b`; ``linear``: :math:`b B / 256`; ``sqrt``: :math:`b \sqrt{B}`.

    Args:
        rule: one of the names above.
        base: the base :math:`b`, above 0.
        batch_size: images a step :math:`B` (pairs of views, not views), at least 1.

    Returns:
        The peak of the schedule.

    Raises:
        ValueError: the rule is unknown or a number is out of range.

    Example:
        >>> learning_rate("sqrt", 0.075, 256)
        1.2

    References:
        ``linear``: Goyal et al., arXiv 1706.02677. ``sqrt``: Chen et al., arXiv 2002.05709,
        appendix B.1, with base .075, which DySTreSS keeps for ImageNet.
    """
    if base <= 0:
        raise ValueError(f"the base learning rate must be above 0; found {base}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; found {batch_size}")
    match rule:
        case "constant":
            return base
        case "linear":
            return base * batch_size / 256
        case "sqrt":
            return base * math.sqrt(batch_size)
    raise ValueError(
        f"unknown learning-rate rule {rule!r}; choose one of ['constant', 'linear', 'sqrt']"
    )


def warmup_cosine(
    peak: float, *, total_steps: int, warmup_steps: int = 0, final: float = 0.0
) -> Schedule:
    r"""Rise linearly from 0 to the peak, then fall along half a cosine to the final value.

    .. math::
        \eta(t) = \begin{cases} p \, t / W & t < W \\
        f + \frac{p - f}{2} \left(1 + \cos \pi \frac{t - W}{T - W}\right) & W \le t \le T
        \end{cases}

    Args:
        peak: the highest value :math:`p`, above 0.
        total_steps: steps of the whole schedule :math:`T`; beyond them it stays at ``final``.
        warmup_steps: steps of the rise :math:`W`, in [0, total_steps); 0 starts at the peak.
        final: the last value :math:`f`, in [0, peak].

    Returns:
        The schedule: step to learning rate, jittable.

    Raises:
        ValueError: a number is out of range, or the warm-up leaves no step for the cosine.

    Example:
        >>> schedule = warmup_cosine(1.0, total_steps=30, warmup_steps=10)
        >>> [round(float(schedule(step)), 2) for step in (0, 5, 10, 20, 30)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if peak <= 0:
        raise ValueError(f"peak must be above 0; found {peak}")
    if not 0 <= final <= peak:
        raise ValueError(f"final must be in [0, peak = {peak}]; found {final}")
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps must be in [0, total_steps), so that the cosine has a step left; found "
            f"warmup_steps = {warmup_steps} of total_steps = {total_steps}: train longer or warm "
            "up less"
        )
    cosine = optax.cosine_decay_schedule(peak, total_steps - warmup_steps, alpha=final / peak)
    if warmup_steps == 0:
        return cosine
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, cosine], [warmup_steps])
