"""Where the images of a run lie in two dimensions: one layout, fitted once, for steps and runs."""

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._pca import centred, principal_axes

Points = Float[np.ndarray, "n _"]
Places = Float[np.ndarray, "n 2"]
Rows = Float[np.ndarray, "m _"]
NO_SPREAD = 1e-6  # of rows of length 1: less is rounding


def layouts() -> tuple[str, ...]:
    """The names of the layouts that can be computed here."""
    return ("PCA", "UMAP") if importlib.util.find_spec("umap") else ("PCA",)


class Layout(NamedTuple):
    """Where rows lie.

    Attributes:
        places: of each step.
        by: the layout that has placed them.
    """

    places: list[Places]
    by: str


def lay_out(steps: Sequence[Points], *, layout: str = "PCA") -> Layout:
    r"""Places of the same rows at several steps, in one layout.

    Rows are scaled to length 1 and centred. The last step is the reference: with
    $X_t^\top X_\mathrm{last} = U S V^\top$ the rows of step t are turned by $U V^\top$ (orthogonal
    Procrustes), which leaves the distances within a step as they are. The layout is fitted to the
    reference and places all of them, so that what moves on the map has moved in the space.

    Args:
        steps: the rows of each step; the number of dimensions may differ. Steps of several runs may
            follow each other, if the rows stand for the same images.
        layout: one of `layouts`. UMAP needs three rows that differ, of three dimensions; where it
            cannot place them, PCA does.

    Returns:
        The places of each step; together they fill [-1, 1] in both directions.

    Example:
        >>> line = np.array([[1.0, 0.1], [1.0, 0.5], [1.0, 1.0]])
        >>> found = lay_out([line @ np.array([[0.0, 1.0], [-1.0, 0.0]]), line])
        >>> bool(np.allclose(*found.places))
        True
    """
    ready = [centred(x) for x in steps]
    reference = ready[-1]
    turned = [_turned(x, reference) for x in ready[:-1]]
    rows = np.concatenate([*turned, reference])
    every = _umap(reference, rows) if layout == "UMAP" else None
    by = "PCA" if every is None else layout
    if every is None:
        every = _pca(reference, rows)
    low, high = every.min(axis=0), every.max(axis=0)
    half = np.where(high > low, (high - low) / 2, 1)
    placed = (every - (low + high) / 2) / half
    return Layout(np.split(placed, np.cumsum([len(x) for x in ready[:-1]])), by)


def _turned(x: Points, reference: Float[np.ndarray, "n r"]) -> Float[np.ndarray, "n r"]:
    u, _, vt = np.linalg.svd(x.T @ reference, full_matrices=False)
    return x @ u @ vt


def _pca(reference: Points, rows: Rows) -> Float[np.ndarray, "m 2"]:
    """Onto the two axes of most variance."""
    axes, _ = principal_axes(reference)
    return rows @ axes.T


def _umap(reference: Points, rows: Rows) -> Float[np.ndarray, "m 2"] | None:
    """By neighbours; `rows` end with those of the reference, whose places are kept as fitted.

    None where UMAP has too little to go by, which it answers with an error or with NaN.
    """
    if min(reference.shape) < 3 or np.ptp(reference, axis=0).max() < NO_SPREAD:
        return None
    import umap  # pyright: ignore[reportMissingImports]

    neighbours = max(2, min(15, len(reference) - 1))
    # On several threads every page would differ.
    fitted = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1, init="pca").fit(reference)
    own, others = np.asarray(fitted.embedding_, np.float64), rows[: len(rows) - len(reference)]
    every = np.concatenate([fitted.transform(others), own]) if len(others) else own
    return every if np.isfinite(every).all() else None
