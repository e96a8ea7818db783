"""ConvNeXt: a convolutional network with the MLPs and the norms of a transformer."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..errors import ArgumentError, at_least_one, look_up
from ._arguments import check_channels
from ._functional import Network, functional
from ._transformer import LayerNorm

# The authors' code truncates at -2 and 2, a hundred standard deviations: a normal distribution.
initial = nnx.initializers.normal(0.02)


def _conv(
    in_features: int,
    out_features: int,
    size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    **options: Any,
) -> nnx.Conv:
    return nnx.Conv(
        in_features,
        out_features,
        (size, size),
        stride,
        padding=padding,
        kernel_init=initial,
        **options,
    )


class Stem(nnx.Module):
    """Map patches linearly, and normalise."""

    def __init__(self, channels: int, width: int, patch: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Make the map of `patch * patch * channels` numbers to `width`."""
        self.conv = _conv(channels, width, patch, stride=patch, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n ho wo co"]:
        """Return one position a patch, in float32."""
        return self.norm(self.conv(images).astype(jnp.float32))


class Downsampling(nnx.Module):
    """Normalise, and map squares of 2x2 positions linearly."""

    def __init__(self, in_features: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Make the map of `in_features` channels to `width`."""
        self.norm = LayerNorm(in_features, rngs=rngs)
        self.conv = _conv(in_features, width, 2, stride=2, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n ho wo co"]:
        """Return half the rows and columns, in float32."""
        return self.conv(self.norm(x)).astype(jnp.float32)


class Block(nnx.Module):
    r"""A depthwise convolution, a norm and an MLP, scaled and added to the inputs.

    $$y = x + \gamma \odot W_2\, \mathrm{GELU}(W_1\, \mathrm{LN}(\mathrm{conv}_{7 \times 7}(x)))$$

    The layer scale $\gamma$ starts at $10^{-6}$. The sum is in float32, since bfloat16 would round
    so small an addition away.
    """

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        """Make the block; the MLP is four times as wide as the inputs."""
        linear = functools.partial(nnx.Linear, kernel_init=initial, dtype=dtype, rngs=rngs)
        self.conv = _conv(
            width, width, 7, padding=3, feature_group_count=width, dtype=dtype, rngs=rngs
        )
        self.norm = LayerNorm(width, rngs=rngs)
        self.mlp1 = linear(width, 4 * width)
        self.mlp2 = linear(4 * width, width)
        self.layer_scale = nnx.Param(jnp.full(width, 1e-6, jnp.float32))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Return the sum, in float32."""
        y = self.norm(self.conv(x))
        y = self.mlp2(nnx.gelu(self.mlp1(y), approximate=False))
        return x + self.layer_scale[...][*[None] * 3] * y.astype(jnp.float32)


class ConvNeXt(nnx.Module):
    """Stem, stages of blocks, global average pool, a norm.

    Every stage but the first begins with a downsampling.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        patch: int,
        channels: int,
        remat: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the network; a stage has `depths[k]` blocks of `widths[k]` channels."""
        self.patch, self.channels, self.remat = patch, channels, remat
        self.stages = len(depths)
        layer = {"dtype": dtype, "rngs": rngs}
        layers: dict[str, Any] = {"stem": Stem(channels, widths[0], patch, **layer)}
        for k in range(self.stages):
            stage = f"stage{k + 1}"
            if k > 0:
                layers[f"{stage}_downsampling"] = Downsampling(widths[k - 1], widths[k], **layer)
            for i in range(depths[k]):
                layers[f"{stage}_block{i + 1}"] = Block(widths[k], **layer)
        self.order = tuple(layers)
        self.layers = nnx.Dict(layers)
        self.norm = LayerNorm(widths[-1], rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n d"]:
        """Return the features in float32; training and evaluation are the same function."""
        check_channels(self.channels, images)
        _check_size(self.patch, self.stages, *images.shape[1:3])
        apply = lambda layer, x: layer(x)
        if self.remat and train:
            apply = nnx.remat(apply)
        x = images
        for name in self.order:  # not .values(): they come sorted by name, block10 before block2
            x = apply(self.layers[name], x)
        return self.norm(jnp.mean(x, axis=(1, 2)))


def _check_size(patch: int, stages: int, height: int, width: int) -> None:
    """Refuse images of which the downsamplings leave nothing."""
    side, smallest = min(height, width), 2 ** (stages - 1)
    if side // patch >= smallest:
        return
    largest = side // smallest
    raise ArgumentError(
        "patch",
        f"found {patch} with images of {height} x {width}, which {stages - 1} downsamplings after "
        "it leave nothing of; allowed: "
        + (f"at most {largest}." if largest else f"1, with images of {smallest} x {smallest}."),
    )


SIZES = {  # blocks and channels of each stage
    "convnext_atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "convnext_pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
}


def convnext(
    name: str,
    *,
    patch: int = 4,
    channels: int = 3,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Network:
    """Make a ConvNeXt (the first version, without GRN) without its classifier.

    | name            | blocks     | channels          | parameters |
    | --------------- | ---------- | ----------------- | ---------- |
    | `convnext_atto` | 2, 2, 6, 2 | 40, 80, 160, 320  | 3,374,520  |
    | `convnext_pico` | 2, 2, 6, 2 | 64, 128, 256, 512 | 8,532,672  |
    | `convnext_tiny` | 3, 3, 9, 3 | 96, 192, 384, 768 | 27,820,128 |

    There is no BatchNorm, so training and evaluation are the same function. There is no stochastic
    depth either: the published `convnext_tiny` was trained on ImageNet with a rate of 0.1.

    Args:
        name: one of the names above.
        patch: side of the square patches of the stem in pixels, at least 1; 4 as published, 1 or 2
            for small images: three downsamplings follow, so that images of 32x32 pixels have one
            position left with 4, and 4x4 with 1. Pixels that fill no patch are left out.
        channels: channels of the images, at least 1.
        remat: compute the insides of the blocks again for the gradient in place of keeping them.
        dtype: compute type; parameters, normalisation, sums of the blocks and features are float32.

    Returns:
        The network: images `[n h w channels]` to features `[n out_features]`.

    Raises:
        ArgumentError: the name is unknown or a number is below 1; when the network is applied, the
            images are less than eight patches high or wide.

    Example:
        >>> import jax
        >>> encoder = convnext("convnext_tiny")
        >>> params, stats = jax.eval_shape(encoder.init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params)), encoder.out_features
        (27820128, 768)

    References:
        Liu et al., [arXiv 2201.03545](https://arxiv.org/abs/2201.03545); `models/convnext.py` of
        [facebookresearch/ConvNeXt](https://github.com/facebookresearch/ConvNeXt). The sizes
        `convnext_atto` and `convnext_pico`: `timm/models/convnext.py` of
        [huggingface/pytorch-image-models](https://github.com/huggingface/pytorch-image-models); Woo
        et al., [arXiv 2301.00808](https://arxiv.org/abs/2301.00808) (ConvNeXt V2), have them too.
    """
    depths, widths = look_up(SIZES, name)
    at_least_one(patch=patch, channels=channels)
    build = functools.partial(
        ConvNeXt, depths, widths, patch=patch, channels=channels, remat=remat, dtype=dtype
    )
    return functional(lambda rngs: build(rngs=rngs), out_features=widths[-1])
