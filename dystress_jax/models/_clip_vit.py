"""CLIP's vision transformer: learned positions and any number of class tokens."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..errors import at_least_one, look_up
from ._arguments import check_patch, check_side
from ._functional import Network, functional
from ._transformer import CLIP_EPSILON, Blocks, LayerNorm, clip_gelu
from ._vit import SIZES, PatchEmbedding


class ClipVisionTransformer(nnx.Module):
    """Class tokens and patches, a norm, blocks, a norm; the features are the class tokens'."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        image_size: int,
        patch: int,
        class_tokens: int,
        channels: int,
        quick_gelu: bool = False,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the network."""
        self.image_size = image_size
        self.remat = remat
        normal = lambda rows: jax.random.normal(rngs.params(), (rows, width), jnp.float32)
        draw = lambda rows: width**-0.5 * normal(rows)
        self.patches = PatchEmbedding(
            patch, channels, width, use_bias=False, dtype=dtype, rngs=rngs
        )
        self.class_tokens = nnx.Param(draw(class_tokens))
        self.positions = nnx.Param(draw(class_tokens + (image_size // patch) ** 2))
        norm = functools.partial(LayerNorm, width, epsilon=CLIP_EPSILON, rngs=rngs)
        self.norm_first = norm()
        self.blocks = Blocks(
            *(depth, width, heads),
            epsilon=CLIP_EPSILON,
            gelu=clip_gelu(quick_gelu),
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = norm()

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n d"]:
        """Return the features in float32; training and evaluation are the same function."""
        del train
        check_side(self.image_size, *images.shape[1:3])
        x = self.patches(images).astype(jnp.float32)
        n, _, _, width = x.shape
        class_tokens = self.class_tokens[...][None]
        m = class_tokens.shape[1]
        class_tokens = jnp.broadcast_to(class_tokens, (n, m, width))
        x = jnp.concatenate([class_tokens, x.reshape(n, -1, width)], axis=1)
        x = self.norm_first(x + self.positions[...][None])
        x = self.blocks(x, remat=self.remat)
        return self.norm(x[:, :m]).reshape(n, m * width)


def clip_vit(
    name: str,
    *,
    image_size: int = 224,
    patch: int = 16,
    class_tokens: int = 1,
    channels: int = 3,
    quick_gelu: bool = False,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Network:
    r"""Make CLIP's vision transformer, with one class token or several.

    The $m$ class tokens stand first in the sequence, each with its own position:

    $$x_0 = \mathrm{LN}([c_1, \dots, c_m, E p_1, \dots, E p_k] + P), \qquad
      P \in \mathbb{R}^{(m + k) \times d}$$

    The features are their outputs after the last norm, one after another. The patch embedding has
    no bias, since the positions have the same effect. The blocks are those of `vit`; the norms have
    the epsilon 1e-5 of CLIP.

    Args:
        name: as of `vit`, whose sizes it has.
        image_size: side of the square images in pixels, a multiple of `patch`: the positions are
            learned, so it is fixed.
        patch: side of the square patches in pixels, at least 1.
        class_tokens: $m$, at least 1.
        channels: channels of the images, at least 1.
        quick_gelu: the MLPs have x sigmoid(1.702 x) in place of GELU, as OpenAI's weights need.
        remat: compute the insides of the blocks again for the gradient in place of keeping them.
        dtype: compute type; parameters, normalisation, sums of the blocks and features are float32.

    Returns:
        The network: images `[n h w channels]` to features `[n class_tokens*width]`.

    Raises:
        ArgumentError: the name is unknown, a number is below 1, or the patch does not divide the
            side of the images; when the network is applied, the images have another size.

    Example:
        >>> import jax
        >>> encoder = clip_vit("vit_base", class_tokens=16)
        >>> params, stats = jax.eval_shape(encoder.init, jax.random.key(0))
        >>> params["class_tokens"].shape, params["positions"].shape, encoder.out_features
        ((16, 768), (212, 768), 12288)

    References:
        Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020). The class tokens and
        the initial values of tokens and positions: Sun,
        [arXiv 2209.02127](https://arxiv.org/abs/2209.02127)
        ([minogame/clip-mtob](https://github.com/minogame/clip-mtob)).
    """
    width, depth, heads = look_up(SIZES, name)
    at_least_one(image_size=image_size, patch=patch, class_tokens=class_tokens, channels=channels)
    check_patch(patch, image_size, image_size)
    build = functools.partial(
        ClipVisionTransformer,
        width,
        depth,
        heads,
        image_size=image_size,
        patch=patch,
        class_tokens=class_tokens,
        channels=channels,
        quick_gelu=quick_gelu,
        remat=remat,
        dtype=dtype,
    )
    return functional(lambda rngs: build(rngs=rngs), out_features=class_tokens * width)
