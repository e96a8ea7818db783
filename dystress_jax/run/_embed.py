"""Features of every image of a data set in one file, written as they come."""

import contextlib
import functools
import itertools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import filelock
import numpy as np
import tqdm

from .. import data
from ..errors import UserError, how_to_install
from ..evaluation.features import encode_batches
from ..files import parse_json, told, write_json
from ..run_files import CHECKPOINTS
from ..training.checkpoint import read_record
from ._environment import usable_jax
from ._load import Encoder, load
from ._own import Own, choose
from ._same_images import describe, without_file_sizes
from .config import Config, ConfigError
from .data import Sources, images_from_anywhere, may_skip, open_own
from .meaning import arguments
from .other_images import open_other
from .tables import find, is_own

KINDS = (".npz", ".parquet")
NOTED = 16  # batches between two notes of how far it is
ROWS = 65_536  # of a row group of Parquet


class EmbedError(UserError, ValueError):
    """Images that cannot be embedded, or a file that cannot be written; the message says why."""


@usable_jax()
def embed(
    workdir: pathlib.Path | str,
    out: pathlib.Path | str,
    *,
    on: Mapping[str, Any] | None = None,
    splits: Collection[str] = (),
    checkpoint: str | int = "newest",
    batch_size: int = 256,
    overwrite: bool = False,
    own: Own = Own(),
) -> pathlib.Path:
    """Write the features and the embeddings of images, one row an image.

    | array or column | |
    |---|---|
    | `features`, `embeddings` | of the encoder, and of its head; float32 |
    | `labels`, `class_names` | -1 where there is none; in Parquet the column `class_name` |
    | `splits`, `ids` | the split, and the number of the image in its data set |
    | `paths` | of the files, where the images are files |
    | `protocol` | JSON: the run, the checkpoint, the images; in Parquet of the metadata |

    The images are read, and the file is written, a batch at a time. What is done is kept in
    `OUT.partial` until all is: the same call goes on from there, as long as the weights and the
    images that are done are the same.

    Args:
        workdir: of the run.
        out: a file whose name ends in .npz or .parquet.
        on: other images than the run's: fields of `config.data`, such as `source` and `path`.
            Nothing is held out of them if `holdout` is not given.
        splits: which of `train`, `holdout` and `test`; (): all that there are.
        checkpoint: `newest`, `best`, or a step.
        batch_size: images at once, at least 1.
        overwrite: replace a file that is there.
        own: the objects that the run was given in Python.

    Returns:
        The file.

    Raises:
        EmbedError: the file is there, is of another kind, or cannot be written; an image cannot be
            read.
        ConfigError: there are no such images, or no such run.

    Example:
        >>> from dystress_jax import run
        >>> file = run.embed("runs/quickstart", "features.npz", splits=["test"])
        >>> np.load(file)["features"].shape
        (1051, 64)
    """
    out = pathlib.Path(out).expanduser().absolute()
    _check_out(out, overwrite)
    encoder = load(workdir, checkpoint, own=own)
    sources = _sources(encoder, on, own)
    unknown = [split for split in splits if split not in sources]
    if unknown:
        raise ConfigError(f"--split: found {unknown[0]!r}; allowed: {', '.join(sources)}.")
    sources = {split: source for split, source in sources.items() if split in (splits or sources)}
    with _alone(out):
        _check_out(out, overwrite)  # another call may have written it since
        with _telling_unreadable(out, encoder.config, on, sources):
            protocol = _protocol(encoder, sources, on or {})
            draft = _Draft.open(out, encoder, sources, protocol)
            _compute(encoder, sources, draft, batch_size)
        with told(out, "written"):
            _WRITERS[out.suffix](draft, sources, out)
            shutil.rmtree(draft.place)
    return out


