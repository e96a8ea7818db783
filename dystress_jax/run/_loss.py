"""The loss of a run: with its options, in its precision, over the devices."""

import functools
import inspect
from typing import Any, cast

from jax.sharding import Mesh
from jaxtyping import Array

from .. import losses, sharding
from ..methods import Loss
from ..similarities import PrecisionLike, as_similarity
from .config import Config, ConfigError
from .fields import as_fields
from .methods import METHODS
from .tables import is_own, options_of
from .trial import checked

# What a loss is given by the run, so that they are no options.
_GIVEN_TO_LOSS = ("labels", "queue", "temperature", "similarity", "precision", "axis_name")


def make_loss(config: Config, chosen: Loss | None, softmax: Loss | None = None) -> Loss:
    """The loss that the settings name for the method, with its options.

    Args:
        config: the settings.
        chosen: the loss; None for softmax.
        softmax: what softmax means for a method of the user's own.
    """
    loss = chosen or softmax
    if loss is None:
        raise ConfigError(
            f"config.method: {config.method} calls loss(), which does not know what softmax means "
            "for it; allowed: loss(LOSS) with a loss such as losses.info_nce."
        )
    batch = [
        name
        for name, parameter in inspect.signature(loss).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY
    ]
    options = options_of(config, "loss.name", loss, known=(*batch, *_GIVEN_TO_LOSS))
    made = functools.partial(loss, **options) if options else loss
    if not is_own(config.loss.name):
        return made
    entry = METHODS.get(config.method)
    return checked(made, config, softmax if entry is None else entry.losses["softmax"])


def spread(config: Config, mesh: Mesh, loss: Loss) -> Loss:
    """The loss over the devices; one of one's own that knows no strategies is left to XLA."""
    loss = _in_precision(config, loss)
    if "strategy" not in inspect.signature(loss).parameters:
        return loss
    with as_fields("loss", loss="loss.name"):
        return losses.on_mesh(
            loss,
            mesh,
            axis=sharding.AXIS,
            strategy=cast(losses.StrategyLike, config.loss.strategy),
            tile_size=config.loss.tile_size or None,
        )


def _in_precision(config: Config, loss: Loss) -> Loss:
    """The loss with its matrix products in the precision that the settings name."""
    precision = config.loss.precision
    if precision == "float32":  # what every similarity has
        return loss
    taken = inspect.signature(loss).parameters.get("similarity")
    if taken is None:
        raise ConfigError(
            f"config.loss.precision: found {precision} with config.loss.name {config.loss.name}, "
            "which takes no similarity to change; allowed: float32."
        )

    @functools.wraps(loss)
    def in_precision(*arguments: Any, similarity: Any = taken.default, **options: Any) -> Array:
        similar = as_similarity(similarity).with_precision(cast(PrecisionLike, precision))
        return loss(*arguments, similarity=similar, **options)

    return in_precision
