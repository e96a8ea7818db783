"""How the temperature of a run evolves: what the settings name, tried before it is used."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import data, optim, schemes
from ..methods import Method
from ..schemes import Scheme
from ..temperatures import Temperature, as_temperature, is_per_anchor
from ._own import Chosen
from .config import Config, ConfigError
from .experiment import Schedule
from .fields import fields, put
from .methods import WITH_BIAS
from .relevance import WITH_TEMPERATURE, ignored
from .tables import is_own, make
from .temperature import Facts

CLIP_RATE = 5e-4  # of the Adam that learns CLIP's temperature


def make_scheme(
    config: Config,
    chosen: Chosen,
    method: Method,
    source: data.Source,
    schedule: Schedule,
) -> Scheme | None:
    """How the temperature evolves; None for a method that has none."""
    if method.scheme_inputs is None:
        for field in fields():
            if field.axis == "temperature.name" and field.is_set(config):
                if is_own(config.method):
                    raise ignored(config, field, "method", "with a method that has a temperature")
                raise ignored(config, field, "loss.name", WITH_TEMPERATURE)  # given in Python
        return None
    facts = Facts(
        key=jax.random.key(config.seed),
        examples=source.num_stored,
        width=method.width,
        steps_per_epoch=schedule.steps_per_epoch,
        total_steps=schedule.total_steps,
        optimizer=optimizer_of_numbers(config, schedule),
        sigmoid=config.loss_name in WITH_BIAS,
        image_text=config.method == "clip",
    )
    made = make(config, "temperature.name", chosen.temperature, facts=facts)
    if not isinstance(made, Scheme) and not _stands_for_a_temperature(made):
        raise ConfigError(
            f"config.temperature.name: {config.temperature.name} gives a {type(made).__name__}; "
            "allowed: a number, a Temperature, a function of the similarity, or a schemes.Scheme."
        )
    try:
        scheme = schemes.as_scheme(made)
        least, at = (1.0, 0.0) if isinstance(made, Scheme) else _least(as_temperature(made))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"config.temperature.name: {config.temperature.name} gives no temperature: {error}"
        ) from error
    if not least > 0:
        raise ConfigError(
            f"config.temperature.name: {config.temperature.name} gives tau = {least:.3g} at the "
            f"similarity {at:.3g}; allowed: above 0 for all similarities from -1 to 1."
        )
    return scheme


def _least(temperature: Temperature) -> tuple[float, float]:
    """The least temperature of a pair, NaN before all, and the similarity where it is."""
    similarity, found = np.linspace(-1.0, 1.0, 201, dtype=np.float32), [(1.0, 0.0)]
    for each in (temperature.for_positives, temperature.for_negatives):
        if not is_per_anchor(each):  # which has no number for a similarity by itself
            tau = np.asarray(each(jnp.asarray(similarity)))
            place = int(np.argmin(np.where(np.isnan(tau), -np.inf, tau)))
            found.append((float(tau[place]), float(similarity[place])))
    return min(found, key=lambda of: -np.inf if np.isnan(of[0]) else of[0])


def _stands_for_a_temperature(made: object) -> bool:
    return callable(made) or isinstance(made, int | float | np.number | np.ndarray | jax.Array)


def optimizer_of_numbers(config: Config, schedule: Schedule) -> optax.GradientTransformation:
    """For what is no weight, such as the logarithm of a scale."""
    name = config.optimizer.name
    if name in optim.LAYERWISE:
        return optax.adam(CLIP_RATE)
    for field, value in (("weight_decay", 0.0), ("decay_vectors", True)):
        config = put(config, f"optimizer.{field}", value)
    builder = optim.OPTIMIZERS[name]
    return make(config, "optimizer.name", builder, schedule=schedule.learning_rate)
