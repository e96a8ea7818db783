"""From the settings to the networks: encoders, heads, and the towers of clip."""

import functools

import jax.numpy as jnp

from . import data, models
from .config import VITS, Config, ConfigError
from .models import Network


def view_size(config: Config, source: data.Source) -> int:
    """The side of the images that the encoder sees."""
    height, width, _ = source.image_shape
    if not config.augment.size and height != width:
        raise ConfigError(
            f"config.augment.size: found 0 with images of {height} x {width}; allowed: the side of "
            "the square views, in pixels."
        )
    size = config.augment.size or height
    if config.model.name not in VITS and config.model.stem == "patch" and size < 8:
        raise ConfigError(
            f"config.model.stem: found patch with views of {size} x {size}, which leave nothing to "
            "convolve; allowed: cifar, or views of at least 8 x 8."
        )
    if size > min(height, width):
        raise ConfigError(
            f"config.augment.size: found {size} with images of {height} x {width}; allowed: at "
            f"most {min(height, width)}. Raise config.data.image_size or lower it."
        )
    return size


def make_encoder(config: Config, source: data.Source) -> Network:
    """The encoder that ``config.model`` names, for the views of a source."""
    m = config.model
    shared = {
        "channels": source.image_shape[-1],
        "remat": m.remat,
        "dtype": jnp.dtype(config.dtype),
    }
    if m.name not in VITS:
        return models.resnet(m.name, stem=m.stem, bn_groups=bn_groups(config), **shared)
    _check_patch(config, source)
    try:
        return models.vit(
            m.name,
            patch=m.patch,
            heads=m.heads or None,
            freeze_patches=m.freeze_patches,
            **shared,
        )
    except ValueError as error:  # its messages begin with the argument's name
        raise ConfigError(f"config.model.{error}") from error


def bn_groups(config: Config) -> int:
    """Groups of the batch with BatchNorm statistics of their own: MoCo v2's."""
    return config.moco.bn_groups if config.method == "moco_v2" else 1


def make_heads(config: Config, encoder: Network) -> list[Network]:
    """The projector, and MoCo v3's predictor after it."""
    p = config.projector
    is_vit = config.model.name in VITS
    own = "moco_v3_vit" if is_vit and config.method == "moco_v3" else config.method
    head = functools.partial(
        models.projector,
        hidden=p.hidden or encoder.out_features,
        out=p.out,
        bn_groups=bn_groups(config),
        dtype=jnp.dtype(config.dtype),
    )
    heads = [head(own if p.name == "auto" else p.name, in_features=encoder.out_features)]
    if config.method == "moco_v3":
        heads.append(head("moco_v3" if is_vit else "dystress_cifar", in_features=p.out))
    return heads


def make_towers(
    config: Config, source: data.Source, vocab_size: int
) -> tuple[tuple[Network, Network], tuple[Network, Network]]:
    """Clip's image tower and text tower: an encoder and a projection each."""
    m, g, t = config.model, config.topology, config.text
    if m.name in VITS:
        _check_patch(config, source)
    shared = {
        "dims": g.dims,
        "tokens": g.tokens,
        "mode": g.mode,
        "remat": m.remat,
        "dtype": jnp.dtype(config.dtype),
    }
    image = models.image_tower(
        m.name,
        image_size=view_size(config, source),
        patch=m.patch,
        stem=m.stem,
        channels=source.image_shape[-1],
        **shared,
    )
    text = models.text_tower(
        t.name, vocab_size=vocab_size, context=t.context, pooling=t.pooling, **shared
    )
    return image, text


def _check_patch(config: Config, source: data.Source) -> None:
    size, patch = view_size(config, source), config.model.patch
    if size % patch:
        raise ConfigError(
            f"config.model.patch: found {patch} with views of {size} x {size}; allowed: a "
            "divisor of their side, for example "
            f"{max(p for p in range(1, patch) if size % p == 0)}."
        )
