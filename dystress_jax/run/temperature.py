"""Every temperature by name: how it, or its scheme, is made of settings and of what a run knows."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jaxtyping import PRNGKeyArray

from .. import optim, schemes, temperatures
from ..schemes import Scheme
from ..temperatures import Temperature


class Facts(NamedTuple):
    """What a run knows that its temperature may depend on.

    Attributes:
        key: randomness for initial values.
        examples: rows of the data set, for a state of each example.
        width: of the embeddings.
        steps_per_epoch: for schedules in epochs.
        total_steps: for schedules over the run.
        optimizer: for a temperature that is learned: that of the run, without weight decay; Adam
            where that of the run has a rate for each layer.
        sigmoid: whether the loss is SigLIP's, which has a bias.
        image_text: whether images are compared with texts.
    """

    key: PRNGKeyArray
    examples: int
    width: int
    steps_per_epoch: int
    total_steps: int
    optimizer: optax.GradientTransformation
    sigmoid: bool
    image_text: bool


def temo(*, tau_min: float, tau_max: float) -> Temperature:
    """TeMo, whose gradient goes through the temperature."""
    return temperatures.temo(tau_min, tau_max)


def temperature_free() -> Temperature:
    """No temperature at all."""
    return temperatures.temperature_free()


def cosine_schedule(
    facts: Facts, *, tau_min: float, tau_max: float, half_period: float, interval: str
) -> Scheme:
    """Kukleva et al.: up and down by a cosine of the epoch."""
    tau = schemes.cosine_schedule(tau_min, tau_max, half_period=half_period * facts.steps_per_epoch)
    if interval == "epoch":
        tau = optim.every(facts.steps_per_epoch, tau)
    return schemes.scheduled(temperatures.constant, tau=tau)


def linear_schedule(facts: Facts, *, tau_min: float, tau_max: float) -> Scheme:
    """From tau_min at the first step to tau_max at the last."""
    tau = optax.linear_schedule(tau_min, tau_max, max(facts.total_steps - 1, 1))
    return schemes.scheduled(temperatures.constant, tau=tau)


def learned(
    facts: Facts,
    *,
    tau: float,
    min_scale: float,
    max_scale: float,
    bias: float,
    learning_rate: float | None = None,
) -> Scheme:
    """CLIP's learned scale, or SigLIP's scale and bias; with a rate of their own, by Adam."""
    optimizer = facts.optimizer if learning_rate is None else optax.adam(learning_rate)
    scale = {"log_scale": -math.log(tau), "min_scale": min_scale, "max_scale": max_scale}
    if facts.sigmoid:
        return schemes.learned_scale_and_bias(optimizer, bias=bias, **scale)
    return schemes.learned_scale(optimizer, **scale)


def isogclr(
    facts: Facts,
    *,
    tau: float,
    tau_min: float,
    tau_max: float,
    rho: float | None = None,
    learning_rate: float = 0.03,
) -> Scheme:
    """iSogCLR: one for each example, or each image and text, as published for these."""
    make = schemes.isogclr
    if facts.image_text:
        make = functools.partial(make, rho=6.0, beta=0.9, clip=5.0)
    if rho is not None:
        make = functools.partial(make, rho=rho)
    return make(
        facts.examples, tau_init=tau, tau_min=tau_min, tau_max=tau_max, learning_rate=learning_rate
    )


def tempnet(
    facts: Facts,
    *,
    tau_min: float,
    tau_max: float,
    rho: float = 7.0,
    learning_rate: float = 3e-5,
) -> Scheme:
    """TempNet: a small network predicts it, for images and texts one each."""
    return schemes.tempnet(
        jax.random.fold_in(facts.key, 2),  # 0 and 1 are the networks and the steps
        features=facts.width,
        num_examples=facts.examples,
        optimizer=optax.adam(learning_rate),
        networks=2 if facts.image_text else 1,
        tau_min=tau_min,
        tau_max=tau_max,
        rho=rho,
    )


TEMPERATURES: dict[str, Callable[..., Scheme | Temperature]] = {
    "constant": temperatures.constant,
    "dystress": temperatures.dystress,
    "shifted_dystress": temperatures.shifted_dystress,
    "temo": temo,
    "cosine_schedule": cosine_schedule,
    "linear_schedule": linear_schedule,
    "learned": learned,
    "macl": schemes.macl,
    "isogclr": isogclr,
    "tempnet": tempnet,
    "temperature_free": temperature_free,
}
# Their profiles are for a similarity in [-1, 1].
OF_A_COSINE = ("dystress", "shifted_dystress", "temo")
# Its logits 2 artanh(s) grow alike on both sides of 0.
OF_A_SYMMETRIC_COSINE = ("temperature_free",)
# Their state has an entry for every example and each of its two views, learned from a robust loss.
OF_EACH_EXAMPLE = ("isogclr", "tempnet")
# The same for all pairs of an anchor, as rgcl needs it.
OF_AN_ANCHOR = ("constant", "cosine_schedule", "linear_schedule", *OF_EACH_EXAMPLE)
