"""From the settings to the networks: the encoder, the heads, and the towers of clip."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import models
from ..data.tokenizer import Tokenizer
from ..models import IMAGE_TOWERS, Network
from .config import Config, ConfigError
from .fields import as_fields
from .meaning import arguments
from .tables import is_own, make, telling

SIZE_FIELD = "augment.size"  # what the networks call image_size


def takes(config: Config, argument: str) -> bool:
    """Whether the encoder is one of those that take this argument, such as several stems."""
    builder = models.ENCODERS.get(config.model.name)
    return builder is not None and argument in arguments(builder)


def make_encoder(
    config: Config,
    builder: Callable[..., Network],
    *,
    size: int,
    channels: int,
    bn_groups: int = 1,
) -> Network:
    """The encoder that the settings name, or the user's own, for square images.

    Args:
        config: the settings.
        builder: what makes the encoder.
        size: side of the images in pixels, at least 1.
        channels: of the images, at least 1.
        bn_groups: groups of the batch that BatchNorm normalises each by itself, at least 1.

    Raises:
        ConfigError: the settings do not fit each other or the images, or the user's encoder
            does not accept these images.
    """
    if bn_groups > 1 and "bn_groups" not in arguments(builder):
        raise ConfigError(
            f"config.moco.bn_groups: found {bn_groups} with config.model.name {config.model.name}, "
            "which takes no bn_groups; allowed: 1."
        )
    encoder = make(
        config,
        "model.name",
        builder,
        renamed={"image_size": SIZE_FIELD},
        bn_groups=bn_groups,
        channels=channels,
        image_size=size,
        dtype=jnp.dtype(config.dtype),
    )
    if not isinstance(encoder, Network):
        raise ConfigError(
            f"config.model.name: {config.model.name} gives a {type(encoder).__name__}; allowed: a "
            "models.Network, such as models.functional makes of a Flax module."
        )
    with as_fields("model", image_size=SIZE_FIELD):
        shape = (2 * bn_groups, size, size, channels)
        if is_own(config.model.name):
            allowed = "a module that is called with images and train=True or False"
            with telling(f"config.model.name: {config.model.name}", allowed):
                found = _trace(encoder, shape)
        else:
            found = _trace(encoder, shape)
    if found != (2 * bn_groups, encoder.out_features):
        raise ConfigError(
            f"config.model.name: {config.model.name} makes {list(found)} of {2 * bn_groups} "
            f"images; allowed: one row of out_features, {encoder.out_features}, for each."
        )
    return encoder


def make_projector(
    config: Config, default: str, in_features: int, *, bn_groups: int = 1
) -> Network:
    """The head that the settings name; `default` is used for the name auto."""
    name = default if config.projector.name == "auto" else config.projector.name
    out = config.projector.out
    return make_head(config, name, in_features, hidden=in_features, out=out, bn_groups=bn_groups)


def make_head(
    config: Config,
    name: str,
    in_features: int,
    *,
    hidden: int,
    out: int | None = None,
    bn_groups: int = 1,
) -> Network:
    """A head, by default one that keeps the width; `hidden` is used if the settings name none."""
    p = config.projector
    with as_fields("projector", "moco"):
        return models.projector(
            name,
            in_features=in_features,
            hidden=p.hidden or hidden,
            out=in_features if out is None else out,
            bn_groups=bn_groups,
            dtype=jnp.dtype(config.dtype),
        )


def make_towers(
    config: Config,
    builder: Callable[..., Network],
    *,
    size: int,
    channels: int,
    tokenizer: Tokenizer,
) -> tuple[tuple[Network, Network], tuple[Network, Network]]:
    """Clip's image tower and text tower: an encoder and a projection each.

    Args:
        config: the settings.
        builder: what makes the encoder, if it is the user's own.
        size: side of the images in pixels, at least 1.
        channels: of the images, at least 1.
        tokenizer: of the texts.

    Raises:
        ConfigError: the settings do not fit each other or the images.
    """
    g, t = config.topology, config.text
    shared = {"dims": g.dims, "tokens": g.tokens, "mode": g.mode, "dtype": jnp.dtype(config.dtype)}
    if is_own(config.model.name):
        encoder = make_encoder(config, builder, size=size, channels=channels)
        with as_fields("topology"):
            if g.mode == "multi" and g.tokens > 1:
                raise ConfigError(
                    f"config.topology.mode: found multi with config.model.name "
                    f"{config.model.name}, which has one output; allowed: reshape."
                )
            dims = g.dims * g.tokens
            width = encoder.out_features
            image = encoder, models.token_projection(width=width, dims=dims, dtype=shared["dtype"])
    else:
        image = make(
            config,
            "model.name",
            IMAGE_TOWERS[config.model.name],
            "topology",
            renamed={"image_size": SIZE_FIELD},
            image_size=size,
            channels=channels,
            **shared,
        )
        with as_fields("model", image_size=SIZE_FIELD):
            _trace(image[0], (2, size, size, channels))
    with as_fields("text", "topology", "model"):
        text = models.text_tower(
            t.name,
            vocab_size=tokenizer.vocab_size,
            context=t.context,
            pooling=t.pooling,
            padding=tokenizer.end if t.pooling == "last" else 0,
            quick_gelu=config.model.quick_gelu,
            remat=config.model.remat,
            **shared,
        )
    return image, text


def _trace(network: Network, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the outputs: what cannot work fails now, before anything compiles."""

    def run(key: jax.Array, images: jax.Array) -> jax.Array:
        params, stats = network.init(key)
        return network.apply(params, stats, images, train=True)[0]

    return jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32)).shape
