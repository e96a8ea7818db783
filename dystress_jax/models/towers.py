"""The two towers of image-text training: an encoder each, and a projection to the embedding."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ._functional import Network, functional
from .clip_vit import clip_vit
from .resnet import resnet
from .text import text_transformer


class TokenProjection(nnx.Module):
    """One linear map without bias for all the tokens."""

    def __init__(self, width: int, dims: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Make the map of ``width`` numbers to ``dims``."""
        self.dtype = dtype
        self.kernel = nnx.Param(width**-0.5 * jax.random.normal(rngs.params(), (width, dims)))

    def __call__(self, x: Float[Array, "n d_in"], *, train: bool) -> Float[Array, "n d_out"]:
        """Return the tokens one after another, in float32, not normalised."""
        del train
        kernel = self.kernel[...].astype(self.dtype)
        tokens = x.astype(self.dtype).reshape(len(x), -1, kernel.shape[0])
        projected = jnp.einsum("nmw,wd->nmd", tokens, kernel, preferred_element_type=jnp.float32)
        return projected.reshape(len(x), -1)


def token_projection(
    *, width: int, dims: int, tokens: int = 1, dtype: DTypeLike = jnp.float32
) -> Network:
    r"""Make the linear projection that the tokens of a tower share.

    .. math:: A = [W^T x_1, \dots, W^T x_m] \in \mathbb{R}^{n \times m},
        \qquad W \in \mathbb{R}^{\mathrm{width} \times n}, \; n = \mathrm{dims}

    Args:
        width: numbers of a token, at least 1.
        dims: numbers of a projected token, at least 1.
        tokens: m, at least 1.
        dtype: compute type; parameters and outputs are float32.

    Returns:
        The projection: `[n tokens*width]` to `[n tokens*dims]`, token after token, as
        `similarities.oblique(tokens)` reads them; not normalised.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> import jax
        >>> projection = token_projection(width=768, dims=32, tokens=16)
        >>> params, stats = jax.eval_shape(projection.init, jax.random.key(0))
        >>> params["kernel"].shape, projection.out_features
        ((768, 32), 512)

    References:
        Sun, arXiv 2209.02127 (minogame/clip-mtob); the initial values are CLIP's, a normal of
        width^-0.5 (Radford et al., arXiv 2103.00020).
    """
    for argument, size in (("width", width), ("dims", dims), ("tokens", tokens)):
        if size < 1:
            raise ValueError(f"{argument} must be at least 1; found {size}")
    return functional(
        lambda rngs: TokenProjection(width, dims, dtype=dtype, rngs=rngs),
        out_features=tokens * dims,
    )


