"""Zero-shot classification: the class whose description is most similar to the image."""

import functools
from collections.abc import Sequence

import jax
from jaxtyping import Array, Float

from .._placement import of_whole_arrays
from ..errors import ArgumentError, hint
from ..similarities import Similarity, at_least_float32, sphere

TEMPLATES = {
    "name": ("{}",),
    "photos": (
        "a photo of a {}",
        "a picture of a {}",
        "a photo of one {}",
        "a close view of a {}",
        "a small {} in a photo",
        "a blurry photo of a {}",
    ),
    "drawings": (
        "{}",
        "a drawing of {}",
        "an emoji of {}",
        "an icon of {}",
        "a small picture of {}",
        "a colourful drawing of {}",
    ),
}
"""Sets of prompt templates; `{}` stands for the name of the class."""


def templates(name: str) -> tuple[str, ...]:
    """The set of `TEMPLATES` with that name, or the one template that it is.

    Args:
        name: of a set, or a text with one `{}`.

    Raises:
        ArgumentError: it is neither.

    Example:
        >>> templates("a sketch of {}")
        ('a sketch of {}',)
    """
    if name not in TEMPLATES and name.count("{}") != 1:
        raise ArgumentError(
            "name",
            f"found {name!r}; allowed: {', '.join(TEMPLATES)}, or a text with one {{}} for the "
            f"name of the class.{hint(name, TEMPLATES)}",
        )
    return TEMPLATES.get(name, (name,))


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Put the names into the templates, class after class.

    Args:
        class_names: any text.
        templates: each with `{}` where the name goes, such as `TEMPLATES["photos"]`.

    Returns:
        `len(class_names) * len(templates)` prompts: all those of the first class, and so on.

    Raises:
        ArgumentError: there is no template, or one has no `{}`.

    Example:
        >>> prompts(["cat", "dog"], ["{}", "a photo of a {}"])
        ['cat', 'a photo of a cat', 'dog', 'a photo of a dog']
    """
    if not templates:
        raise ArgumentError("templates", "found none; allowed: at least one, such as '{}'.")
    for template in templates:
        if "{}" not in template:
            raise ArgumentError(
                "templates", f"found {template!r}; allowed: texts with {{}} for the class name."
            )
    # Not str.format: a name or a template may hold other braces.
    return [template.replace("{}", name) for name in class_names for template in templates]


@of_whole_arrays
def class_embeddings(
    prompts: Float[Array, "classes templates d"], *, similarity: Similarity = sphere
) -> Float[Array, "classes d"]:
    r"""One embedding a class: the mean of its prompts on the similarity's manifold.

    $$c = \Pi\Big( \frac1T \sum_{t=1}^T \Pi(p_t) \Big)$$

    where $\Pi$ projects onto the manifold: on the sphere it scales to length 1, on the
    oblique manifold each token by itself, and it leaves Euclidean embeddings as they are.

    Args:
        prompts: embeddings as the network gives them, of the prompts of `prompts`, reshaped.
        similarity: whose manifold the mean is on.

    Returns:
        Embeddings in float32. Prompts that cancel out leave 0, which is like no image.

    Example:
        >>> import jax.numpy as jnp
        >>> class_embeddings(jnp.array([[[3.0, 0.0], [0.0, 1.0]]])).round(3).tolist()
        [[0.707, 0.707]]

    References:
        Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020), section 3.1.4 (the
        ensemble over the embedding space).
    """
    classes, templates, d = prompts.shape
    points = similarity.project(at_least_float32(prompts.reshape(classes * templates, d)))
    return similarity.project(points.reshape(classes, templates, d).mean(axis=1))


@of_whole_arrays
@functools.partial(jax.jit, static_argnames="similarity")
def zero_shot_scores(
    images: Float[Array, "n d"],
    classes: Float[Array, "classes d"],
    *,
    similarity: Similarity = sphere,
) -> Float[Array, "n classes"]:
    """How similar each image is to each class, for `top_accuracy`.

    Args:
        images: embeddings as the network gives them.
        classes: of `class_embeddings`.
        similarity: of an image and a class.

    Returns:
        The similarities, in float32.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.array([[2.0, 0.1], [0.3, 0.5]])
        >>> zero_shot_scores(images, jnp.eye(2)).argmax(axis=1).tolist()
        [0, 1]
    """
    return similarity(at_least_float32(images), at_least_float32(classes))
