"""What a method makes of images, as compiled functions: features and embeddings."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ..methods import Method, Views
from .experiment import Embed, Encode
from .inputs import Inputs


def make_encode(method: Method, inputs: Inputs) -> Encode:
    """`(params, stats, uint8 images) -> features` of the centre of whole images; jitted."""

    @jax.jit
    def encode(params, stats, images: UInt8[Array, "n h w c"]) -> Float[Array, "n features"]:
        return method.encode(params, stats, inputs.centre(images))

    return encode


def make_encode_view(method: Method, inputs: Inputs) -> Encode:
    """`(params, stats, key, uint8 images) -> features` of one weak random view each; jitted."""

    @jax.jit
    def encode_view(params, stats, key, images: UInt8[Array, "n h w c"]):
        return method.encode(params, stats, inputs.weak_view(key, images))

    return encode_view


def make_embed(method: Method, inputs: Inputs) -> Embed:
    """`(params, stats, uint8 images) -> features and embeddings` of whole images; jitted."""

    @jax.jit
    def embed(params, stats, images: UInt8[Array, "n h w c"]):
        centre = inputs.centre(images)  # the compiler runs the encoder once for both
        return method.encode(params, stats, centre), method.project(params, stats, centre)

    return embed


def make_embed_views(
    method: Method, views: Views
) -> Callable[..., tuple[Float[Array, "n 2 f"], Float[Array, "n 2 d"]]]:
    """`(params, stats, key, uint8 images) -> features and embeddings` of two views each; jitted."""

    @jax.jit
    def embed_views(params, stats, key, images: UInt8[Array, "n h w c"]):
        both = views(key, images, jnp.arange(len(images)))
        stacked = lambda embed: jnp.stack([embed(params, stats, view) for view in both], axis=1)
        return stacked(method.encode), stacked(method.project)

    return embed_views
