"""What the transformers share: attention, the MLP, LayerNorm and their initial values."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

CLIP_EPSILON = 1e-5  # PyTorch's default, which CLIP's towers keep; ViTs and ConvNeXt have 1e-6

Gelu = Callable[[Array], Array]
exact_gelu: Gelu = functools.partial(nnx.gelu, approximate=False)
tanh_gelu: Gelu = functools.partial(nnx.gelu, approximate=True)


def clip_gelu(quick: bool) -> Gelu:
    """CLIP's: exact, or x sigmoid(1.702 x) as in OpenAI's weights."""
    return (lambda x: x * nnx.sigmoid(1.702 * x)) if quick else exact_gelu


xavier = nnx.initializers.xavier_uniform()


def _xavier_qkv(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Queries, keys and values are three matrices: each has its own fan, not that of all three."""
    inputs, outputs = shape
    parts = [xavier(part, (inputs, outputs // 3), dtype) for part in jax.random.split(key, 3)]
    return jnp.concatenate(parts, axis=1)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm in float32, cast back once."""

    def __init__(self, features: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
        """Make the layer."""
        super().__init__(
            features, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "*batch d"], *, mask: Array | None = None
    ) -> Float[Array, "*batch d"]:
        """Normalise the last axis."""
        # Without a mask it is not named: the LayerNorm that jax2onnx puts in place has none.
        masked = {} if mask is None else {"mask": mask}
        return super().__call__(x, **masked).astype(x.dtype)


class Block(nnx.Module):
    """Self-attention and an MLP of two layers, each added to its inputs.

    The inputs are normalised on their way into both (pre-norm, as in ViT and CLIP), or with
    `norm_first=False` the sums are (post-norm, as in BERT). There is no dropout.

    The sums keep the type of the inputs, which the networks give in float32: in bfloat16 every
    block would round away a part of what those before it have added. What is inside attention and
    MLP has the compute type, as under PyTorch's autocast.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        norm_first: bool = True,
        epsilon: float = 1e-6,
        gelu: Gelu = exact_gelu,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the block; the MLP is four times as wide as the tokens, `epsilon` the norms'."""
        self.heads = heads
        self.gelu = gelu
        self.norm_first = norm_first
        linear = functools.partial(nnx.Linear, kernel_init=xavier, dtype=dtype, rngs=rngs)
        self.norm1 = LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.qkv = linear(width, 3 * width, kernel_init=_xavier_qkv)
        self.projection = linear(width, width)
        self.norm2 = LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.mlp1 = linear(width, 4 * width)
        self.mlp2 = linear(4 * width, width)

    def __call__(
        self, x: Float[Array, "n t d"], mask: Bool[Array, "#n 1 #t t"] | None = None
    ) -> Float[Array, "n t d"]:
        """Return the tokens after the block; query i attends to key j where `mask[..., i, j]`."""
        if self.norm_first:
            x = x + self._attend(self.norm1(x), mask).astype(x.dtype)
            return x + self._mlp(self.norm2(x)).astype(x.dtype)
        x = self.norm1(x + self._attend(x, mask).astype(x.dtype))
        return self.norm2(x + self._mlp(x).astype(x.dtype))

    def _attend(
        self, x: Float[Array, "n t d"], mask: Bool[Array, "#n 1 #t t"] | None
    ) -> Float[Array, "n t d"]:
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        attended = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask=mask)
        return self.projection(attended.reshape(n, tokens, width))

    def _mlp(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        return self.mlp2(self.gelu(self.mlp1(x)))


class Blocks(nnx.Dict):
    """Blocks one after another, under the names block1, block2, ..."""

    def __init__(self, depth: int, width: int, heads: int, **options: Any):
        """Make the blocks; `options` are those of `Block`."""
        super().__init__({f"block{i + 1}": Block(width, heads, **options) for i in range(depth)})

    def __call__(
        self,
        x: Float[Array, "n t d"],
        mask: Bool[Array, "#n 1 #t t"] | None = None,
        *,
        remat: bool = False,
    ) -> Float[Array, "n t d"]:
        """Return the tokens after the last block.

        With `remat` the gradient keeps the tokens between the blocks only and computes what is
        inside a block once more: less memory for about a third more time.
        """
        apply = lambda block, x, mask: block(x, mask)
        for i in range(len(self)):  # not .values(): they come sorted by name, block10 before block2
            x = (nnx.remat(apply) if remat else apply)(self[f"block{i + 1}"], x, mask)
        return x


class AttentionPool(nnx.Module):
    """A learned token asks the others; what it gathers passes an MLP, added to it."""

    def __init__(self, width: int, heads: int, *, gelu: Gelu, dtype: DTypeLike, rngs: nnx.Rngs):
        """Make the layer; the MLP is four times as wide as the tokens."""
        self.heads = heads
        self.gelu = gelu
        linear = functools.partial(nnx.Linear, kernel_init=xavier, dtype=dtype, rngs=rngs)
        self.token = nnx.Param(xavier(rngs.params(), (1, width), jnp.float32)[0])
        self.qkv = linear(width, 3 * width, kernel_init=_xavier_qkv)
        self.projection = linear(width, width)
        self.norm = LayerNorm(width, rngs=rngs)
        self.mlp1 = linear(width, 4 * width)
        self.mlp2 = linear(4 * width, width)

    def __call__(self, x: Float[Array, "n t d"]) -> Float[Array, "n d"]:
        """Return one token for all of an image."""
        n, tokens, width = x.shape
        token = jnp.broadcast_to(self.token[...], (n, 1, width)).astype(x.dtype)
        qkv = self.qkv(jnp.concatenate([token, x], axis=1))
        qkv = qkv.reshape(n, 1 + tokens, 3, self.heads, width // self.heads)
        attended = jax.nn.dot_product_attention(qkv[:, :1, 0], qkv[:, 1:, 1], qkv[:, 1:, 2])
        x = self.projection(attended.reshape(n, width)).astype(x.dtype)
        return x + self.mlp2(self.gelu(self.mlp1(self.norm(x)))).astype(x.dtype)
