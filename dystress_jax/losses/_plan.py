"""From what the caller of a loss passes to what the losses work with: checks and defaults."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..similarities import Similarity, as_similarity, at_least_float32
from ..temperatures import Temperature, TemperatureLike, as_temperature, concrete
from . import _partition
from ._strategies import axis_size, choose

SimilarityLike = Similarity | Callable[[Array, Array], Array]


class Plan(NamedTuple):
    """What the caller chose, ready for use."""

    temperature: Temperature
    similarity: Similarity
    normalize: bool
    strategy: _partition.Strategy
    axis_name: str | None

    def points(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The rows on the manifold, in float32 at least."""
        x = at_least_float32(jnp.asarray(x))
        return self.similarity.project(x) if self.normalize else x

    def row_numbers(self, n: int) -> Int[Array, " n"]:
        """Numbers of this device's n rows, unique over the mesh axis if there is one."""
        numbers = jnp.arange(n, dtype=jnp.int32)
        if self.axis_name is None:
            return numbers
        return numbers + n * jax.lax.axis_index(self.axis_name)

    def negatives(
        self,
        anchors: Float[Array, "n d"],
        candidates: Float[Array, "m d"],
        *,
        groups: tuple[Array, Array] | None,
    ) -> Float[Array, " n"]:
        """N_i, the log-partition over the candidates of other groups."""
        return _partition.log_partition(
            anchors,
            candidates,
            temperature=self.temperature.for_negatives,
            similarity=self.similarity,
            strategy=self.strategy,
            groups=groups,
        )

    def positives(
        self, a: Float[Array, "n d"], b: Float[Array, "n d"], *, copies: int = 1
    ) -> Float[Array, " anchors"]:
        """l_i, the logit of each point a[i] with b[i], repeated for both of them with copies=2."""
        return _partition.paired_logits(
            a,
            b,
            temperature=self.temperature.for_positives,
            similarity=self.similarity,
            copies=copies,
        )


def make_plan(
    anchors: int,
    candidates: int,
    length: int,
    temperature: TemperatureLike,
    similarity: SimilarityLike,
    normalize: bool,
    strategy: str,
    tile_size: int | None,
    axis_name: str | None,
) -> Plan:
    """Resolves the arguments that all losses share, for this number of anchors and candidates."""
    temperature = as_temperature(temperature)
    for part in (temperature.for_positives, temperature.for_negatives):
        for leaf in jax.tree.leaves(part) if part.is_per_anchor else ():
            if jnp.shape(leaf)[:1] != (anchors,):
                raise ValueError(
                    f"a temperature per anchor needs {anchors} entries here, one for each value "
                    f"of the loss; found shape {jnp.shape(leaf)}."
                )
    chosen = choose(strategy, anchors, candidates, length, tile_size, axis_name)
    similarity = as_similarity(similarity)
    if chosen.reverse_only:
        _check_closed(similarity, length)
    return Plan(temperature, similarity, normalize, chosen, axis_name)


def _check_closed(similarity: Similarity, length: int) -> None:
    """Refuses a measure that closes over traced values, which a custom derivative cannot reach."""
    point = jnp.zeros((1, length))
    if not concrete(*jax.make_jaxpr(similarity.between)(point, point).consts):
        raise ValueError(
            "similarity closes over traced values, such as a parameter to learn; allowed with "
            'strategy="dense" only. Or apply the parameter to the embeddings before the loss.'
        )


def check_rows(name_a: str, a: Array, name_b: str, b: Array) -> None:
    """Refuses what is not floating point [rows, features] with rows of the same length."""
    for name, x in ((name_a, a), (name_b, b)):
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise TypeError(f"{name} must be floating point; found {jnp.result_type(x)}.")
        if jnp.ndim(x) != 2:
            raise ValueError(f"{name} must have shape [rows, features]; found {jnp.shape(x)}.")
    if jnp.shape(a)[1] != jnp.shape(b)[1]:
        raise ValueError(
            f"{name_a} and {name_b} must have rows of the same length; found shapes "
            f"{jnp.shape(a)} and {jnp.shape(b)}."
        )


def check_pairs(name_a: str, a: Array, name_b: str, b: Array, axis_name: str | None) -> None:
    """Refuses what is not two arrays of one shape, for at least two examples on all devices."""
    check_rows(name_a, a, name_b, b)
    if jnp.shape(a) != jnp.shape(b):
        raise ValueError(
            f"{name_a} and {name_b} must have the same shape, row i of both is one example; found "
            f"{jnp.shape(a)} and {jnp.shape(b)}."
        )
    check_count("examples", jnp.shape(a)[0], axis_name)


def check_count(what: str, n: int, axis_name: str | None) -> None:
    """Refuses fewer than two examples or keys on all devices together."""
    n *= 1 if axis_name is None else axis_size(axis_name)
    if n < 2:
        raise ValueError(f"a contrastive loss needs at least 2 {what}; found {n}.")


def check_labels(labels: Array, n: int) -> None:
    """Refuses what is not one integer for each example."""
    if jnp.shape(labels) != (n,) or not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(
            f"labels must be {n} integers, one for each example; found shape {jnp.shape(labels)} "
            f"of {jnp.result_type(labels)}."
        )
