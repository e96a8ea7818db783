"""Tensors of a file that `torch.save` has written, read without running any of it.

Such a file holds a pickle: a program for a stack machine that may call anything. This module walks
through its instructions and knows a few of them only; the names that they may use are in a table,
and what stands for each is a function here that builds plain data. Nothing is ever imported or
called by name.

References:
    The instructions: `pickletools` of Python's library. The two layouts: `torch/serialization.py`
    of [pytorch/pytorch](https://github.com/pytorch/pytorch).
"""

import io
import math
import pathlib
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import ml_dtypes
import numpy as np

from ._errors import WeightsError

SAFER = (
    "If you trust the file, make it safetensors where PyTorch is installed: "
    "found = torch.load(FILE, weights_only=False), then "
    "safetensors.torch.save_file(found['state_dict'], 'FILE.safetensors'), with found.state_dict() "
    "where the file holds a whole model."
)

_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# What a pickle refers to many times counts each time, so that a small file is no endless one.
_MAX_PARTS = 1_000_000
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


class _Name(NamedTuple):
    """What a pickle calls something by: never looked up."""

    module: str
    name: str


class _Storage(NamedTuple):
    """Numbers in the file that tensors share."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """A view of a storage; its numbers are read later."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where a list of operands begins on the stack."""


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor without a place")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.size:
        raise ValueError("a tensor larger than its storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _mapping(items: Any = ()) -> dict:
    return dict(items)


# All that a pickle may call, and what is called in its place.
_CALLABLE: dict[_Name, Callable[..., Any]] = {
    _Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Name("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    _Name("collections", "OrderedDict"): _mapping,
    _Name("argparse", "Namespace"): _mapping,
    _Name("torch", "device"): lambda *of: ":".join(map(str, of)),
    _Name("torch", "Size"): tuple,
    _Name("builtins", "set"): list,
    _Name("__builtin__", "set"): list,
}
_MENTIONED = {_Name("torch", name) for name in _DTYPES}


def read_torch(path: pathlib.Path) -> Any:
    """What `torch.save` has written: dicts and lists with arrays in place of tensors.

    Args:
        path: of the file, in today's layout, which is a zip, or in that before PyTorch 1.6.

    Raises:
        WeightsError: it is damaged, or it holds more than plain data and tensors.
    """
    try:
        with path.open("rb") as file:
            zipped = zipfile.is_zipfile(file)
            file.seek(0)
            return _read_zip(path, file) if zipped else _read_legacy(file)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file may break anything
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise WeightsError(
            f"{path}: found a damaged file, or none of PyTorch ({why}); allowed: a whole one."
        ) from error


def _read_zip(path: pathlib.Path, file: io.BufferedIOBase) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        [pickled] = [n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")] or [""]
        if not pickled:
            raise WeightsError("found a zip without data.pkl; allowed: a file of torch.save.")
        root = pickled.removesuffix("data.pkl")
        if f"{root}constants.pkl" in names:
            raise WeightsError(
                "found TorchScript, which is a program; allowed: tensors. Where PyTorch is "
                "installed: safetensors.torch.save_file(torch.jit.load(FILE).state_dict(), "
                "'FILE.safetensors')."
            )
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
        if order != b"little":
            raise WeightsError("found a file of a big-endian machine; allowed: little-endian.")
        content = _unpickle(io.BytesIO(archive.read(pickled)))
        read = lambda storage: archive.read(f"{root}data/{storage.key}")
        return _with_arrays(content, _read_storages(_storages(content), read))


def _read_legacy(file: io.BufferedIOBase) -> Any:
    if _unpickle(file) != _LEGACY_MAGIC or _unpickle(file) != _LEGACY_VERSION:
        raise WeightsError(f"found a pickle, not a file of torch.save. {SAFER}")
    _unpickle(file)  # sizes of types on the machine that wrote it
    content = _unpickle(file)
    sizes = _storages(content)
    stored: dict[str, bytes] = {}
    for key in _unpickle(file):
        count = int.from_bytes(file.read(8), "little")
        if key not in sizes:
            raise ValueError(f"a storage {key} of no tensor")
        stored[key] = file.read(count * sizes[key].dtype.itemsize)
    return _with_arrays(content, _read_storages(sizes, lambda storage: stored[storage.key]))


def _storages(content: Any) -> dict[str, _Storage]:
    """The storages of all tensors, each of one kind and size."""
    found: dict[str, _Storage] = {}
    waiting, parts = [content], 0
    while waiting:
        part = waiting.pop()
        parts += 1
        if parts > _MAX_PARTS:
            raise ValueError(f"more than {_MAX_PARTS:,} parts")
        if isinstance(part, Tensor):
            storage = part.storage
            if found.setdefault(storage.key, storage) != storage:
                raise ValueError(f"a storage {storage.key} of two kinds or sizes")
        elif _is_container(part):
            waiting += part.values() if isinstance(part, dict) else part
    return found


def _read_storages(
    storages: dict[str, _Storage], read: Callable[[_Storage], bytes]
) -> dict[str, np.ndarray]:
    """The numbers of each storage: all that its tensors say it has."""
    numbers = {}
    for key, storage in storages.items():
        found = np.frombuffer(read(storage), storage.dtype)
        if len(found) < storage.size:
            raise ValueError(f"{len(found)} of {storage.size} numbers of a storage")
        numbers[key] = found
    return numbers


def _is_container(content: Any) -> bool:
    return isinstance(content, dict | list | tuple) and not isinstance(content, _Name | _Storage)


def _with_arrays(content: Any, storages: dict[str, np.ndarray]) -> Any:
    """The same with arrays in place of tensors; those of one storage share it."""
    if isinstance(content, Tensor):
        numbers = storages[content.storage.key]
        strides = [step * numbers.itemsize for step in content.strides]
        start = numbers[content.offset :]
        return np.lib.stride_tricks.as_strided(start, content.shape, strides, writeable=False)
    if isinstance(content, dict):
        return {name: _with_arrays(part, storages) for name, part in content.items()}
    if _is_container(content):
        return [_with_arrays(part, storages) for part in content]
    return content


def _unpickle(file: io.BufferedIOBase) -> Any:
    """The value of one pickle, built of plain data."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        place = next(i for i in reversed(range(len(stack))) if stack[i] is _Mark)
        operands = stack[place + 1 :]
        del stack[place:]
        return operands

    def name(module: Any, last: Any) -> _Name:
        found = _Name(str(module), str(last))
        if found not in _CALLABLE and found not in _MENTIONED:
            raise WeightsError(
                f"found {found.module}.{found.name}, which would have to be called to read the "
                f"file; allowed: tensors, numbers, texts, lists and dicts. {SAFER}"
            )
        return found

    def call() -> None:
        operands, called = stack.pop(), stack.pop()
        if not isinstance(called, _Name) or called not in _CALLABLE:
            raise ValueError(f"a call of {called!r}")
        stack.append(_CALLABLE[called](*operands))

    def persistent() -> None:
        kind, storage, key, _device, size, *view = stack.pop()
        if kind != "storage" or not isinstance(storage, _Name) or any(view):
            raise ValueError(f"a {kind} from outside")
        if type(size) is not int:
            raise ValueError("a storage without a size")
        stack.append(_Storage(str(key), _DTYPES[storage.name], size))

    def build() -> None:
        state = stack.pop()
        if isinstance(stack[-1], dict) and isinstance(state, dict) and "_metadata" not in state:
            stack[-1].update(state)  # a Namespace; what beside its items an OrderedDict has is left

    def set_items(items: list[Any]) -> None:
        stack[-1].update(zip(items[::2], items[1::2], strict=True))

    for opcode, operand, _ in pickletools.genops(cast(Any, file)):
        argument: Any = operand
        code = opcode.name
        if code in _CONSTANTS:
            stack.append(_CONSTANTS[code]())
        elif code in _LITERALS:
            stack.append(argument)
        elif code in ("PROTO", "FRAME"):
            pass
        elif code == "STOP":
            break
        elif code in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif code == "GLOBAL":
            stack.append(name(*argument.split(" ", 1)))
        elif code == "STACK_GLOBAL":
            last, module = stack.pop(), stack.pop()
            stack.append(name(module, last))
        elif code == "TUPLE":
            stack.append(tuple(since_mark()))
        elif code in _TUPLES:
            count = _TUPLES[code]
            stack[-count:] = [tuple(stack[-count:])]
        elif code == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif code == "APPENDS":
            items = since_mark()
            stack[-1].extend(items)
        elif code == "SETITEM":
            value, key = stack.pop(), stack.pop()
            set_items([key, value])
        elif code == "SETITEMS":
            set_items(since_mark())
        elif code in _ACTIONS:
            {"call": call, "persistent": persistent, "build": build}[_ACTIONS[code]]()
        else:
            raise WeightsError(f"found the instruction {code}; allowed: tensors. {SAFER}")
    [value] = stack
    return value


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ACTIONS = {"REDUCE": "call", "NEWOBJ": "call", "BINPERSID": "persistent", "BUILD": "build"}
