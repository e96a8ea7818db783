"""Mixup and cutmix: the images of a batch, and their targets, mixed in pairs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


def mixed(
    key: PRNGKeyArray,
    images: Float[Array, "n h w c"],
    targets: Float[Array, "n classes"],
    mixup: float,
    cutmix: float,
) -> tuple[Float[Array, "n h w c"], Float[Array, "n classes"]]:
    r"""Mix image i of n, from 0, with image n - 1 - i, and their targets, by one share for all.

    $$\lambda \sim \mathrm{Beta}(\alpha, \alpha), \quad x_i \gets \lambda x_i + (1 - \lambda)
      x_{n - 1 - i}, \quad y_i \gets \lambda y_i + (1 - \lambda) y_{n - 1 - i}$$

    Cutmix takes a box of $x_{n - 1 - i}$ as it is, at a random place, of the share $1 - \lambda$ of
    the sides' product; what of it lies outside the image is cut off, and $\lambda$ is what is left.

    Args:
        key: of the share, the box, and which of the two.
        images: any floats.
        targets: probabilities of the classes.
        mixup: $\alpha$ of mixup, at least 0; 0: none.
        cutmix: $\alpha$ of cutmix, at least 0; 0: none. With both, either with probability 1/2.

    References:
        Zhang et al., [arXiv 1710.09412](https://arxiv.org/abs/1710.09412); Yun et al.,
        [arXiv 1905.04899](https://arxiv.org/abs/1905.04899). One share a batch, and its reverse as
        partner: `timm/data/mixup.py` of
        [pytorch-image-models](https://github.com/huggingface/pytorch-image-models).
    """
    if not mixup and not cutmix:
        return images, targets
    which, share, place = jax.random.split(key, 3)
    height, width = images.shape[1:3]
    by_box = bool(cutmix) if not (mixup and cutmix) else jax.random.bernoulli(which)
    mixup_share, cutmix_share = (
        jax.random.beta(share, alpha or 1.0, alpha or 1.0) for alpha in (mixup, cutmix)
    )
    box = _box(place, height, width, 1 - cutmix_share)
    left = 1 - jnp.mean(box, dtype=jnp.float32)
    weight = jnp.where(by_box, ~box, mixup_share)[None, :, :, None]
    kept = jnp.where(by_box, left, mixup_share)
    images = weight * images + (1 - weight) * images[::-1]
    return images, kept * targets + (1 - kept) * targets[::-1]


def _box(key: PRNGKeyArray, height: int, width: int, share: Float[Array, ""]) -> Bool[Array, "h w"]:
    """A box with this share of the pixels, around a random pixel, cut off at the sides."""
    inside = []
    for side, side_key in zip((height, width), jax.random.split(key), strict=True):
        length = (side * jnp.sqrt(share)).astype(jnp.int32)
        centre: Int[Array, ""] = jax.random.randint(side_key, (), 0, side)
        at = jnp.arange(side)
        inside.append((at >= centre - length // 2) & (at < centre + length // 2))
    return inside[0][:, None] & inside[1][None]
