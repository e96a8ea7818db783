"""Text transformers: bidirectional with repeated class tokens, causal as in CLIP, and SigLIP's.

Texts come as token ids `[n t]`, the class (or start) token first, and 0 behind the last one. What
stands behind the last token never changes the features, so t may differ from call to call.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ..errors import ArgumentError, at_least_one, look_up
from ._arguments import used_by
from ._functional import Network, functional
from ._transformer import CLIP_EPSILON, Blocks, LayerNorm, clip_gelu, tanh_gelu

PADDING = 0


class BidirectionalTransformer(nnx.Module):
    """Words and positions, a norm, post-norm blocks, a norm; the features are the class tokens'."""

    repeats_class_token: ClassVar[bool] = True
    projection_has_bias: ClassVar[bool] = False

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        vocab_size: int,
        context: int,
        class_tokens: int,
        quick_gelu: bool = False,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the network; it has a position for each copy of the class token."""
        self.class_tokens = class_tokens
        self.context = context
        self.remat = remat
        self.words = _embedding(vocab_size, width, rngs=rngs)
        self.positions = _positions(context + class_tokens - 1, width, std=0.02, rngs=rngs)
        norm = functools.partial(LayerNorm, width, epsilon=CLIP_EPSILON, rngs=rngs)
        self.norm_first = norm()
        self.blocks = Blocks(
            *(depth, width, heads),
            norm_first=False,
            epsilon=CLIP_EPSILON,
            gelu=clip_gelu(quick_gelu),
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = norm()

    def __call__(self, ids: Int[Array, "n t"], *, train: bool) -> Float[Array, "n d"]:
        """Return the features in float32; training and evaluation are the same function."""
        del train
        _check_length(ids, self.context)
        m = self.class_tokens
        ids = jnp.concatenate([jnp.repeat(ids[:, :1], m - 1, axis=1), ids], axis=1)
        x = self.norm_first(_with_positions(_as_words(ids, self.words), self.positions))
        # The class tokens are never masked, so no softmax is over nothing, even without a text.
        mask = (ids != PADDING).at[:, :m].set(True)
        x = self.blocks(x, mask[:, None, None, :], remat=self.remat)
        return self.norm(x[:, :m]).reshape(len(ids), -1)


class CausalTransformer(nnx.Module):
    """Words and positions, pre-norm blocks, a norm; the features are the end token's."""

    repeats_class_token: ClassVar[bool] = False
    projection_has_bias: ClassVar[bool] = False

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        vocab_size: int,
        context: int,
        quick_gelu: bool = False,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the network."""
        self.context = context
        self.remat = remat
        self.words = _embedding(vocab_size, width, rngs=rngs)
        self.positions = _positions(context, width, std=0.01, rngs=rngs)
        self.blocks = Blocks(
            *(depth, width, heads),
            epsilon=CLIP_EPSILON,
            gelu=clip_gelu(quick_gelu),
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = LayerNorm(width, epsilon=CLIP_EPSILON, rngs=rngs)

    def __call__(self, ids: Int[Array, "n t"], *, train: bool) -> Float[Array, "n d"]:
        """Return the features in float32; training and evaluation are the same function."""
        del train
        _check_length(ids, self.context)
        t = ids.shape[1]
        x = _with_positions(_as_words(ids, self.words), self.positions)
        # The padding is behind the end token, so the causal mask hides it from there.
        causal = jnp.tril(jnp.ones((t, t), bool))
        x = self.blocks(x, causal[None, None], remat=self.remat)
        end = jnp.max(jnp.where(ids != PADDING, jnp.arange(t)[None], 0), axis=1)
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return self.norm(x)


class PaddedTransformer(nnx.Module):
    """Words and positions, pre-norm blocks, a norm; the features are the last position's.

    Every text fills the context, and what stands behind it is seen like a word.
    """

    repeats_class_token: ClassVar[bool] = False
    projection_has_bias: ClassVar[bool] = True

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        vocab_size: int,
        context: int,
        padding: int = PADDING,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Make the network; `padding` is the id of what stands behind a text."""
        self.context = context
        self.padding = padding
        self.remat = remat
        self.words = _embedding(vocab_size, width, rngs=rngs)
        self.positions = _positions(context, width, std=width**-0.5, rngs=rngs)
        self.blocks = Blocks(depth, width, heads, gelu=tanh_gelu, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, rngs=rngs)

    def __call__(self, ids: Int[Array, "n t"], *, train: bool) -> Float[Array, "n d"]:
        """Return the features in float32; training and evaluation are the same function."""
        del train
        _check_length(ids, self.context)
        ids = jnp.pad(ids, ((0, 0), (0, self.context - ids.shape[1])))
        ids = jnp.where(ids == PADDING, self.padding, ids)
        x = _with_positions(_as_words(ids, self.words), self.positions)
        return self.norm(self.blocks(x, remat=self.remat)[:, -1])


