"""From what the caller of a loss passes to what the losses work with: checks and defaults."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..errors import ArgumentError
from ..similarities import Similarity, as_similarity, at_least_float32
from ..temperatures import Temperature, TemperatureLike, as_temperature, concrete
from . import _partition
from ._strategies import TileSize, axis_size, choose

SimilarityLike = Similarity | Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Options:
    """The keywords that all losses share, in the order of their signatures."""

    temperature: TemperatureLike
    similarity: SimilarityLike
    normalize: bool
    strategy: str
    tile_size: TileSize
    axis_name: str | None = None

    def plan(self, *, anchors: int, candidates: int, length: int) -> "Plan":
        """Resolves them for this number of anchors and candidates, and the length of their rows."""
        temperature = as_temperature(self.temperature)
        for part in (temperature.for_positives, temperature.for_negatives):
            for leaf in jax.tree.leaves(part) if part.is_per_anchor else ():
                if jnp.shape(leaf)[:1] != (anchors,):
                    raise ArgumentError(
                        "temperature",
                        f"found shape {jnp.shape(leaf)} of a temperature per anchor; allowed: "
                        f"{anchors} entries here, one for each value of the loss.",
                    )
        chosen = choose(self.strategy, anchors, candidates, length, self.tile_size, self.axis_name)
        similarity = as_similarity(self.similarity)
        if chosen.reverse_only:
            _check_closed(similarity, length)
        return Plan(temperature, similarity, self.normalize, chosen, self.axis_name)


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

    def between_views(
        self, view_a: Float[Array, "n d"], view_b: Float[Array, "n d"]
    ) -> tuple[Float[Array, " 2*n"], Float[Array, " 2*n"]]:
        """N_i over the views of all other examples, and l_ip, for the anchors a, then b."""
        a, b = self.points(view_a), self.points(view_b)
        views = jnp.concatenate([a, b])
        sample = jnp.tile(self.row_numbers(a.shape[0]), 2)
        negatives = _partition.log_partition(
            views,
            views,
            temperature=self.temperature.for_negatives,
            similarity=self.similarity,
            strategy=self.strategy,
            groups=(sample, sample),
        )
        return negatives, self.positives(a, b, copies=2)

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


def _check_closed(similarity: Similarity, length: int) -> None:
    """Refuses a measure that closes over traced values, which a custom derivative cannot reach."""
    point = jnp.zeros((1, length))
    if not concrete(*jax.make_jaxpr(similarity.between)(point, point).consts):
        raise ArgumentError(
            "similarity",
            "found a function that closes over traced values, such as a parameter to learn; "
            "allowed with `strategy` dense only. Or apply the parameter to the embeddings before "
            "the loss.",
        )


def check_rows(name_a: str, a: Array, name_b: str, b: Array) -> None:
    """Refuses what is not floating point [rows, features] with rows of the same length."""
    for name, x in ((name_a, a), (name_b, b)):
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise TypeError(f"{name} must be floating point; found {jnp.result_type(x)}.")
        if jnp.ndim(x) != 2:
            raise ArgumentError(name, f"found shape {jnp.shape(x)}; allowed: [rows, features].")
    if jnp.shape(a)[1] != jnp.shape(b)[1]:
        raise ArgumentError(
            name_b,
            f"found shape {jnp.shape(b)}; allowed: rows of the same length as those of `{name_a}`, "
            f"whose shape is {jnp.shape(a)}.",
        )


def check_pairs(name_a: str, a: Array, name_b: str, b: Array, axis_name: str | None) -> None:
    """Refuses what is not two arrays of one shape, for at least two examples on all devices."""
    check_rows(name_a, a, name_b, b)
    check_same_shape(name_a, a, name_b, b)
    check_count(name_a, jnp.shape(a)[0], axis_name)


def check_same_shape(name_a: str, a: Array, name_b: str, b: Array) -> None:
    """Refuses two arrays whose rows do not belong together one by one."""
    if jnp.shape(a) != jnp.shape(b):
        raise ArgumentError(
            name_b,
            f"found shape {jnp.shape(b)}; allowed: {jnp.shape(a)}, that of `{name_a}`: row i of "
            "both belongs to example i.",
        )


def check_count(name: str, n: int, axis_name: str | None) -> None:
    """Refuses fewer than two rows on all devices together."""
    n *= 1 if axis_name is None else axis_size(axis_name)
    if isinstance(n, int) and n < 2:  # of a symbolic size nobody knows
        raise ArgumentError(name, f"found {n} rows; allowed: at least 2, or nothing is contrasted.")


def check_integers(name: str, x: Array, n: int, each: str) -> None:
    """Refuses what is not one integer for each example or query."""
    if jnp.shape(x) != (n,) or not jnp.issubdtype(jnp.result_type(x), jnp.integer):
        raise ArgumentError(
            name,
            f"found shape {jnp.shape(x)} of {jnp.result_type(x)}; allowed: {n} integers, one for "
            f"each {each}.",
        )
