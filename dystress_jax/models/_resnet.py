"""Residual networks (v1.5) for large and small images, and a small one for CPUs."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..errors import ArgumentError, at_least_one, look_up
from ._arguments import check_channels
from ._functional import Network, functional
from ._norm import BatchNorm

# Made by `norm(features, rngs=rngs, zero_scale=...)`, called as `norm(x, use_running_average=...)`.
Norm = Callable[..., Any]

# Normal with variance 2 / (out_features * kernel area), as torchvision's ResNet: He et al., arXiv
# 1502.01852, with the fan of the backward pass.
he_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(
    in_features: int,
    out_features: int,
    size: int,
    stride: int = 1,
    *,
    padding: int | None = None,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    # Symmetric padding as in PyTorch. "SAME" pads a strided convolution by (0, 1) on even images,
    # which moves every feature by half a pixel and makes ported weights wrong.
    return nnx.Conv(
        in_features,
        out_features,
        (size, size),
        stride,
        padding=(size - 1) // 2 if padding is None else padding,
        use_bias=False,
        kernel_init=he_fan_out,
        dtype=dtype,
        rngs=rngs,
    )


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut (ResNet-18 and -34)."""

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_features: int,
        width: int,
        stride: int,
        *,
        norm: Norm,
        zero_residual: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the block; `stride` is that of the first convolution and of the shortcut."""
        conv = functools.partial(_conv, dtype=dtype, rngs=rngs)
        self.conv1 = conv(in_features, width, 3, stride)
        self.norm1 = norm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3)
        self.norm2 = norm(width, rngs=rngs, zero_scale=zero_residual)
        self.shortcut = _shortcut(in_features, width, stride, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n ho wo co"]:
        """Return `relu(residual(x) + shortcut(x))`."""
        y = nnx.relu(self.norm1(self.conv1(x), use_running_average=not train))
        y = self.norm2(self.conv2(y), use_running_average=not train)
        return nnx.relu(y + (self.shortcut(x, train=train) if self.shortcut else x))


class BottleneckBlock(nnx.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut (ResNet-50, -101); v1.5: the 3x3 strides."""

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_features: int,
        width: int,
        stride: int,
        *,
        norm: Norm,
        zero_residual: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the block; `width` is that of the 3x3 convolution, a quarter of the outputs."""
        conv = functools.partial(_conv, dtype=dtype, rngs=rngs)
        out_features = width * self.expansion
        self.conv1 = conv(in_features, width, 1)
        self.norm1 = norm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, stride)
        self.norm2 = norm(width, rngs=rngs)
        self.conv3 = conv(width, out_features, 1)
        self.norm3 = norm(out_features, rngs=rngs, zero_scale=zero_residual)
        self.shortcut = _shortcut(
            in_features, out_features, stride, norm=norm, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n ho wo co"]:
        """Return `relu(residual(x) + shortcut(x))`."""
        y = nnx.relu(self.norm1(self.conv1(x), use_running_average=not train))
        y = nnx.relu(self.norm2(self.conv2(y), use_running_average=not train))
        y = self.norm3(self.conv3(y), use_running_average=not train)
        return nnx.relu(y + (self.shortcut(x, train=train) if self.shortcut else x))


class Projection(nnx.Module):
    """A 1x1 convolution and a norm: the shortcut where the shape changes."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        stride: int,
        *,
        norm: Norm,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the shortcut from `in_features` to `out_features`."""
        self.conv = _conv(in_features, out_features, 1, stride, dtype=dtype, rngs=rngs)
        self.norm = norm(out_features, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n ho wo co"]:
        """Project `x`."""
        return self.norm(self.conv(x), use_running_average=not train)


def _shortcut(in_features: int, out_features: int, stride: int, **layer: Any) -> Projection | None:
    if stride == 1 and in_features == out_features:
        return None
    return Projection(in_features, out_features, stride, **layer)


class Stem(NamedTuple):
    """The first convolution, perhaps a 3x3 max-pool of stride 2, and the images they are for."""

    size: int
    stride: int
    padding: int
    max_pool: bool = False
    smallest: int = 1  # side of the smallest images, in pixels


STEMS = {
    "imagenet": Stem(size=7, stride=2, padding=3, max_pool=True),
    "cifar": Stem(size=3, stride=1, padding=1),
    "patch": Stem(size=4, stride=4, padding=0, smallest=8),
}
"""The first layers of a ResNet, by name."""


class ResNet(nnx.Module):
    """Stem, stages of residual blocks, global average pool.

    Stage k = 0, 1, ... has `width * 2**k` channels (four times that after bottlenecks), and every
    stage but the first halves the image.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[BottleneckBlock],
        stages: Sequence[int],
        *,
        width: int,
        stem: str,
        channels: int,
        norm: Norm = BatchNorm,
        zero_residual: bool = True,
        remat: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the network; `stages` holds the number of blocks of each stage."""
        self.channels = channels
        self.remat = remat
        self.stem = stem
        self.dtype = dtype
        first = look_up(STEMS, stem, argument="stem")
        self.conv = _conv(
            channels,
            width,
            first.size,
            first.stride,
            padding=first.padding,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = norm(width, rngs=rngs)
        features = width
        blocks = {}
        for stage, depth in enumerate(stages):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks[f"stage{stage + 1}_block{i + 1}"] = block(
                    features,
                    width * 2**stage,
                    stride,
                    norm=norm,
                    zero_residual=zero_residual,
                    dtype=dtype,
                    rngs=rngs,
                )
                features = width * 2**stage * block.expansion
        self.order = tuple(blocks)
        self.blocks = nnx.Dict(blocks)

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n d"]:
        """Return the pooled features in float32."""
        check_channels(self.channels, images)
        _check_stem(self.stem, *images.shape[1:3])
        x = nnx.relu(self.norm(self.conv(images.astype(self.dtype)), use_running_average=not train))
        if STEMS[self.stem].max_pool:
            # Padded here, not by max_pool, whose own pairs jax2onnx passes over; XLA makes one of
            # the two again.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
            x = nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")
        apply = lambda block, x: block(x, train=train)
        if self.remat and train:
            apply = nnx.remat(apply)
        for name in self.order:  # not .values(): they come sorted by name, block10 before block2
            x = apply(self.blocks[name], x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def _check_stem(stem: str, height: int, width: int) -> None:
    side, smallest = min(height, width), STEMS[stem].smallest
    if side >= smallest:
        return
    others = [name for name in STEMS if STEMS[name].smallest <= side]
    raise ArgumentError(
        "stem",
        f"found {stem!r} with images of {height} x {width}, which leaves nothing to convolve; "
        f"allowed: {', '.join(others)}, or images of at least {smallest} x {smallest}.",
    )


ARCHITECTURES = {  # block, blocks of each stage, channels of the first
    "small": (BasicBlock, (1, 1), 32),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (BottleneckBlock, (3, 4, 6, 3), 64),
    "resnet101": (BottleneckBlock, (3, 4, 23, 3), 64),
}


def resnet(
    name: str,
    *,
    stem: str = "imagenet",
    channels: int = 3,
    width: int | None = None,
    bn_groups: int = 1,
    zero_residual: bool = True,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Network:
    """Make a residual network without its classifier.

    Args:
        name: `resnet18`, `resnet34`, `resnet50`, `resnet101`, or `small`: the stem and
            two stages of one basic block each, for small images on CPUs.
        stem: `imagenet` is a 7x7 convolution of stride 2 and a max-pool; `cifar` a 3x3
            convolution of stride 1, as SimCLR has for CIFAR; `patch` maps squares of 4x4 pixels, so
            that no convolution on a CPU works at full resolution.
        channels: channels of the images, at least 1.
        width: channels of the first stage, at least 1; by default 64, and 32 for `small`.
        bn_groups: groups of the batch that BatchNorm normalises each by itself, at least 1; 1 takes
            the statistics of the whole batch.
        zero_residual: whether the scale of each block's last BatchNorm starts at 0, so that the
            block starts as its shortcut; else at 1, which is torchvision's default.
        remat: compute the insides of the blocks again for the gradient in place of keeping them.
        dtype: compute type; parameters, statistics and features are float32.

    Returns:
        The network: images `[n h w channels]` to features `[n out_features]`.

    Raises:
        ArgumentError: the name or the stem is unknown, or a size is below 1; when the network is
            applied, the images are too small for the stem, or the groups do not divide the batch.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> encoder = resnet("small", stem="patch")
        >>> params, stats = jax.jit(encoder.init)(jax.random.key(0))
        >>> apply = jax.jit(encoder.apply, static_argnames="train")
        >>> features, stats = apply(params, stats, jnp.ones((2, 32, 32, 3)), train=True)
        >>> features.shape
        (2, 64)

    References:
        He et al., [arXiv 1512.03385](https://arxiv.org/abs/1512.03385), table 1. The bottleneck's
        stride in the 3x3 convolution, the initialisation and the padding: `models/resnet.py` of
        [pytorch/vision](https://github.com/pytorch/vision). The zero scale of each block's last
        BatchNorm: Goyal et al., [arXiv 1706.02677](https://arxiv.org/abs/1706.02677), section 5.1.
        The stem `cifar`: Chen et al., [arXiv 2002.05709](https://arxiv.org/abs/2002.05709),
        appendix B.9.
    """
    block, stages, default_width = look_up(ARCHITECTURES, name)
    look_up(STEMS, stem, argument="stem")
    width = default_width if width is None else width
    at_least_one(channels=channels, width=width, bn_groups=bn_groups)
    build = functools.partial(
        ResNet,
        block,
        stages,
        width=width,
        stem=stem,
        channels=channels,
        norm=functools.partial(BatchNorm, groups=bn_groups),
        zero_residual=zero_residual,
        remat=remat,
        dtype=dtype,
    )
    return functional(
        lambda rngs: build(rngs=rngs),
        out_features=width * 2 ** (len(stages) - 1) * block.expansion,
    )
