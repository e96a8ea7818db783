"""Weights of other libraries in a network, and those of a network for other libraries."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import a_few
from ._errors import WeightsError
from ._files import Tensors
from ._tables import FAMILIES, Entry, Family, Row, entries, from_theirs, positions_of, to_theirs

Tree = Any  # {"params": ..., "stats": ...} of nested dicts
Path = tuple[str, ...]
NATIVE = "safetensors"
"""The format in which arrays keep the names that they have here."""
# Of several networks in a file the one that is evaluated, by the last parts of its prefix, whatever
# wraps it: MoCo's queries come before its keys.
PREFERRED = (
    *("encoder_q.", "query_encoder.", "base_encoder."),
    *("teacher.backbone.", "student.backbone.", "backbone.", "encoder."),
)


class Taken(NamedTuple):
    """What came out of a file.

    Attributes:
        tree: the network's arrays, those of the file in their places.
        family: whose names the file has.
        prefix: what stands before each of them.
        taken: our names of the arrays that the file had.
        kept: our names of those that stay as they were.
        left: their names of what the file has beside.
    """

    tree: Tree
    family: str
    prefix: str
    taken: tuple[str, ...]
    kept: tuple[str, ...]
    left: tuple[str, ...]


def take(
    tree: Tree, tensors: Mapping[str, np.ndarray], *, prefix: str = "auto", shift: int = 0
) -> Taken:
    r"""Put the arrays of a file into a network of the same kind.

    Every array of the encoder must be in the file and have its shape, and the file must have
    nothing else under the prefix, but a classifier.

    Args:
        tree: `{"params": ..., "stats": ...}` of a method, with `encoder`, and of clip `projector`
            and `text`, in each.
        tensors: name to array, as `read` gives them.
        prefix: what stands before each name, such as `module.encoder_q.`; `auto` finds it.
        shift: at least 0; the ids of words are larger here by this than in another library's file.

    Raises:
        WeightsError: the names or shapes are others, or a number is not finite; with the first.

    Example:
        >>> tree = {"params": {"encoder": {"norm": {"scale": np.zeros(2)}}}}
        >>> file = {"module.encoder_q.bn1.weight": np.ones(2), "module.queue": np.ones(3)}
        >>> found = take(tree, file)
        >>> found.tree["params"]["encoder"]["norm"]["scale"].tolist(), found.prefix, found.left
        ([1.0, 1.0], 'module.encoder_q.', ('module.queue',))
    """
    leaves = dict(_leaves(tree))
    if _native_name(next(iter(leaves))) in tensors:
        return _take_native(tree, leaves, tensors)
    tables = _tables(leaves, shift)
    if not tables:
        raise WeightsError(
            "the encoder has no names in other libraries; allowed: resnet18 to resnet101 and small "
            "(torchvision's names), vit_micro to vit_base (timm's), towers with a vit, one token "
            "and texts that are pooled as CLIP's or SigLIP's (open_clip's and Hugging Face's), or "
            "a file that this library has written."
        )
    found = [
        (family, table, before, _missing(table, before, tensors))
        for family, table in tables
        for before in (_given(prefix) if prefix != "auto" else _prefixes(table, tensors))
    ]
    whole = [choice for choice in found if not choice[3]]
    if not whole:
        _say_how_it_is_pooled(leaves, tensors)
        raise WeightsError(_nothing_fits(found))
    family, table, before, _ = _preferred(whole)
    fixed = _fixed_positions(leaves, family)
    _check_surplus(family, table, fixed, before, tensors)
    _check_floats({before + key: tensors[before + key] for key in _keys(table)})
    read = {}
    for entry in table:
        parts = [tensors[before + key] for key in entry.keys]
        read[entry.path] = _in_shape(entry, parts, before)
    if fixed is not None:
        _check_positions(leaves, fixed, tensors, before)
    _check_finite(read)
    used = {before + key for key in _keys(table)}
    return Taken(
        _replaced(tree, read),
        family.name,
        before,
        tuple(".".join(path) for path in read),
        tuple(".".join(path) for path in leaves if path not in read),
        tuple(n for n in tensors if n not in used and not n.endswith("num_batches_tracked")),
    )


def channels_of(tensors: Mapping[str, np.ndarray]) -> int | None:
    """How many channels the images have that a network of these weights sees, if they say so.

    The kernels of its first layer have as many inputs, those of all others more, or one.

    Args:
        tensors: name to array, as `read` gives them.

    Returns:
        3 or 1; None where there is no such kernel.

    Example:
        >>> channels_of({"conv1.weight": np.zeros((64, 1, 7, 7))})
        1
    """
    return next(iter(_first_kernels(tensors)), None)


def kernel_of(tensors: Mapping[str, np.ndarray]) -> int | None:
    """The side of the kernels of the first layer, if there are any: it tells stems apart.

    Args:
        tensors: name to array, as `read` gives them.

    Returns:
        In pixels; None where the first layer has no kernels.

    Example:
        >>> kernel_of({"conv1.weight": np.zeros((64, 3, 7, 7))})
        7
    """
    return next(iter(_first_kernels(tensors).values()), None)


def _first_kernels(tensors: Mapping[str, np.ndarray]) -> dict[int, int]:
    """The side of kernels that see images, by the channels of these; those of colours first."""
    found = {}
    for name, array in tensors.items():
        if array.ndim == 4:  # ours are [h w in out], theirs [out in h w]
            ours = name.startswith("params.")
            inputs, side = (array.shape[2], array.shape[0]) if ours else array.shape[1:3]
            found.setdefault(inputs, side)
    return {channels: found[channels] for channels in (3, 1) if channels in found}


def give(
    tree: Tree, name: str, *, channels: int = 3, side: int | None = None, shift: int = 0
) -> Tensors:
    """The arrays of a network under the names of another library.

    Args:
        tree: as for `take`.
        name: of `LIBRARIES`, or `safetensors`: all arrays under the names that they have here.
        channels: of the images, at least 1.
        side: of the images in patches, at least 1, where a ViT has fixed positions: timm has them
            in the file.
        shift: as for `take`.

    Raises:
        WeightsError: the library has no such network.

    Example:
        >>> tree = {"params": {"encoder": {"norm": {"scale": np.ones(2)}}}}
        >>> list(give(tree, "torchvision"))
        ['bn1.weight']
    """
    leaves = dict(_leaves(tree))
    if name == NATIVE:
        return {_native_name(path): np.asarray(leaf) for path, leaf in leaves.items()}
    tables = {family.name: (family, table) for family, table in _tables(leaves, shift)}
    if name not in tables:
        raise WeightsError(
            f"{name} has no names for this network; allowed: {', '.join([*tables, NATIVE])}."
        )
    written: Tensors = {}
    family, table = tables[name]
    for entry in table:
        written |= to_theirs(entry, np.asarray(leaves[entry.path], np.float32), channels)
    fixed = _fixed_positions(leaves, family)
    if fixed is not None:
        if side is None:
            raise WeightsError("the positions are fixed; allowed: with the number of patches.")
        positions = positions_of(side, *_tokens(leaves))
        written[fixed.theirs[0]] = fixed.layout.write(positions, channels)
    for key in [key for key in written if key.endswith(".running_mean")]:
        written[key.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    return written


def _tables(leaves: Mapping[Path, Any], shift: int) -> list[tuple[Family, list[Entry]]]:
    """The tables that have a name for every array of the encoder, and of the towers."""
    shapes = {path: np.shape(leaf) for path, leaf in leaves.items()}
    towers = any(path[1] == "text" for path in leaves)
    needed = {p for p in leaves if p[1] == "encoder" or (towers and p[1] in ("projector", "text"))}
    found = []
    for family in FAMILIES:
        rows = entries(family, shapes, shift=shift)
        paths = {entry.path for entry in rows}
        if needed and needed <= paths and all(map(_fits, rows)):
            found.append((family, [entry for entry in rows if entry.path in needed]))
    return found


def _fits(entry: Entry) -> bool:
    """Whether nothing of the array is lost there: CLIP has one class token."""
    return entry.path[-1] != "class_tokens" or entry.shape[0] == 1


def _keys(table: Sequence[Entry]) -> Iterator[str]:
    return (key for entry in table for key in entry.keys)


def _prefixes(table: Sequence[Entry], tensors: Mapping[str, Any]) -> list[str]:
    """What stands before the longest name of a table, wherever the file has it; else nothing."""
    longest = max(_keys(table), key=len)
    before = (name.removesuffix(longest) for name in tensors if name.endswith(longest))
    return [prefix for prefix in before if prefix == "" or prefix.endswith(".")] or [""]


def _given(prefix: str) -> list[str]:
    """A prefix, also with the dot that a person has left out."""
    return [prefix] if prefix == "" or prefix.endswith(".") else [f"{prefix}.", prefix]


def _missing(table: Sequence[Entry], before: str, tensors: Mapping[str, Any]) -> list[str]:
    return [before + key for key in _keys(table) if before + key not in tensors]


def _rank(prefix: str) -> int:
    if prefix == "":
        return -1
    known = (i for i, end in enumerate(PREFERRED) if f".{prefix}".endswith(f".{end}"))
    return next(known, len(PREFERRED))


def _preferred(
    whole: Sequence[tuple[Family, list[Entry], str, list[str]]],
) -> tuple[Family, list[Entry], str, list[str]]:
    """Of the networks that a file has whole, the one that is evaluated."""
    first = min(whole, key=lambda choice: _rank(choice[2]))
    alike = {before for *_, before, _ in whole if _rank(before) == _rank(first[2])}
    if len(alike) > 1:
        raise WeightsError(
            f"found the encoder's arrays {len(alike)} times, under {a_few(sorted(alike))}; "
            "allowed: one of these as prefix."
        )
    return first


def _nothing_fits(found: Sequence[tuple[Family, list[Entry], str, list[str]]]) -> str:
    family, table, before, missing = min(found, key=lambda choice: len(choice[3]))
    where = f" under {before!r}" if before else ""
    return (
        f"found {sum(1 for _ in _keys(table)) - len(missing)} of the encoder's arrays under the "
        f"names of {family.name}{where}, missing {a_few(missing)}; allowed: weights of the same "
        "model. Give its name, and as prefix what stands before the names, such as module."
    )


def _say_how_it_is_pooled(leaves: Mapping[Path, Any], tensors: Mapping[str, Any]) -> None:
    """Say that the encoder and the file end differently, where that is why nothing fits."""
    pooled = [name for name in tensors if re.search(r"attn_pool\.|(^|\.)head\.attention\.", name)]
    if pooled and ("params", "encoder", "pool", "token") not in leaves:
        raise WeightsError(
            f"found {pooled[0]}: an encoder that pools by attention, as SigLIP's and SigLIP 2's "
            "do; allowed: for a ViT that does the same."
        )


def _check_surplus(
    family: Family,
    table: Sequence[Entry],
    fixed: Row | None,
    before: str,
    tensors: Mapping[str, Any],
) -> None:
    known = {*_keys(table), *(fixed.theirs if fixed else ())}
    alone = all(entry.path[1] == "encoder" for entry in table)
    beside = [*family.heads, *(family.texts if alone else ())]
    heads = re.compile("|".join(f"(?:{head})" for head in beside) or r"(?!)")
    inside = [name.removeprefix(before) for name in tensors if name.startswith(before)]
    surplus = [name for name in inside if name not in known and not heads.fullmatch(name)]
    if surplus:
        raise WeightsError(
            f"found {a_few([before + name for name in surplus])}, which the encoder does not have; "
            "allowed: weights of the same model, beside a classifier. Give the name of the model "
            "that they are of."
        )


def _in_shape(entry: Entry, parts: Sequence[np.ndarray], before: str) -> np.ndarray:
    shapes = ", ".join(f"{list(part.shape)}" for part in parts)
    try:
        array = from_theirs(entry, parts) if _is_small(entry, parts) else None
    except (ValueError, IndexError):
        array = None
    if array is None or array.shape != tuple(entry.shape):
        raise WeightsError(
            f"{before}{entry.keys[0]}: found {shapes}, and the encoder has {list(entry.shape)} "
            f"({'.'.join(entry.path)}); allowed: weights of the same model, patch, stem and size "
            "of images."
        )
    return array


def _is_small(entry: Entry, parts: Sequence[np.ndarray]) -> bool:
    """Whether the parts have no more numbers than the whole: before they are copied."""
    return sum(part.size for part in parts) <= int(np.prod(entry.shape))


def _fixed_positions(leaves: Mapping[Path, Any], family: Family) -> Row | None:
    """What a file has of the positions that are computed here; None: there are none such."""
    if ("params", "encoder", "positions") in leaves:
        return None
    return next((row for row in family.rows if row.ours == "encoder.positions"), None)


def _check_positions(
    leaves: Mapping[Path, Any], fixed: Row, tensors: Mapping[str, np.ndarray], before: str
) -> None:
    """Refuse learned positions for an encoder that has fixed ones."""
    name = before + fixed.theirs[0]
    if name not in tensors:
        return
    (width, class_tokens), stored = _tokens(leaves), tensors[name]
    if stored.ndim < 2 or stored.shape[-1] != width:
        raise WeightsError(f"{name}: found {list(stored.shape)}; allowed: positions {width} wide.")
    side = round(max(stored.shape[-2] - class_tokens, 0) ** 0.5)
    expected = fixed.layout.write(positions_of(side, width, class_tokens), 0)
    if stored.shape != expected.shape or np.abs(stored - expected).max() > 1e-4:
        raise WeightsError(
            f"{name}: found learned positions, and the encoder has fixed ones; allowed: an encoder "
            "whose positions are learned."
        )


def _tokens(leaves: Mapping[Path, Any]) -> tuple[int, int]:
    """The width of a ViT's tokens, and how many stand before its patches."""
    class_tokens = ("params", "encoder", "class_token") in leaves
    return np.shape(leaves["params", "encoder", "norm", "scale"])[0], int(class_tokens)


