"""Principal components: the directions in which rows differ most."""

import numpy as np
from jaxtyping import Float


def centred(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length 1, as for cosine similarity, about their mean.

    Args:
        features: of any length; a row of zeros stays one.

    Example:
        >>> centred(np.array([[2.0, 0.0], [0.0, 3.0]])).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """
    x = np.asarray(features, np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(lengths > 0, lengths, 1)
    return unit - unit.mean(axis=0)


def principal_axes(
    rows: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "2 d"], Float[np.ndarray, "2"]]:
    """The two directions of most variance.

    Args:
        rows: about their mean, as `centred` gives them.

    Returns:
        The directions, each turned so that its largest entry is above 0, and the shares of the
        variance that they hold. Where there are fewer, the others are 0.

    Example:
        >>> axes, shares = principal_axes(np.array([[-1.0, 0.0], [1.0, 0.0]]))
        >>> axes[0].tolist(), shares.tolist()
        ([1.0, 0.0], [1.0, 0.0])
    """
    _, strengths, axes = np.linalg.svd(rows, full_matrices=False)
    # What rounding leaves of rows, which are no longer than 1, is no direction.
    real = strengths > max(rows.shape) * np.finfo(np.float64).eps * np.sqrt(len(rows))
    strengths, axes = strengths * real, axes * real[:, None]
    axes = np.pad(axes[:2], ((0, 2 - len(axes[:2])), (0, 0)))
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    variances = np.pad(strengths**2, (0, 2))
    shares = variances[:2] / max(float(variances.sum()), 1e-30)
    return axes * np.where(largest < 0, -1.0, 1.0), shares