def _embedding(vocab_size: int, width: int, *, rngs: nnx.Rngs) -> nnx.Embed:
    initial = nnx.initializers.normal(0.02)
    return nnx.Embed(vocab_size, width, embedding_init=initial, dtype=jnp.float32, rngs=rngs)


def _as_words(ids: Int[Array, "n t"], words: nnx.Embed) -> Float[Array, "n t d"]:
    """The embeddings of the words; NaN for an id that the vocabulary does not have."""
    return words(jnp.where(ids < 0, words.num_embeddings, ids))  # which would count from the end


def _positions(rows: int, width: int, *, std: float, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), (rows, width), jnp.float32))


def _with_positions(x: Float[Array, "n t d"], positions: nnx.Param) -> Float[Array, "n t d"]:
    return x + positions[: x.shape[1]][None]


def _check_length(ids: Int[Array, "n t"], context: int) -> None:
    if not 1 <= ids.shape[1] <= context:
        raise ArgumentError(
            "context",
            f"found {context} with token ids of shape {ids.shape}; allowed: at least the number "
            "of tokens, the size of their last axis, which is at least 1.",
        )


SIZES = {  # width, depth, heads
    "text_micro": (64, 2, 2),
    "text_mini": (128, 4, 4),
    "text_small": (384, 12, 6),
    "text_base": (512, 12, 8),
    "text_large": (768, 12, 12),
}

POOLINGS: dict[
    str, type[BidirectionalTransformer] | type[CausalTransformer] | type[PaddedTransformer]
] = {
    "cls": BidirectionalTransformer,
    "eot": CausalTransformer,
    "last": PaddedTransformer,
}
"""Text transformers, by where the embedding of a text is read."""