def _native_name(path: Path) -> str:
    return ".".join(path)


def _take_native(tree: Tree, leaves: Mapping[Path, Any], tensors: Mapping[str, Any]) -> Taken:
    names = {_native_name(path): path for path in leaves}
    tensors = {_under_todays_name(name, names): array for name, array in tensors.items()}
    needed = [n for n, path in names.items() if path[1] == "encoder" and n not in tensors]
    if needed:
        raise WeightsError(f"missing {a_few(needed)}; allowed: weights of the same model.")
    read = {}
    for name, path in names.items():
        if name in tensors and (
            path[1] == "encoder" or tensors[name].shape == np.shape(leaves[path])
        ):
            if tensors[name].shape != np.shape(leaves[path]):
                raise WeightsError(
                    f"{name}: found {list(tensors[name].shape)}, and the encoder has "
                    f"{list(np.shape(leaves[path]))}; allowed: weights of the same model."
                )
            if jnp.issubdtype(leaves[path].dtype, jnp.floating):  # beside counts of dropout
                _check_floats({name: tensors[name]})
            read[path] = np.asarray(tensors[name]).astype(leaves[path].dtype)
    surplus = [n for n in tensors if ".encoder." in f"{n}." and n not in names]
    if surplus:
        raise WeightsError(
            f"found {a_few(surplus)}, which the encoder does not have; allowed: weights of the "
            "same model."
        )
    _check_finite(read)
    return Taken(
        _replaced(tree, read),
        NATIVE,
        "",
        tuple(map(_native_name, read)),
        tuple(name for name, path in names.items() if path not in read),
        tuple(name for name in tensors if names.get(name) not in read),
    )


