"""Files of weights: names and arrays."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ..files import near, write_bytes
from ._errors import WeightsError
from ._torch import read_torch

SAFETENSORS = ".safetensors"
READ_BY = {
    SAFETENSORS: ", which torch, timm and transformers read (safetensors.torch.load_file)",
}
Tensors = dict[str, np.ndarray]
"""The arrays of a file, by name."""
# Where training scripts put the weights beside the optimiser's state, in the order of search.
_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "module")


def read(path: pathlib.Path) -> Tensors:
    """The arrays of a file by their names: safetensors, or what `torch.save` has written.

    Nothing in the file is ever run.

    Args:
        path: of the file; its content says what it is, whatever its name.

    Returns:
        Name to array, of the dtype that it has in the file.

    Raises:
        WeightsError: there is no such file, it is damaged, or it holds something else.

    Example:
        >>> import tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp(), "w.safetensors")
        >>> write(file, {"fc.weight": np.ones((2, 3), np.float32)})
        >>> read(file)["fc.weight"].shape
        (2, 3)
    """
    start, size = _start_of(path)
    # First the length of the header of safetensors, whose bytes may look like the beginning of a
    # file of PyTorch.
    has_header = int.from_bytes(start[:8], "little") <= size - 8 and start[8:9] == b"{"
    if not has_header and (start[:2] == b"PK" or start[:1] == b"\x80"):
        return _tensors_of(path, read_torch(path))
    if start[8:9] != b"{":
        raise WeightsError(
            f"{path}: found neither safetensors nor a file of PyTorch; allowed: these two."
        )
    try:
        return safetensors.numpy.load_file(path)
    except AttributeError as error:  # of NumPy: it has no such dtype
        raise WeightsError(
            f"{path}: found arrays of a dtype that NumPy does not have ({error}); allowed: "
            "float16, bfloat16, float32, float64."
        ) from error
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path}: found a damaged file ({error}); allowed: a whole one. Copy it again."
        ) from error


def about(path: pathlib.Path) -> dict[str, str]:
    """What a file of safetensors says of itself.

    Args:
        path: of the file.

    Returns:
        Name to text; nothing of a file that is none, or is not there.

    Example:
        >>> path = pathlib.Path("scale.safetensors")
        >>> write(path, {"scale": np.ones(3, np.float32)}, {"made by": "me"})
        >>> about(path)
        {'made by': 'me'}
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return {}


def check_readable(path: pathlib.Path) -> None:
    """Refuse a file that is not there, before there is any need of it.

    Args:
        path: of the file that is to be read.

    Raises:
        WeightsError: it cannot be opened.

    Example:
        >>> check_readable(pathlib.Path("none.pth"))
        Traceback (most recent call last):
        dystress_jax.weights._errors.WeightsError: none.pth: cannot be read (No such file or ...
    """
    _start_of(path)


def _start_of(path: pathlib.Path) -> tuple[bytes, int]:
    """The first bytes of a file, and how many it has."""
    try:
        with path.open("rb") as file:
            return file.read(16), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}); allowed: the path of a file of weights."
            f"{near(path)}"
        ) from error


def write(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: of the file, which must not be there.
        tensors: name to array.
        about: what the file says of itself.

    Raises:
        WeightsError: it is there, or it would be no safetensors by its name.

    Example:
        >>> path = pathlib.Path("bias.safetensors")
        >>> write(path, {"fc.bias": np.ones(3, np.float32)}, {"made by": "me"})
        >>> read(path)["fc.bias"].tolist()
        [1.0, 1.0, 1.0]
    """
    check_writable(path)
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    write_bytes(path, safetensors.numpy.save(whole, dict(about or {})))


def check_writable(path: pathlib.Path, suffix: str = SAFETENSORS) -> None:
    """Refuse a file that could not be written, before there is anything to write.

    Args:
        path: of the file that is to be written.
        suffix: what its name must end in.

    Raises:
        WeightsError: it is there, or its name ends otherwise.

    Example:
        >>> check_writable(pathlib.Path("encoder.safetensors"))
        >>> check_writable(pathlib.Path("encoder.pth"))
        Traceback (most recent call last):
        dystress_jax.weights._errors.WeightsError: encoder.pth: found a name that ends in .pth; ...
    """
    if path.suffix != suffix:
        raise WeightsError(
            f"{path}: found a name that ends in {path.suffix or 'nothing'}; allowed: {suffix}"
            f"{READ_BY.get(suffix, '')}."
        )
    if path.exists():
        raise WeightsError(f"{path}: is there already; allowed: a new file, or delete it first.")


def _tensors_of(path: pathlib.Path, content: Any) -> Tensors:
    """The arrays in what a training script has saved."""
    # What holds them comes first: beside it there may be tensors too, such as the best accuracy.
    for holder in (*_HOLDERS, ""):
        found = content.get(holder) if holder and isinstance(content, dict) else content
        if isinstance(found, dict):
            arrays = {str(n): part for n, part in found.items() if isinstance(part, np.ndarray)}
            if arrays:
                return arrays
    raise WeightsError(
        f"{path}: found no tensors by name; allowed: a state_dict, itself or under "
        f"{', '.join(_HOLDERS)}."
    )
