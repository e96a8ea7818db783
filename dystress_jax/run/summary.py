"""What was measured, as summary.json and the files of `dystress eval` hold it."""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ..evaluation import Confusion, Result, Row, confusion_picture
from ..files import parse_json, told, write_json, write_text
from ..run_files import CONFUSION
from ._settings_names import LONGEST_NAME, in_a_name, number_of
from .pictures import write_png


def of_results(found: Mapping[str, Result]) -> dict[str, Any]:
    """The numbers of summary.json, under names that scripts may rely on.

    Args:
        found: results by the name of the evaluation.

    Returns:
        Short names for what every run of a kind has, and everything under `evaluations`.
    """
    summary: dict[str, Any] = {}
    if "knn" in found:
        knn = found["knn"]
        summary |= {
            **_accuracies("knn_trained", knn.row("top1")),
            "knn_split": knn.split,
            "knn_bank": knn.protocol["bank_images"],
        }
    if "baselines" in found:
        for row in found["baselines"].rows:
            summary |= _accuracies(f"knn_{row.name.removesuffix('_top1')}", row)
    if "retrieval" in found:
        retrieval = found["retrieval"]
        summary |= {row.name: row.value for row in retrieval.rows} | {
            "retrieval_split": retrieval.split,
            "retrieval_chance": {row.name: row.chance for row in retrieval.rows},
        }
    if "zero_shot" in found:
        zero_shot = found["zero_shot"]
        summary |= {
            "zero_shot_top1": zero_shot.value("top1"),
            "zero_shot_top5": zero_shot.value("top5"),
            "zero_shot_split": zero_shot.split,
            "zero_shot_classes": zero_shot.protocol["classes"],
            "zero_shot_chance": zero_shot.protocol["chance"],
        }
    summary["evaluations"] = {name: result.to_json() for name, result in found.items()}
    return summary


def _accuracies(name: str, row: Row) -> dict[str, float]:
    balanced = {} if row.balanced is None else {f"{name}_balanced": row.balanced}
    return {name: row.value, **balanced}


def keep_result(
    directory: pathlib.Path,
    name: str,
    checkpoint: str | int,
    numbers: dict[str, Any],
    confusion: Confusion | None = None,
) -> pathlib.Path:
    """Write a result beside those of other checkpoints and other settings.

    The file is `NAME.json` for the newest checkpoint and the run's own settings. What differs is in
    its name, as in `knn_best_knn.k=20.json`. The newest of an earlier day, or the best, keeps its
    result under the number of its step. The confusion matrix of a classification is beside it, as
    `NAME_confusion.json` and `NAME_confusion.png`.

    Args:
        directory: of the results.
        name: of the evaluation.
        checkpoint: `newest`, `best`, or a step.
        numbers: of `run.evaluate`.
        confusion: which classes were taken for which.

    Returns:
        The file.

    Raises:
        FileError: it cannot be written.
    """
    on = {f"on.{field}": value for field, value in numbers.get("on", {}).items()}
    settings = numbers["settings"] | on
    path = _place(directory, name, checkpoint, settings, step=numbers["checkpoint_step"])
    write_json(path, numbers)
    _keep_confusion(path, confusion)
    return path


def keep_confusions(directory: pathlib.Path, found: Mapping[str, Result], step: int) -> None:
    """Write which classes were taken for which, beside the results that `keep_result` writes.

    Args:
        directory: of the results.
        found: results by the name of the evaluation.
        step: of the state that they are of.

    Raises:
        FileError: they cannot be written.
    """
    for name, result in found.items():
        if result.confusion is not None:
            path = _place(directory, name, "newest", {}, step=step)
            _keep_confusion(path, result.confusion)


def _place(
    directory: pathlib.Path,
    name: str,
    checkpoint: str | int,
    settings: Mapping[str, Any],
    *,
    step: int,
) -> pathlib.Path:
    """The file of a result; that of another step is moved aside, its confusion with it."""
    path = directory / result_file(name, checkpoint, settings)
    older = _step_of(path)
    if older is not None and older != step:
        aside = directory / result_file(name, older, settings)
        with told(path, "kept under another name"):
            for ending in (".json", *(f"{CONFUSION}{kind}" for kind in (".json", ".png"))):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(_beside(path, ending), _beside(aside, ending))
    return path


def _keep_confusion(path: pathlib.Path, confusion: Confusion | None) -> None:
    if confusion is None or confusion.counts is None:
        return
    content = {"class_names": confusion.class_names, "counts": confusion.counts.tolist()}
    content |= {"of": confusion.of} if confusion.of else {}
    picture = confusion_picture(confusion)
    write_text(_beside(path, f"{CONFUSION}.json"), json.dumps(content) + "\n")
    write_png(_beside(path, f"{CONFUSION}.png"), picture)


def _beside(path: pathlib.Path, ending: str) -> pathlib.Path:
    return path.with_name(path.name.removesuffix(".json") + ending)


def result_file(name: str, checkpoint: str | int, settings: Mapping[str, Any]) -> str:
    """The name of the file with a result.

    What a name cannot hold of a text is left out, and a number stands for all of it: it is another
    one for any other text. Of other images the name has the last part of their path.

    Args:
        name: of the evaluation.
        checkpoint: `newest`, `best`, or a step.
        settings: those that differ from what the run was trained with.

    Example:
        >>> result_file("knn", "newest", {}), result_file("knn", "best", {"knn.k": 20})
        ('knn.json', 'knn_best_knn.k=20.json')
        >>> result_file("knn", "newest", {"on.path": "/data/photos"})
        'knn_on.path=photos-afd0c435.json'
        >>> result_file("zero_shot", "newest", {"zero_shot.prompts": "a photo of {}"})
        'zero_shot_zero_shot.prompts=a-photo-of-50c4d1f7.json'
    """
    differ = "".join(f"_{field}={_said(field, value)}" for field, value in settings.items())
    if len(differ.encode()) > LONGEST_NAME:
        differ = f"_{number_of(dict(settings))}"
    of = "" if checkpoint == "newest" else f"_{checkpoint}"
    return f"{name.replace(':', '.')}{of}{differ}.json"


def _said(field: str, value: Any) -> str:
    said = in_a_name(pathlib.Path(value).name if field == "on.path" else value)
    return said if said == value or not isinstance(value, str) else f"{said}-{number_of(value, 8)}"


def _step_of(path: pathlib.Path) -> int | None:
    """The checkpoint of a result; None if there is none that can be read."""
    try:
        return int(parse_json(path.read_bytes())["checkpoint_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