def image_tower(
    name: str,
    *,
    dims: int,
    tokens: int = 1,
    mode: str = "multi",
    image_size: int = 224,
    patch: int = 16,
    stem: str = "imagenet",
    channels: int = 3,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Network, Network]:
    """Make the image tower: a ViT or a ResNet, and its projection to m tokens of n numbers.

    ===========  ==================================================================================
    ``multi``    the transformer has m class tokens, each projected to n numbers by the same matrix
    ``reshape``  it has one, projected to m n numbers, which are read as m tokens
    ===========  ==================================================================================

    With m = 1 the two are the same. The vision transformer and the text tower of the paper are
    ``image_tower("vit_base", ...)`` and ``text_tower("text_base", vocab_size=30_522, ...)``. With
    (n, m) = (32, 16) in place of (512, 1) the image tower has 15 class tokens and 15 positions
    more (2 * 15 * 768) and 480 columns of the projection less (480 * 768), the text tower 15
    positions more (15 * 512) and 480 columns less (480 * 512): 583,680 parameters less in all.

    Args:
        name: of a `vit` or a `resnet`.
        dims: n, at least 1.
        tokens: m, at least 1; the embedding has m n numbers.
        mode: one of the names above; a ResNet has one output, so for m > 1 ``reshape``.
        image_size: side of the square images; a ViT's alone, a ResNet takes any.
        patch: side of a ViT's patches.
        stem: of a ResNet.
        channels: channels of the images.
        remat: compute the insides of blocks again for the gradient in place of keeping them.
        dtype: compute type; parameters, features and embeddings are float32.

    Returns:
        The encoder, whose features serve a linear probe, and the projection, from features to
        embeddings `[n tokens*dims]`, not normalised.

    Raises:
        ValueError: a name is unknown, a number is below 1, or ``multi`` tokens of a ResNet.

    Example:
        >>> encoder, projection = image_tower("vit_base", dims=32, tokens=16)
        >>> encoder.out_features, projection.out_features
        (12288, 512)

    References:
        Sun, arXiv 2209.02127; Radford et al., arXiv 2103.00020.
    """
    dims, class_tokens = _layout(dims, tokens, mode)
    if name.startswith("vit"):
        encoder = clip_vit(
            name,
            image_size=image_size,
            patch=patch,
            class_tokens=class_tokens,
            channels=channels,
            remat=remat,
            dtype=dtype,
        )
        return encoder, _projection(encoder, dims, class_tokens, dtype)
    if class_tokens > 1:
        raise ValueError(
            f"{name!r} has no class tokens, so its tokens come by mode 'reshape'; found mode "
            f"{mode!r} with tokens = {tokens}"
        )
    encoder = resnet(name, stem=stem, channels=channels, remat=remat, dtype=dtype)
    return encoder, _projection(encoder, dims, class_tokens, dtype)


def text_tower(
    name: str,
    *,
    vocab_size: int,
    context: int = 77,
    dims: int,
    tokens: int = 1,
    mode: str = "multi",
    pooling: str = "cls",
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Network, Network]:
    """Make the text tower: a text transformer and its projection to m tokens of n numbers.

    Args:
        name: of a `text_transformer`.
        vocab_size: number of token ids.
        context: the most tokens of a text, its one class token included.
        dims: n, at least 1.
        tokens: m, at least 1; the embedding has m n numbers.
        mode: as in `image_tower`.
        pooling: ``cls`` or ``eot``, see `text_transformer`; ``eot`` has one output, so for m > 1
            mode ``reshape``.
        remat: see `text_transformer`.
        dtype: compute type; parameters, features and embeddings are float32.

    Returns:
        The encoder, from ids `[n t]`, and the projection, to embeddings `[n tokens*dims]`, not
        normalised.

    Raises:
        ValueError: a name is unknown, a number is below 1, or ``multi`` tokens with ``eot``.

    Example:
        >>> encoder, projection = text_tower("text_base", vocab_size=30_522, dims=32, tokens=16)
        >>> encoder.out_features, projection.out_features
        (8192, 512)

    References:
        Sun, arXiv 2209.02127; Radford et al., arXiv 2103.00020.
    """
    dims, class_tokens = _layout(dims, tokens, mode)
    encoder = text_transformer(
        name,
        vocab_size=vocab_size,
        context=context,
        pooling=pooling,
        class_tokens=class_tokens,
        remat=remat,
        dtype=dtype,
    )
    return encoder, _projection(encoder, dims, class_tokens, dtype)


def _layout(dims: int, tokens: int, mode: str) -> tuple[int, int]:
    """Numbers of a class token after the projection, and class tokens."""
    for argument, size in (("dims", dims), ("tokens", tokens)):
        if size < 1:
            raise ValueError(f"{argument} must be at least 1; found {size}")
    if mode not in ("multi", "reshape"):
        raise ValueError(f"unknown mode {mode!r}; choose 'multi' or 'reshape'")
    return (dims, tokens) if mode == "multi" else (dims * tokens, 1)


def _projection(encoder: Network, dims: int, class_tokens: int, dtype: DTypeLike) -> Network:
    width = encoder.out_features // class_tokens
    return token_projection(width=width, dims=dims, tokens=class_tokens, dtype=dtype)
