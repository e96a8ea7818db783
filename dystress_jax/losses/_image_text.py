"""What losses between images and texts take: which belong together, and what is of one side."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from ..errors import ArgumentError, check_same_shape
from ..temperatures import Temperature, TemperatureLike, map_per_anchor
from . import _pairs
from ._checks import (
    as_given,
    as_labels,
    as_mask,
    check_array,
    check_count,
    check_rows,
    check_some,
)
from ._options import Options
from ._plan import Plan
from ._strategies import AxisName

Labels = Integer[Array, "_"] | Bool[Array, "_ _"]
Rows = Float[Array, "_ ..."]
Mask = Bool[Array, "_"]


class Belonging(NamedTuple):
    """What belongs together, and what only fills up the batch: of the images, and of the texts."""

    labels: tuple[Any, Any]
    real: _pairs.Real


def belonging(
    images: Float[Array, "n d"],
    texts: Float[Array, "m d"],
    labels: Labels | Sequence[Labels] | None,
    where: Bool[Array, " n"] | None,
    where_texts: Bool[Array, " m"] | None,
    axis: AxisName | None,
) -> Belonging:
    """Checks all that a loss of images and texts takes."""
    check_rows("images", images, "texts", texts)
    n, m = images.shape[0], texts.shape[0]
    check_count("images" if labels is None else "texts", n if labels is None else m, axis)
    check_some("images", n)
    real = as_mask("where", where, n, "image")
    real_texts = as_mask("where_texts", where_texts, m, "text")
    of_both = pair_of("labels", labels)
    if of_both is not None:
        labels = of_both
        of_images, of_texts = as_labels("labels", labels[0], n), as_labels("labels", labels[1], m)
        if of_images.shape[1:] != of_texts.shape[1:]:
            raise ArgumentError(
                "labels",
                f"found shapes {of_images.shape} and {of_texts.shape}; allowed: integers twice, or "
                "bools twice, for the same labels.",
            )
        wider = jnp.promote_types(of_images.dtype, of_texts.dtype)
        # Nobody knows to which texts an unlabelled image belongs: even numbers, and odd ones.
        numbers = 2 * _pairs.row_numbers(n, axis), 2 * _pairs.row_numbers(m, axis) + 1
        of_images = _pairs.groups_of(of_images.astype(wider), numbers[0])
        of_texts = _pairs.groups_of(of_texts.astype(wider), numbers[1])
        return Belonging((of_images, of_texts), (real, real_texts))
    if labels is not None:
        check_same_shape("images", jnp.shape(images), "texts", jnp.shape(texts))
        label = _pairs.groups_of(as_labels("labels", labels, n), _pairs.row_numbers(n, axis))
        return Belonging((label, label), (real, real if real_texts is None else real_texts))
    if isinstance(m - n, int) and m < n:
        raise ArgumentError(
            "texts",
            f"found {m} rows; allowed: at least {n}, because text i belongs to image i where "
            "`labels` is None.",
        )
    if real is not None and real_texts is None:
        real_texts = jnp.concatenate([real, jnp.ones(m - n, bool)])
    if real_texts is not None and real is None:
        real = jnp.ones(n, bool)
    return Belonging((None, None), (real, real_texts))


def pair_of(name: str, x: Any) -> tuple[Any, Any] | None:
    """What is given for each side, or None for one array."""
    if not isinstance(x, tuple | list):
        return None
    if len(x) != 2:
        raise ArgumentError(name, f"found {len(x)} of them; allowed: an array, or a pair.")
    return x[0], x[1]


def temperatures_of(temperature: TemperatureLike, n: int) -> tuple[Temperature, Temperature]:
    """That of n images as anchors, and that of their texts.

    One with n entries for each anchor is that of both, and one with 2n is first of the images.
    """
    found = as_given(temperature)

    def half(of: slice) -> Temperature:
        def cut(leaf: Array) -> Array:
            if leaf.shape[0] not in (n, 2 * n):
                raise ArgumentError(
                    "temperature",
                    f"found shape {leaf.shape} of a temperature per anchor; allowed: {n} entries "
                    f"here, one for an image and its text, or {2 * n}: first those of the images, "
                    "then those of the texts.",
                )
            return leaf if leaf.shape[0] == n else leaf[of]

        return map_per_anchor(cut, found)

    return half(slice(None, n)), half(slice(n, None))


def plans_of(
    options: Options,
    temperatures: tuple[Temperature, Temperature],
    negatives: Rows | Sequence[Rows | None] | None,
    where: Mask | Sequence[Mask | None] | None,
    **shape: Any,
) -> tuple[Plan, Plan]:
    """Of the images with all texts, and of the texts with all images.

    Each with its temperature and its further negatives: texts, or a pair of texts and images.
    """
    further: Any = pair_of("negatives", negatives) or (negatives, None)
    real: Any = pair_of("where_negatives", where) or (where, None)

    def plan(temperature: Temperature, x: Rows | None, mask: Mask | None) -> Plan:
        more = None if x is None else flatten("negatives", x)
        own = replace(options, temperature=temperature, negatives=more, where_negatives=mask)
        return own.plan(**shape)

    of_images, of_texts = map(plan, temperatures, further, real)
    return of_images, of_texts


def real_pairs(real: _pairs.Real) -> Bool[Array, " n"] | None:
    """Which images and their texts are anchors: whole pairs; half of one is still a candidate."""
    images, texts = real
    return None if images is None or texts is None else images & texts[: len(images)]


def flatten(name: str, x: Float[Array, "n ..."]) -> Float[Array, "n d"]:
    check_array(name, x)
    if jnp.ndim(x) == 0:
        raise ArgumentError(name, "found one number; allowed: [rows, features].")
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
