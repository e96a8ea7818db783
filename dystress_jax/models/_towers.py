"""The two towers of image-text training: an encoder each, and a projection to the embedding."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..errors import ArgumentError, at_least_one, look_up
from ._arguments import used_by
from ._clip_vit import clip_vit
from ._encoders import ENCODERS
from ._functional import Network, functional, identity
from ._text import POOLINGS, TEXTS
from ._vit import IMAGE_POOLINGS, vit
from ._vit import SIZES as VITS


class TokenProjection(nnx.Module):
    """One linear map for all the tokens."""

    def __init__(self, width: int, dims: int, *, use_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        """Make the map of `width` numbers to `dims`."""
        self.dtype = dtype
        kernel = jax.random.normal(rngs.params(), (width, dims), jnp.float32)
        self.kernel = nnx.Param(width**-0.5 * kernel)
        self.bias = nnx.Param(jnp.zeros(dims, jnp.float32)) if use_bias else None

    def __call__(self, x: Float[Array, "n d_in"], *, train: bool) -> Float[Array, "n d_out"]:
        """Return the tokens one after another, in float32, not normalised."""
        del train
        kernel = self.kernel[...].astype(self.dtype)
        tokens = x.astype(self.dtype).reshape(len(x), -1, kernel.shape[0])
        projected = jnp.einsum("nmw,wd->nmd", tokens, kernel, preferred_element_type=jnp.float32)
        if self.bias is not None:
            projected = projected + self.bias[...][None, None]
        return projected.reshape(len(x), -1)


def token_projection(
    *,
    width: int,
    dims: int,
    tokens: int = 1,
    use_bias: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Network:
    r"""Make the linear projection that the tokens of a tower share.

    $$A = [W^T x_1, \dots, W^T x_m] \in \mathbb{R}^{n \times m}, \qquad
      W \in \mathbb{R}^{\mathrm{width} \times n}$$

    Args:
        width: size of a token, at least 1.
        dims: $n$, the size of a projected token, at least 1.
        tokens: $m$, at least 1.
        use_bias: the same numbers are added to every token, as in SigLIP's text tower.
        dtype: compute type; parameters and outputs are float32.

    Returns:
        The projection: `[n tokens*width]` to `[n tokens*dims]`, token after token, as
        `similarities.oblique(tokens)` reads them; not normalised.

    Raises:
        ArgumentError: a number is below 1.

    Example:
        >>> import jax
        >>> projection = token_projection(width=768, dims=32, tokens=16)
        >>> params, stats = jax.eval_shape(projection.init, jax.random.key(0))
        >>> params["kernel"].shape, projection.out_features
        ((768, 32), 512)

    References:
        Sun, [arXiv 2209.02127](https://arxiv.org/abs/2209.02127)
        ([minogame/clip-mtob](https://github.com/minogame/clip-mtob)). The initial values are
        CLIP's, normal with standard deviation $\mathrm{width}^{-1/2}$: Radford et al.,
        [arXiv 2103.00020](https://arxiv.org/abs/2103.00020).
    """
    at_least_one(width=width, dims=dims, tokens=tokens)
    return functional(
        lambda rngs: TokenProjection(width, dims, use_bias=use_bias, dtype=dtype, rngs=rngs),
        out_features=tokens * dims,
    )


# From dims and tokens to the size of a projected class token, and the number of class tokens.
MODES: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "multi": lambda dims, tokens: (dims, tokens),
    "reshape": lambda dims, tokens: (dims * tokens, 1),
}
"""How tokens of an embedding are made: (dims, tokens) to (width of a token, class tokens)."""


def _layout(dims: int, tokens: int, mode: str, *, one_output: str = "") -> tuple[int, int]:
    """Size of a projected class token, and the number of class tokens.

    `one_output` says which part of the tower has one output only, if any.
    """
    at_least_one(dims=dims, tokens=tokens)
    dims, class_tokens = look_up(MODES, mode, argument="mode")(dims, tokens)
    if class_tokens > 1 and one_output:
        raise ArgumentError(
            "mode",
            f"found {mode!r} with `tokens` {tokens} and {one_output}, which has one output; "
            "allowed: reshape.",
        )
    return dims, class_tokens


def _projection(
    encoder: Network, dims: int, class_tokens: int, dtype: DTypeLike, *, use_bias: bool = False
) -> Network:
    width = encoder.out_features // class_tokens
    return token_projection(
        width=width, dims=dims, tokens=class_tokens, use_bias=use_bias, dtype=dtype
    )


def _vit_tower(
    name: str,
    *,
    dims: int,
    tokens: int = 1,
    mode: str = "multi",
    image_size: int = 224,
    patch: int = 16,
    pooling: str = "token",
    channels: int = 3,
    quick_gelu: bool = False,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Network, Network]:
    if look_up(IMAGE_POOLINGS, pooling, argument="pooling"):
        dims, _ = _layout(dims, tokens, mode, one_output="`pooling` 'attention'")
        if quick_gelu:
            raise ArgumentError(
                "quick_gelu", "found True with `pooling` 'attention'; allowed: False."
            )
        encoder = vit(
            name,
            patch=patch,
            channels=channels,
            positions="learned",
            pooling=pooling,
            image_size=image_size,
            remat=remat,
            dtype=dtype,
        )
        return encoder, _no_projection(encoder, dims)
    dims, class_tokens = _layout(dims, tokens, mode)
    encoder = clip_vit(
        name,
        image_size=image_size,
        patch=patch,
        class_tokens=class_tokens,
        channels=channels,
        quick_gelu=quick_gelu,
        remat=remat,
        dtype=dtype,
    )
    return encoder, _projection(encoder, dims, class_tokens, dtype)


def _no_projection(encoder: Network, dims: int) -> Network:
    """SigLIP compares the features of the images themselves."""
    width = encoder.out_features
    if dims != width:
        raise ArgumentError(
            "dims",
            f"found {dims} numbers with `pooling` 'attention', whose {width} features are compared "
            f"as they are; allowed: {width}.",
        )
    return identity(features=width)


def _with_projection(
    make_encoder: Callable[..., Network],
) -> Callable[..., tuple[Network, Network]]:
    """An encoder with one output as an image tower: the encoder's arguments and the layout's."""

    def tower(
        *,
        dims: int,
        tokens: int = 1,
        mode: str = "multi",
        dtype: DTypeLike = jnp.float32,
        **options: Any,
    ) -> tuple[Network, Network]:
        dims, _ = _layout(dims, tokens, mode, one_output="an encoder without class tokens")
        encoder = make_encoder(dtype=dtype, **options)
        return encoder, _projection(encoder, dims, 1, dtype)

    *own, _ = inspect.signature(tower).parameters.values()
    its = inspect.signature(make_encoder).parameters.values()
    keywords = {p.name: p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *its)}
    tower.__signature__ = inspect.Signature(list(keywords.values()))  # pyright: ignore[reportFunctionMemberAccess]
    return tower


IMAGE_TOWERS: dict[str, Callable[..., tuple[Network, Network]]] = {
    **{name: _with_projection(make_encoder) for name, make_encoder in ENCODERS.items()},
    **{name: functools.partial(_vit_tower, name) for name in VITS},
}
"""The image towers by name: every encoder is one, a ViT as `clip_vit`.

A builder takes `dims`, `tokens` and `mode` as `image_tower`, and what its encoder uses.
"""


def image_tower(
    name: str,
    *,
    dims: int,
    tokens: int = 1,
    mode: str = "multi",
    image_size: int | None = None,
    patch: int | None = None,
    pooling: str | None = None,
    stem: str | None = None,
    channels: int = 3,
    quick_gelu: bool = False,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Network, Network]:
    r"""Make the image tower: an encoder and its projection to $m$ tokens of $n$ numbers.

    | mode      | class tokens | projection                                                  |
    | --------- | ------------ | ----------------------------------------------------------- |
    | `multi`   | $m$          | of each to $n$ numbers, by the same matrix                  |
    | `reshape` | 1            | to $m n$ numbers, which are read as $m$ tokens of $n$ each  |

    With $m = 1$ the two are the same. The vision transformer and the text tower of the paper are
    `image_tower("vit_base", ...)` and `text_tower("text_base", vocab_size=30_522, ...)`. With
    $(n, m) = (32, 16)$ in place of $(512, 1)$ the image tower has 15 class tokens and 15 positions
    more ($2 \cdot 15 \cdot 768$) and 480 columns of the projection less ($480 \cdot 768$), the
    text tower 15 positions more ($15 \cdot 512$) and 480 columns less ($480 \cdot 512$): 583,680
    parameters less in all.

    Args:
        name: of `ENCODERS`; a ViT is `clip_vit`.
        dims: $n$, at least 1.
        tokens: $m$, at least 1; the embedding has $m n$ numbers.
        mode: `multi` or `reshape`, see above; an encoder that is no ViT has one output, so for
            $m > 1$ `reshape`.
        image_size: side of the square images, for encoders that know it; None for their default.
        patch: side of the patches, for encoders that have any; None for their default.
        pooling: of a ViT: `token` as CLIP, or `attention` as SigLIP, whose tower is `vit` with
            learned positions and has no projection, so that `dims` is its width; None for `token`.
        stem: for encoders that have several; None for their default.
        channels: channels of the images, at least 1.
        quick_gelu: of a ViT, see `clip_vit`.
        remat: compute the insides of blocks again for the gradient in place of keeping them.
        dtype: compute type; parameters, features and embeddings are float32.

    Returns:
        The encoder, whose features serve a linear probe, and the projection, from features to
        embeddings `[n tokens*dims]`, not normalised.

    Raises:
        ArgumentError: a name is unknown, a number is below 1, `multi` tokens of an encoder with
            one output, or what the encoder refuses.

    Example:
        >>> encoder, projection = image_tower("vit_base", dims=32, tokens=16)
        >>> encoder.out_features, projection.out_features
        (12288, 512)

    References:
        Sun, [arXiv 2209.02127](https://arxiv.org/abs/2209.02127); Radford et al.,
        [arXiv 2103.00020](https://arxiv.org/abs/2103.00020).
    """
    build = look_up(IMAGE_TOWERS, name)
    own = {"image_size": image_size, "patch": patch, "pooling": pooling, "stem": stem}
    options = {argument: value for argument, value in own.items() if value is not None}
    options |= {"channels": channels, "quick_gelu": quick_gelu, "remat": remat, "dtype": dtype}
    return build(dims=dims, tokens=tokens, mode=mode, **used_by(build, **options))


def text_tower(
    name: str,
    *,
    vocab_size: int,
    context: int = 77,
    dims: int,
    tokens: int = 1,
    mode: str = "multi",
    pooling: str = "cls",
    padding: int = 0,
    quick_gelu: bool = False,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Network, Network]:
    """Make the text tower: a text transformer and its projection to $m$ tokens of $n$ numbers.

    Args:
        name: of a `text_transformer`.
        vocab_size: number of token ids, at least 1.
        context: the most tokens of a text, its one class token included, at least 1.
        dims: $n$, at least 1.
        tokens: $m$, at least 1; the embedding has $m n$ numbers.
        mode: as of `image_tower`.
        pooling: `cls`, `eot` or `last`, see `text_transformer`; the last two have one output, so
            for $m > 1$ mode `reshape`. The projection of `last` has a bias.
        padding: see `text_transformer`.
        quick_gelu: see `text_transformer`.
        remat: see `text_transformer`.
        dtype: compute type; parameters, features and embeddings are float32.

    Returns:
        The encoder, from ids `[n t]`, and the projection, to embeddings `[n tokens*dims]`, not
        normalised.

    Raises:
        ArgumentError: a name is unknown, a number is below 1, or `multi` tokens with `eot`
            or `last`.

    Example:
        >>> encoder, projection = text_tower("text_base", vocab_size=30_522, dims=32, tokens=16)
        >>> encoder.out_features, projection.out_features
        (8192, 512)

    References:
        Sun, [arXiv 2209.02127](https://arxiv.org/abs/2209.02127); Radford et al.,
        [arXiv 2103.00020](https://arxiv.org/abs/2103.00020).
    """
    build = look_up(TEXTS, name)
    transformer = look_up(POOLINGS, pooling, argument="pooling")
    one_output = "" if transformer.repeats_class_token else f"`pooling` {pooling!r}"
    dims, class_tokens = _layout(dims, tokens, mode, one_output=one_output)
    encoder = build(
        vocab_size=vocab_size,
        context=context,
        pooling=pooling,
        class_tokens=class_tokens,
        padding=padding,
        quick_gelu=quick_gelu,
        remat=remat,
        dtype=dtype,
    )
    return encoder, _projection(
        encoder, dims, class_tokens, dtype, use_bias=transformer.projection_has_bias
    )
