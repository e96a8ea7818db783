"""Vision transformers with fixed sin-cos positions, for any image size, or with learned ones."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..errors import ArgumentError, at_least_one, look_up
from ._arguments import check_channels, check_patch, check_side
from ._functional import Network, functional
from ._transformer import AttentionPool, Blocks, LayerNorm, exact_gelu, tanh_gelu, xavier


class Frozen(nnx.Variable):
    """An array that keeps its first value: no gradient, no weight decay, but in the checkpoint."""


class PatchEmbedding(nnx.Module):
    """Cut the image into squares and map each linearly."""

    def __init__(
        self,
        patch: int,
        channels: int,
        width: int,
        *,
        frozen: bool = False,
        use_bias: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the map of `patch * patch * channels` numbers to `width`."""
        self.patch, self.channels, self.dtype = patch, channels, dtype
        variable = Frozen if frozen else nnx.Param
        shape = (patch * patch * channels, width)
        self.kernel = variable(xavier(rngs.params(), shape, jnp.float32))
        self.bias = variable(jnp.zeros(width, jnp.float32)) if use_bias else None

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n rows columns d"]:
        """Return one token a patch, on the patches' grid."""
        n, height, width, channels = images.shape
        p = self.patch
        check_channels(self.channels, images)
        check_patch(p, height, width)
        patches = images.reshape(n, height // p, p, width // p, p, channels)
        patches = patches.swapaxes(2, 3).reshape(n, height // p, width // p, p * p * channels)
        tokens = patches.astype(self.dtype) @ self.kernel[...].astype(self.dtype)
        if self.bias is None:
            return tokens
        return tokens + self.bias[...].astype(self.dtype)[*[None] * 3]


def sincos_positions(rows: int, columns: int, width: int) -> Float[Array, "rows columns d"]:
    r"""Fixed positions: a quarter of the channels each for sin y, cos y, sin x, cos x.

    Channel $k$ of a quarter, at row $y$ and column $x$, is the sine or cosine of

    $$10000^{-k / (d / 4)} \, y \qquad \text{or} \qquad 10000^{-k / (d / 4)} \, x$$

    The row comes first, as in MoCo v3's code, whose released weights need that order.

    Args:
        rows: patches from top to bottom, at least 1.
        columns: patches from left to right, at least 1.
        width: $d$ channels, a multiple of 4.

    Returns:
        The positions in float32.

    Example:
        >>> sincos_positions(2, 2, 4)[1, 0].tolist()
        [0.84, 0.54, 0.0, 1.0]

    References:
        Chen et al., [arXiv 2104.02057](https://arxiv.org/abs/2104.02057); `vits.py` of
        [facebookresearch/moco-v3](https://github.com/facebookresearch/moco-v3).
    """
    quarter = width // 4
    count = lambda n: jnp.arange(n, dtype=jnp.float32)
    frequency = 10_000.0 ** -(count(quarter) / quarter)
    y, x = jnp.meshgrid(count(rows), count(columns), indexing="ij")
    phases = [axis[..., None] * frequency[None, None] for axis in (y, x)]
    return jnp.concatenate([f(phase) for phase in phases for f in (jnp.sin, jnp.cos)], axis=-1)


class VisionTransformer(nnx.Module):
    """Patches, a class token, blocks; the features are the class token's.

    Without a class token (`pool`) they are what a last attention gathers of the patches.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        patch: int,
        channels: int,
        freeze_patches: bool,
        side: int | None = None,
        pool: bool = False,
        remat: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the network; `side` is that of the images whose positions are learned, if any."""
        self.width = width
        self.side = side
        self.remat = remat
        self.patches = PatchEmbedding(
            patch, channels, width, frozen=freeze_patches, dtype=dtype, rngs=rngs
        )
        normal = lambda *shape: jax.random.normal(rngs.params(), shape, jnp.float32)
        token = lambda: nnx.Param(1e-6 * normal(width))
        self.class_token = None if pool else token()
        if side is not None:
            self.positions = nnx.Param(0.02 * normal((not pool) + (side // patch) ** 2, width))
        gelu = tanh_gelu if pool else exact_gelu  # of big_vision's ViTs, and of the others
        self.blocks = Blocks(depth, width, heads, gelu=gelu, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, rngs=rngs)
        self.pool = AttentionPool(width, heads, gelu=gelu, dtype=dtype, rngs=rngs) if pool else None

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n d"]:
        """Return the features in float32; training and evaluation are the same function."""
        x = self.patches(images).astype(jnp.float32)
        n, rows, columns, width = x.shape
        x = x.reshape(n, rows * columns, width)
        if self.side is None:
            positions = sincos_positions(rows, columns, width).reshape(rows * columns, width)
        else:
            check_side(self.side, *images.shape[1:3])
            positions = self.positions[...]
        x = x + positions[-rows * columns :][None]
        if self.class_token is not None:
            class_token = self.class_token[...]
            if self.side is not None:
                class_token = class_token + positions[0]
            x = jnp.concatenate([jnp.broadcast_to(class_token, (n, 1, width)), x], axis=1)
        x = self.blocks(x, remat=self.remat and train)
        return self.norm(x[:, 0]) if self.pool is None else self.pool(self.norm(x))


POSITIONS: dict[str, bool] = {"sincos": False, "learned": True}
"""The positions by name, and whether they are parameters."""

IMAGE_POOLINGS: dict[str, bool] = {"token": False, "attention": True}
"""What the features are made of, by name, and whether by an attention of its own."""

SIZES = {  # width, depth, heads
    "vit_micro": (64, 2, 2),
    "vit_mini": (128, 4, 4),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
}


def vit(
    name: str,
    *,
    patch: int = 16,
    heads: int | None = None,
    channels: int = 3,
    freeze_patches: bool = False,
    positions: str = "sincos",
    pooling: str = "token",
    image_size: int = 224,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Network:
    """Make a vision transformer without its classifier.

    | name        | width | blocks | heads |          |
    | ----------- | ----- | ------ | ----- | -------- |
    | `vit_micro` | 64    | 2      | 2     | for CPUs |
    | `vit_mini`  | 128   | 4      | 4     | for CPUs |
    | `vit_tiny`  | 192   | 12     | 3     |          |
    | `vit_small` | 384   | 12     | 6     |          |
    | `vit_base`  | 768   | 12     | 12    |          |

    Positions `sincos` are computed from the images it is applied to, so one set of parameters
    serves every image size that the patch divides; `learned` ones, those of most published
    weights, serve one size.

    Args:
        name: one of the names above.
        patch: side of the square patches in pixels, at least 1; 16 for ImageNet, 4 for CIFAR.
        heads: attention heads, a divisor of the width; None or 0 for those of the table. MoCo v3
            trains its `vit_small` with 12.
        channels: channels of the images, at least 1.
        freeze_patches: keep the random patch embedding as it is, which steadies MoCo v3. It then
            belongs to the statistics: no optimiser sees it.
        positions: `sincos`, or `learned` as in ViT and DeiT, the class token's too.
        pooling: `token`, the class token's output; or `attention` as in SigLIP's image tower: there
            is no class token, a learned token attends to all patches after the last norm, and the
            MLPs have the tanh form of GELU, as those of big_vision.
        image_size: side of the square images in pixels, a multiple of `patch`; for learned
            positions only.
        remat: compute the insides of the blocks again for the gradient in place of keeping them.
        dtype: compute type; parameters, normalisation, sums of the blocks and features are float32.

    Returns:
        The network: images `[n h w channels]` to features `[n out_features]`.

    Raises:
        ArgumentError: a name is unknown, a number is below 1, the heads do not divide the width, or
            the patch does not divide the side of images whose positions are learned; when the
            network is applied, the patch does not divide the sides of the images, or these are not
            of the size whose positions are learned.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> encoder = vit("vit_tiny", patch=4)
        >>> params, stats = jax.eval_shape(encoder.init, jax.random.key(0))
        >>> params["class_token"].shape, encoder.out_features
        ((192,), 192)

    References:
        Dosovitskiy et al., [arXiv 2010.11929](https://arxiv.org/abs/2010.11929). Sizes: Touvron et
        al., [arXiv 2012.12877](https://arxiv.org/abs/2012.12877), table 1. Positions,
        initialisation and frozen patches: Chen et al.,
        [arXiv 2104.02057](https://arxiv.org/abs/2104.02057); `vits.py` of
        [facebookresearch/moco-v3](https://github.com/facebookresearch/moco-v3). Attention pooling:
        Zhai et al., [arXiv 2106.04560](https://arxiv.org/abs/2106.04560); `vit.py` of
        [google-research/big_vision](https://github.com/google-research/big_vision).
    """
    width, depth, default_heads = look_up(SIZES, name)
    heads = heads or default_heads
    at_least_one(patch=patch, heads=heads, channels=channels)
    if width % heads:
        raise ArgumentError(
            "heads",
            f"found {heads} with {name}, which is {width} wide; allowed: a divisor of its width, "
            f"for example {max(h for h in range(1, heads) if width % h == 0)}.",
        )
    learned = look_up(POSITIONS, positions, argument="positions")
    if learned:
        at_least_one(image_size=image_size)
        check_patch(patch, image_size, image_size)
    build = functools.partial(
        VisionTransformer,
        width,
        depth,
        heads,
        patch=patch,
        channels=channels,
        freeze_patches=freeze_patches,
        side=image_size if learned else None,
        pool=look_up(IMAGE_POOLINGS, pooling, argument="pooling"),
        remat=remat,
        dtype=dtype,
    )
    return functional(lambda rngs: build(rngs=rngs), out_features=width)