def text_transformer(
    name: str,
    *,
    vocab_size: int,
    context: int = 77,
    pooling: str = "cls",
    class_tokens: int = 1,
    padding: int = PADDING,
    quick_gelu: bool = False,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Network:
    """Make a text transformer.

    | name         | width | blocks | heads |                    |
    | ------------ | ----- | ------ | ----- | ------------------ |
    | `text_micro` | 64    | 2      | 2     | for CPUs           |
    | `text_mini`  | 128   | 4      | 4     | for CPUs           |
    | `text_small` | 384   | 12     | 6     |                    |
    | `text_base`  | 512   | 12     | 8     | CLIP's             |
    | `text_large` | 768   | 12     | 12    | SigLIP's           |

    | pooling | transformer | attention     | features, after a last norm           |
    | ------- | ----------- | ------------- | ------------------------------------- |
    | `cls`   | BERT's      | bidirectional | of the class tokens                   |
    | `eot`   | CLIP's      | causal        | of the last token that is not padding |
    | `last`  | SigLIP's    | bidirectional | of the last position, often padding   |

    With `cls` the blocks are post-norm, after a norm of the embeddings. The last norm follows the
    public code of the oblique pair; BERT itself has none there. The first id of each text,
    the class token, is repeated `class_tokens` times; the copies differ by their position only.
    With `eot` the blocks are pre-norm. The norms have the epsilon 1e-5 of CLIP. With `last` the
    blocks are pre-norm too, all texts fill the context, and all that is in it is seen; the norms
    have the epsilon 1e-6, and the MLPs the tanh form of GELU, as in big_vision.

    None has dropout. The MLPs are four times as wide as the tokens, with the exact GELU where
    nothing else is said; the linear layers start as in `vit` (Xavier uniform) in place of BERT's
    normal of 0.02.

    Args:
        name: one of the names above.
        vocab_size: number of ids, at least 1; an id outside of it gives NaN.
        context: the most tokens of a text, at least 1, its one class token included.
        pooling: `cls`, `eot` or `last`, see above.
        class_tokens: $m$, at least 1; 1 but for `cls`. There are `context` $+ m - 1$ positions.
        padding: for `last`: the id behind a text in place of 0, at least 0. SigLIP repeats the
            end token.
        quick_gelu: the MLPs have x sigmoid(1.702 x) in place of GELU, as OpenAI's weights need; not
            with `last`.
        remat: compute the insides of the blocks again for the gradient in place of keeping them.
        dtype: compute type; parameters, normalisation, sums of the blocks and features are float32.

    Returns:
        The network: ids `[n t]`, padded with 0 at the end, to features `[n class_tokens*width]`.

    Raises:
        ArgumentError: a name is unknown, a number is below 1, or what the pooling does not have is
            asked for; when the network is applied, a text is longer than the context.

    Example:
        >>> import jax
        >>> encoder = text_transformer("text_base", vocab_size=30_522, class_tokens=16)
        >>> params, stats = jax.eval_shape(encoder.init, jax.random.key(0))
        >>> params["words"]["embedding"].shape, params["positions"].shape, encoder.out_features
        ((30522, 512), (92, 512), 8192)

    References:
        `cls`: Devlin et al., [arXiv 1810.04805](https://arxiv.org/abs/1810.04805), as the tower of
        Sun, [arXiv 2209.02127](https://arxiv.org/abs/2209.02127)
        ([minogame/clip-mtob](https://github.com/minogame/clip-mtob)).

        `eot`: Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020); `model.py` of
        [openai/CLIP](https://github.com/openai/CLIP).

        `last`: Zhai et al., [arXiv 2303.15343](https://arxiv.org/abs/2303.15343);
        `text_transformer.py` of
        [google-research/big_vision](https://github.com/google-research/big_vision).
    """
    width, depth, heads = look_up(SIZES, name)
    transformer = look_up(POOLINGS, pooling, argument="pooling")
    at_least_one(vocab_size=vocab_size, context=context, class_tokens=class_tokens)
    if class_tokens > 1 and not transformer.repeats_class_token:
        raise ArgumentError(
            "class_tokens",
            f"found {class_tokens} with `pooling` {pooling!r}, which has one output; allowed: 1.",
        )
    own = {"class_tokens": class_tokens, "quick_gelu": quick_gelu, "padding": padding}
    used = used_by(transformer.__init__, **own)
    for argument, default in (("quick_gelu", False), ("padding", PADDING)):
        if argument not in used and own[argument] != default:
            raise ArgumentError(
                argument,
                f"found {own[argument]} with `pooling` {pooling!r}; allowed: {default}.",
            )
    build = functools.partial(
        transformer,
        width,
        depth,
        heads,
        vocab_size=vocab_size,
        context=context,
        remat=remat,
        dtype=dtype,
        **used,
    )
    return functional(lambda rngs: build(rngs=rngs), out_features=class_tokens * width)


TEXTS: dict[str, Callable[..., Network]] = {
    name: functools.partial(text_transformer, name) for name in SIZES
}
"""The text transformers by name; arguments as of `text_transformer`."""
