"""What is saved beside the arrays of a checkpoint, sealed; and which checkpoints there are."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from orbax.checkpoint import v1 as ocp

from ...files import told
from ._orbax import CheckpointError, path_of, reading

Record = dict[str, Any]  # what is saved beside the arrays, such as the data position; plain JSON
VERSION = 3  # of what a checkpoint holds; others are refused


def steps(directory: pathlib.Path) -> list[int]:
    """The steps that have a finished checkpoint, oldest first.

    Args:
        directory: of all checkpoints of a run; it need not be there.

    Raises:
        FileError: there is something of that name that is no directory.

    Example:
        >>> import jax.numpy as jnp
        >>> from dystress_jax.training.checkpoint import Saver
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> steps(directory)
        [10]
    """
    if not directory.exists():
        return []
    with told(directory, "read"):
        names = [path.name for path in directory.iterdir()]
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    return sorted(number for number in numbers if str(number) in names)


def scores(directory: pathlib.Path) -> dict[int, float]:
    """How good the checkpoints are whose record says so: step to score.

    A record may say by what it was scored, in `scored_by`. Those that were scored by something else
    than the newest cannot be compared with it, and have none.

    Args:
        directory: of all checkpoints of a run.

    Example:
        >>> import jax.numpy as jnp
        >>> from dystress_jax.training.checkpoint import Saver
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> scores(directory)
        {10: 0.5}
    """
    return scores_in({step: read_record(directory, step) for step in steps(directory)})


def scores_in(records: Mapping[int, Record]) -> dict[int, float]:
    """The scores of the records that have one and are scored as the newest: step to score."""
    by = records[max(records)].get("scored_by") if records else None
    alike = {step: record for step, record in records.items() if record.get("scored_by") == by}
    found = {step: record.get("score") for step, record in alike.items()}
    return {step: score for step, score in found.items() if score is not None}


def read_record(directory: pathlib.Path, step: int) -> Record:
    """What was saved beside the arrays of one checkpoint; empty if it is damaged.

    Args:
        directory: of all checkpoints of a run.
        step: which one, at least 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from dystress_jax.training.checkpoint import Saver
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> read_record(directory, 10)["score"]
        0.5
    """
    try:
        return read(directory, step)[1]
    except CheckpointError:
        return {}


def newest_record(directory: pathlib.Path) -> Record:
    """The record of the newest checkpoint that has one; empty without any.

    Args:
        directory: of all checkpoints of a run.

    Example:
        >>> import jax.numpy as jnp
        >>> from dystress_jax.training.checkpoint import Saver
        >>> directory = pathlib.Path("saved")
        >>> saver = Saver(directory, keep=2)
        >>> saver.save(10, {"w": jnp.ones(3)}, {"score": 0.5})
        >>> saver.wait()
        >>> newest_record(directory)["step"]
        10
    """
    records = (read_record(directory, step) for step in reversed(steps(directory)))
    return next((record for record in records if record), {})


def check_version(directory: pathlib.Path) -> None:
    """Refuse checkpoints of another version of this package.

    Args:
        directory: of all checkpoints of a run; without any nothing is refused.

    Raises:
        CheckpointError: in one line.

    Example:
        >>> check_version(pathlib.Path("new/checkpoints"))
    """
    record = newest_record(directory)
    if record and record["version"] != VERSION:
        raise of_another_version(directory)


def of_another_version(directory: pathlib.Path) -> CheckpointError:
    return CheckpointError(
        f"{directory} holds checkpoints of another version of dystress_jax, which this one cannot "
        "read. Use that version, or a new --workdir."
    )


def read(directory: pathlib.Path, step: int) -> tuple[Any, Record]:
    """Orbax's metadata of a checkpoint and our record, if they are whole.

    Raises:
        CheckpointError: they are not.
    """
    with reading(directory, step):
        metadata: Any = ocp.checkpointables_metadata(path_of(directory, step))
        record = metadata.custom_metadata["record"]
        seal = metadata.custom_metadata.get("seal")
        version = record["version"]
    if seal is None and isinstance(version, int) and version < VERSION:
        return metadata, record  # of another version, which had no seal
    if seal != seal_of(record) or record["step"] != step:
        raise CheckpointError(f"checkpoint {step} is damaged (its record is not what was saved)")
    return metadata, record


def seal_of(record: Record) -> str:
    """A digest of a record, which changes when anything in it does."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