def _under_todays_name(name: str, names: Collection[str]) -> str:
    """Where the tree has an array of a file: what is frozen in one may be trained in the other."""
    first, _, rest = name.partition(".")
    other = f"{'stats' if first == 'params' else 'params'}.{rest}"
    return other if name not in names and other in names else name


def _check_floats(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse integers, whose scale stands elsewhere, and all else that is no weight."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise WeightsError(
                f"{name}: found {array.dtype}; allowed: floats. Weights that were quantised lack "
                "their scale: take the file before that."
            )


def _check_finite(read: Mapping[Path, np.ndarray]) -> None:
    """Refuse what a run that has diverged leaves."""
    for path, array in read.items():
        wrong = array.size - np.count_nonzero(np.isfinite(array))
        if wrong:
            raise WeightsError(
                f"found {wrong:,} of {array.size:,} numbers NaN or infinite in {'.'.join(path)}; "
                "allowed: finite weights, such as those of an earlier checkpoint."
            )


def _leaves(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, part in tree.items():
        if isinstance(part, Mapping):
            yield from _leaves(part, (*path, name))
        elif not jnp.issubdtype(part.dtype, jax.dtypes.prng_key):  # of dropout: no weight
            yield (*path, name), part


def _replaced(tree: Tree, read: Mapping[Path, np.ndarray], path: Path = ()) -> Tree:
    return {
        name: _replaced(part, read, (*path, name))
        if isinstance(part, Mapping)
        else read.get((*path, name), part)
        for name, part in tree.items()
    }