@contextlib.contextmanager
def _alone(out: pathlib.Path) -> Iterator[None]:
    """Refuse a second call that would write the same file at the same time."""
    place = out.with_name(f".{out.name}.lock")
    with told(out, "written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(place, blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise EmbedError(
                f"--out: another call is writing {out}. Wait for it, or give another name."
            ) from error
    try:
        yield
    finally:
        place.unlink(missing_ok=True)  # while it is ours
        lock.release()


@contextlib.contextmanager
def _telling_unreadable(
    out: pathlib.Path, config: Config, on: Mapping[str, Any] | None, sources: Sources
) -> Iterator[None]:
    try:
        yield
    except data.UnreadableError as error:
        draft, skip = _draft_of(out), ""
        mend = "Replace the image"
        # Where a file holds many images, another size says that any of them may be another.
        may_go_on = all(source.paths or source.stamp is None for source in sources.values())
        if draft.exists() and may_go_on:
            mend = (
                f"What is done is kept in {draft}: replace the image, and the same command goes on"
            )
        own = {"source": config.data.source, "path": config.data.path}
        if may_skip((on or own)["source"]):
            images = "" if on else "".join(f"--on.{name}={value} " for name, value in own.items())
            skip = f"; or start with {images}--on.on_error=skip, which leaves such images out"
        raise EmbedError(f"{error}. {mend}{skip}.") from error


def _protocol(encoder: Encoder, sources: Sources, on: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "workdir": str(encoder.origin.workdir),
        "checkpoint_step": encoder.origin.step,
        "fingerprint": _fingerprint(encoder),
        "method": encoder.config.method,
        "model": encoder.config.model.name,
        "images": {split: describe({"train": source}) for split, source in sources.items()},
        "on": images_from_anywhere(on),
        "seen": f"the central {encoder.size} x {encoder.size} of {list(encoder.image_shape)}",
    }


def _fingerprint(encoder: Encoder) -> int | None:
    """What tells the weights from those of another run that was in the same directory."""
    directory = encoder.origin.workdir / CHECKPOINTS
    return read_record(directory, encoder.origin.step).get("fingerprint")


def _as_compared(protocol: Mapping[str, Any], sources: Sources) -> dict[str, Any]:
    """A protocol without the sizes of files that hold one image each: `_Draft` has them by row."""
    images = {
        split: without_file_sizes(said) if split in sources and sources[split].paths else said
        for split, said in protocol["images"].items()
    }
    return json.loads(json.dumps({**protocol, "images": images}))  # where tuples are lists


def _check_out(out: pathlib.Path, overwrite: bool) -> None:
    if out.suffix not in KINDS:
        raise EmbedError(f"--out: found {out.name}; allowed: a name that ends in .npz or .parquet.")
    if out.is_dir():
        raise EmbedError(f"--out: {out} is a directory; allowed: another name.")
    if out.exists() and not overwrite:
        raise EmbedError(f"--out: {out} is there already; allowed: another name, or --overwrite.")
    if out.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ModuleNotFoundError as error:
            raise EmbedError(
                "--out: .parquet needs the package pyarrow; allowed: with it, "
                f"{how_to_install('hf')}, or .npz."
            ) from error


def _sources(encoder: Encoder, on: Mapping[str, Any] | None, own: Own) -> Sources:
    """The images, all of one shape."""
    config = encoder.config
    if on:
        source = on.get("source", "")
        own_opener = find(data.SOURCES, source, field="--on.source") if is_own(source) else None
        if own_opener is None or "holdout" in arguments(own_opener):
            on = {"holdout": 0.0, **on}
        return open_other(config, on, encoder.image_shape)
    checkpoints = encoder.origin.workdir / CHECKPOINTS
    return open_own(config, choose(config, own).source, checkpoints)


_Shapes = dict[str, tuple[tuple[int, ...], Any]]


class _OtherDraftError(ValueError):
    """A draft of other weights or images."""


