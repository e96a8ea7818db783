"""Projection heads, between the encoder's features and the contrastive loss."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ..errors import at_least_one, look_up
from ._arguments import used_by
from ._functional import Network, functional, identity
from ._norm import BatchNorm


@dataclasses.dataclass(frozen=True)
class _Head:
    layers: int
    norm: bool = True  # BatchNorm after the layers before the last, in place of their biases
    last_norm: Literal["none", "full", "scale", "plain"] = (
        "none"  # scale: no offset; plain: neither
    )


class MLP(nnx.Module):
    """Linear layers with ReLU between them, and BatchNorm before it where the head has any."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        head: _Head,
        bn_groups: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the layers; `sizes` are the widths from the inputs to the outputs."""
        batch_norm = functools.partial(BatchNorm, groups=bn_groups, rngs=rngs)
        last = len(sizes) - 2
        linears, norms = {}, {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            name = f"layer{i + 1}"
            linears[name] = nnx.Linear(
                fan_in, fan_out, use_bias=not head.norm, dtype=dtype, rngs=rngs
            )
            if i < last and head.norm:
                norms[name] = batch_norm(fan_out)
            elif i == last and head.last_norm != "none":
                norms[name] = batch_norm(
                    fan_out, use_scale=head.last_norm != "plain", use_bias=head.last_norm == "full"
                )
        self.last = f"layer{last + 1}"
        self.linears = nnx.Dict(linears)
        self.norms = nnx.Dict(norms)

    def __call__(self, x: Float[Array, "n d_in"], *, train: bool) -> Float[Array, "n d_out"]:
        """Return the projections in float32, not normalised."""
        for name, linear in self.linears.items():
            x = linear(x)
            if name in self.norms:
                x = self.norms[name](x, use_running_average=not train)
            if name != self.last:
                x = nnx.relu(x)
        return x.astype(jnp.float32)


def _mlp(
    head: _Head,
    *,
    in_features: int,
    hidden: int | None = None,
    out: int = 128,
    bn_groups: int = 1,
    dtype: DTypeLike = jnp.float32,
) -> Network:
    hidden = hidden or in_features
    at_least_one(in_features=in_features, hidden=hidden, out=out, bn_groups=bn_groups)
    sizes = (in_features, *[hidden] * (head.layers - 1), out)
    return functional(
        lambda rngs: MLP(sizes, head=head, bn_groups=bn_groups, dtype=dtype, rngs=rngs),
        out_features=out,
    )


def _mlp_without_norm(
    head: _Head,
    *,
    in_features: int,
    hidden: int | None = None,
    out: int = 128,
    dtype: DTypeLike = jnp.float32,
) -> Network:
    return _mlp(head, in_features=in_features, hidden=hidden, out=out, dtype=dtype)


def _none(*, in_features: int) -> Network:
    at_least_one(in_features=in_features)
    return identity(features=in_features)


HEADS: dict[str, Callable[..., Network]] = {
    "simclr": functools.partial(_mlp, _Head(layers=2, last_norm="scale")),
    "simclr3": functools.partial(_mlp, _Head(layers=3, last_norm="scale")),
    "dystress_cifar": functools.partial(_mlp, _Head(layers=2, last_norm="full")),
    "byol": functools.partial(_mlp, _Head(layers=2)),
    "moco_v2": functools.partial(_mlp_without_norm, _Head(layers=2, norm=False)),
    "moco_v3": functools.partial(_mlp, _Head(layers=2, last_norm="plain")),
    "moco_v3_vit": functools.partial(_mlp, _Head(layers=3, last_norm="plain")),
    "none": _none,
}
"""The heads by name; `projector` says what they are, and what their arguments are."""


def projector(
    name: str,
    *,
    in_features: int,
    hidden: int | None = None,
    out: int = 128,
    bn_groups: int = 1,
    dtype: DTypeLike = jnp.float32,
) -> Network:
    """Make a projection head, or a predictor.

    | name             | layers                                         | last BN             |
    | ---------------- | ---------------------------------------------- | ------------------- |
    | `simclr`         | linear, BN, ReLU, linear, BN                   | no offset           |
    | `simclr3`        | linear, BN, ReLU, linear, BN, ReLU, linear, BN | no offset           |
    | `dystress_cifar` | linear, BN, ReLU, linear, BN                   | scale and offset    |
    | `byol`           | linear, BN, ReLU, linear                       |                     |
    | `moco_v2`        | linear, ReLU, linear                           |                     |
    | `moco_v3`        | linear, BN, ReLU, linear, BN                   | no scale, no offset |
    | `moco_v3_vit`    | linear, BN, ReLU, linear, BN, ReLU, linear, BN | no scale, no offset |
    | `none`           | none: the features themselves                  |                     |

    MoCo v3's predictor is `byol` after a ResNet and `moco_v3` after a ViT. The linear layers have
    biases in `moco_v2` only: elsewhere BatchNorm's offset takes their place, and the last layer of
    `byol` has neither.

    A last BatchNorm centres the projections, so that similarities start around 0; without it they
    start well above.

    Args:
        name: one of the names above.
        in_features: width of the encoder's features, at least 1.
        hidden: width of the layers before the last, at least 1; None or 0 for `in_features`.
        out: width of the projections, at least 1; `none` has no use for it.
        bn_groups: groups of the batch that BatchNorm normalises each by itself, as in `resnet`, at
            least 1; `moco_v2` and `none` have no use for it.
        dtype: compute type; parameters, statistics and outputs are float32.

    Returns:
        The head: `[n in_features]` to `[n out]`, not normalised.

    Raises:
        ArgumentError: the name is unknown or a number is below 1; when the head is applied, the
            groups do not divide the batch.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> head = projector("simclr", in_features=512, out=128)
        >>> params, stats = jax.jit(head.init)(jax.random.key(0))
        >>> apply = jax.jit(head.apply, static_argnames="train")
        >>> projections, stats = apply(params, stats, jnp.ones((4, 512)), train=True)
        >>> projections.shape
        (4, 128)

    References:
        `simclr`: Chen et al., [arXiv 2002.05709](https://arxiv.org/abs/2002.05709), section 2.1,
        with the BatchNorm of `projection_head` in `model_util.py` of
        [google-research/simclr](https://github.com/google-research/simclr) (`num_proj_layers`
        2, hidden layers as wide as the features).

        `simclr3`: Chen et al., [arXiv 2006.10029](https://arxiv.org/abs/2006.10029), the same
        function with 3 layers.

        `dystress_cifar`: the CIFAR experiments of Manna et al.,
        [arXiv 2308.01140](https://arxiv.org/abs/2308.01140) (512-512-128), `smallscale/model.py`
        of [sadimanna/DySTreSS](https://github.com/sadimanna/DySTreSS). The same layers,
        2048-2048-128, are lightly's `SimCLRProjectionHead`, which they take on ImageNet.

        `byol`: Grill et al., [arXiv 2006.07733](https://arxiv.org/abs/2006.07733), section 3.3
        (4096 wide, 256 out); its projector and its predictor.

        `moco_v2`: Chen et al., [arXiv 2003.04297](https://arxiv.org/abs/2003.04297), section 3,
        with hidden layers as wide as the features, as `builder.py` of
        [facebookresearch/moco](https://github.com/facebookresearch/moco).

        `moco_v3`, `moco_v3_vit`: Chen et al.,
        [arXiv 2104.02057](https://arxiv.org/abs/2104.02057), section 3; `builder.py` of
        [facebookresearch/moco-v3](https://github.com/facebookresearch/moco-v3) (4096 wide,
        256 out).
    """
    build = look_up(HEADS, name)
    return build(
        in_features=in_features,
        **used_by(build, hidden=hidden, out=out, bn_groups=bn_groups, dtype=dtype),
    )