class _Draft(NamedTuple):
    """What is done so far, in a directory beside the file."""

    place: pathlib.Path
    arrays: dict[str, np.memmap]
    protocol: dict[str, Any]
    done: int

    @classmethod
    def open(
        cls, out: pathlib.Path, encoder: Encoder, sources: Sources, protocol: dict[str, Any]
    ) -> "_Draft":
        """That of an earlier call with the same protocol, or a new one."""
        place = _draft_of(out)
        count = sum(map(len, sources.values()))
        shapes: _Shapes = {
            "features": ((count, encoder.num_features), np.float32),
            "embeddings": ((count, encoder.origin.experiment.method.width), np.float32),
            "labels": ((count,), np.int32),
            "ids": ((count,), np.int32),
            "file_sizes": ((count,), np.int64),
        }
        with told(place, "used"):
            if place.is_dir():
                try:
                    return cls._found(place, shapes, sources, protocol)
                except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
                    other = isinstance(error, _OtherDraftError)
                    why = "is of other weights or images" if other else "is damaged"
                    tqdm.tqdm.write(f"{place} {why}: begun anew", file=sys.stderr)
                shutil.rmtree(place)
            place.mkdir(parents=True)
            try:
                arrays = {n: _new(place / f"{n}.npy", *shape) for n, shape in shapes.items()}
            except OSError:
                shutil.rmtree(place, ignore_errors=True)  # what there is room for helps nobody
                raise
        draft = cls(place, arrays, protocol, done=0)
        draft.note(0)
        return draft

    @classmethod
    def _found(
        cls, place: pathlib.Path, shapes: _Shapes, sources: Sources, protocol: dict[str, Any]
    ) -> "_Draft":
        """That which is there.

        Raises:
            _OtherDraftError: it is of other weights or images.
            OSError, ValueError, KeyError, TypeError: it cannot be used.
        """
        noted = parse_json((place / "progress.json").read_bytes())
        if _as_compared(noted["protocol"], sources) != _as_compared(protocol, sources):
            raise _OtherDraftError
        arrays = {n: _there(place / f"{n}.npy", *shape) for n, shape in shapes.items()}
        done = min(int(noted["done"]), *(len(array) for array in arrays.values()))
        if not np.array_equal(arrays["file_sizes"][:done], _sizes(_paths(sources), done)):
            raise _OtherDraftError
        return cls(place, arrays, protocol, done)

    def note(self, done: int) -> None:
        """Say how many rows are on disk."""
        for array in self.arrays.values():
            array.flush()
        write_json(self.place / "progress.json", {"done": done, "protocol": self.protocol})


def _draft_of(out: pathlib.Path) -> pathlib.Path:
    return out.with_name(out.name + ".partial")


def _new(path: pathlib.Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """An array in a file, whose room is taken at once: a full disk would end the process later."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def _there(path: pathlib.Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """The array that a file holds.

    Raises:
        OSError, ValueError: there is none, or another one.
    """
    array = np.lib.format.open_memmap(path, mode="r+")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(path)
    return array


def _compute(encoder: Encoder, sources: Sources, draft: _Draft, batch_size: int) -> None:
    """Fill the rows that are not done."""
    experiment, done = encoder.origin.experiment, draft.done
    batch_size += -batch_size % experiment.mesh.size
    total = sum(map(len, sources.values()))
    paths = itertools.islice(_paths(sources), done, None)
    bar = tqdm.tqdm(total=total, initial=done, unit=" images", dynamic_ncols=True)

    embed = functools.partial(experiment.embed, encoder.params, encoder.stats)
    batches = _batches(sources, done, batch_size)
    with bar:
        try:
            parts = encode_batches(embed, batches, mesh=experiment.mesh)
            for number, ((features, embeddings), others) in enumerate(parts, start=1):
                rows = slice(done, done + len(features))
                draft.arrays["features"][rows] = features
                draft.arrays["embeddings"][rows] = embeddings
                draft.arrays["labels"][rows] = others["label"]
                draft.arrays["ids"][rows] = others["index"]
                draft.arrays["file_sizes"][rows] = _sizes(paths, len(features))
                bar.update(len(features))
                done = rows.stop
                if number % NOTED == 0:
                    draft.note(done)
        finally:
            draft.note(done)


def _batches(sources: Sources, done: int, batch_size: int) -> Iterator[data.PaddedBatch]:
    """Of one split after the other, without the rows that are done."""
    for source in sources.values():
        left = source.take(np.arange(min(done, len(source)), len(source)))
        done -= len(source) - len(left)
        batches = data.padded_batches(left, batch_size=batch_size)
        try:
            yield from batches
        finally:
            batches.close()


def _write_npz(draft: _Draft, sources: Sources, out: pathlib.Path) -> None:
    arrays: dict[str, Any] = {n: of for n, of in draft.arrays.items() if n != "file_sizes"}
    arrays["splits"] = np.repeat(list(sources), [len(source) for source in sources.values()])
    arrays["class_names"] = np.array(_class_names(sources), dtype=np.str_)
    paths = list(_paths(sources))
    if any(paths):
        longest = max(map(len, paths))
        stored = _new(draft.place / "paths.npy", (len(paths),), np.dtype(f"<U{longest}"))
        stored[:] = paths
        arrays["paths"] = stored
    arrays["protocol"] = np.array(json.dumps(draft.protocol))
    unfinished = draft.place / "whole.npz"
    np.savez(unfinished, **arrays)
    unfinished.replace(out)


def _write_parquet(draft: _Draft, sources: Sources, out: pathlib.Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet holds UTF-8 only, which names of files need not be.
    text = lambda name: name.encode("utf-8", "backslashreplace").decode()
    names, unfinished = [*map(text, _class_names(sources))], draft.place / "whole.parquet"
    paths, splits = map(text, _paths(sources)), map(text, _splits(sources))
    widths = {name: draft.arrays[name].shape[1] for name in ("features", "embeddings")}
    vectors = [(name, pa.list_(pa.float32(), width)) for name, width in widths.items()]
    texts = [(name, pa.string()) for name in ("class_name", "splits", "paths")]
    schema = pa.schema([*vectors, ("labels", pa.int32()), ("ids", pa.int32()), *texts])
    about = {"protocol": json.dumps(draft.protocol), "class_names": json.dumps(names)}
    with pq.ParquetWriter(unfinished, schema.with_metadata(about)) as writer:
        for first in range(0, len(draft.arrays["labels"]), ROWS):
            part = {name: array[first : first + ROWS] for name, array in draft.arrays.items()}
            labels = part["labels"]
            columns = [
                pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(part[name])), width)
                for name, width in widths.items()
            ]
            columns += [pa.array(np.asarray(part[name])) for name in ("labels", "ids")]
            columns += [
                pa.array([names[label] if label >= 0 else None for label in labels], pa.string()),
                pa.array([next(splits) for _ in labels], pa.string()),
                pa.array([next(paths) or None for _ in labels], pa.string()),
            ]
            writer.write_table(pa.table(columns, schema=writer.schema))
    unfinished.replace(out)


_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}


def _class_names(sources: Sources) -> list[str]:
    return list(next((s.class_names for s in sources.values() if s.class_names), ()))


def _paths(sources: Sources) -> Iterator[str]:
    """The file of each row; "" where it is none."""
    for source in sources.values():
        for stored in source.index:
            yield source.paths[stored] if source.paths else ""


def _sizes(paths: Iterator[str], count: int) -> list[int]:
    """The sizes of the next files; -1 of rows without a file."""
    following = list(itertools.islice(paths, count))
    return data.sizes_of_files(following) if any(following) else [-1] * count


def _splits(sources: Sources) -> Iterator[str]:
    for split, source in sources.items():
        yield from [split] * len(source)
