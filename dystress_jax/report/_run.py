"""What a report is made of: everything that the directory of a run says, as plain data."""

import functools
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .. import microscope
from ..errors import UserError
from ..files import parse_json
from ..microscope import Records, Watched
from ..run_files import (
    CHECKPOINTS,
    CONFUSION,
    DIVERGED_FILE,
    ENVIRONMENT_FILE,
    IMAGES_FILE,
    METRICS_FILE,
    RESULTS,
    SETTINGS_FILE,
    SUMMARY_FILE,
)
from ..temperatures import Temperature

Flat = dict[str, Any]
_ABOUT = ("checkpoint_step", "seed", "trained_with_seed")  # numbers that nothing has measured


class CurveOverSteps(NamedTuple):
    """A number over the steps of a run.

    Attributes:
        steps: ascending.
        values: one a step.
    """

    steps: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]


class Measured(NamedTuple):
    """What an evaluation has measured.

    Attributes:
        rows: the numbers by name.
        chance: of those whose chance is known.
        split: which images.
        per_class: the accuracy of each class, None for a class without images.
        about: the protocol and everything else that is said of it.
    """

    rows: dict[str, float]
    chance: dict[str, float]
    split: str
    per_class: dict[str, float | None]
    about: dict[str, Any]


class ConfusionCounts(NamedTuple):
    """How often images of each class, a row, were taken for each, a column.

    Attributes:
        class_names: in the order of the rows.
        counts: of images.
        of: which of several measurements it is; "": the only one.
    """

    class_names: tuple[str, ...]
    counts: Int[np.ndarray, "classes classes"]
    of: str = ""


class Run(NamedTuple):
    """A run, or a file of embeddings, which has only records and images.

    Attributes:
        name: a short one, another for each run of a report.
        place: the directory or the file.
        config: the settings by dotted name.
        curves: of metrics.jsonl, by name.
        records: of the microscope; None: there are none.
        images: those that the run watches; None: there are none.
        baselines: the accuracy of nearest neighbours by what the features are; `trained` first.
        chance: the accuracy of guessing; None: it is not known.
        evaluations: by name.
        confusions: by the name of the evaluation.
        environment: where the run took place.
        missing: what is not there or cannot be read, in sentences.
        ignored: the names of settings that others make useless, as `tau` beside a temperature that
            has none.
        described: fingerprints of its images: `images`, and of further ones by the name of their
            field; {}: it has none.
        ended: whether it has come to its end.
        diverged: whether its loss has left the finite numbers, which has ended it before that.
    """

    name: str
    place: str
    config: Flat = {}  # noqa: RUF012
    curves: dict[str, CurveOverSteps] = {}  # noqa: RUF012
    records: Records | None = None
    images: Watched | None = None
    baselines: dict[str, float] = {}  # noqa: RUF012
    chance: float | None = None
    evaluations: dict[str, Measured] = {}  # noqa: RUF012
    confusions: dict[str, ConfusionCounts] = {}  # noqa: RUF012
    environment: dict[str, Any] = {}  # noqa: RUF012
    missing: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()
    described: dict[str, str] = {}  # noqa: RUF012
    ended: bool = True
    diverged: bool = False

    @property
    def seed(self) -> Any:
        """The seed of the run; None if it is not known."""
        return self.config.get("seed")

    @property
    def settings(self) -> Flat:
        """What decides about the numbers, the seed aside: runs that share it are repetitions."""
        return {name: x for name, x in self.config.items() if not decides_nothing(name)}


def decides_nothing(name: str) -> bool:
    """Whether runs that differ in this setting are repetitions of each other."""
    return name == "seed" or name in _names("of_no_number")


def places_of(images: str, settings: Flat) -> Flat:
    """Of settings those that say where some images, and texts beside them, lie on a machine.

    Args:
        images: their name in `Run.described`.
        settings: by dotted name.

    Example:
        >>> settings = {"data.path": "/a", "data.source": "npz", "eval_on.more.path": "/b"}
        >>> places_of("images", settings), places_of("config.eval_on.more", settings)
        ({'data.path': '/a'}, {'eval_on.more.path': '/b'})
    """
    places = _names("of_a_machine")
    if images == "images":
        of_images = [name for name in places if name.startswith(("data.", "text."))]
    else:
        group = images.removeprefix("config.")
        fields = (name.partition(".") for name in places)
        of_images = [f"{group}.{last}" for first, _, last in fields if first == "data"]
    return {name: settings[name] for name in of_images if name in settings}


@functools.cache
def _names(meaning: str) -> tuple[str, ...]:
    """The settings that have this in their meaning."""
    try:
        from ..run.fields import fields  # the trainer's packages may not be there
    except ImportError:
        return ()
    return tuple(field.name for field in fields() if getattr(field.meaning, meaning))


def readers(name: str) -> tuple[str, ...]:
    """The evaluations that read a setting of their own."""
    try:
        from ..run import evaluations  # the trainer's packages may not be there
    except ImportError:
        return ()
    return evaluations.readers(name)


def gather(workdirs: Iterable[pathlib.Path | str]) -> list[Run]:
    """What is known of runs.

    Args:
        workdirs: their directories, each as it is now: finished or not. A directory that holds
            directories of runs stands for all of these.

    Returns:
        A run for each. What is missing or damaged is left out and said in `missing`.

    Raises:
        FileError: a directory is not there, or is none of a run.

    Example:
        >>> from dystress_jax import report
        >>> [run] = report.gather(["runs/quickstart"])
        >>> run.name, run.config["method"]
        ('quickstart', 'simclr')
    """
    given = [pathlib.Path(workdir).expanduser().absolute() for workdir in workdirs]
    runs: dict[pathlib.Path, pathlib.Path] = {}  # whatever a run is called, it is one
    for path in given:
        for run in _runs_in(path):
            runs.setdefault(run.resolve(), run)
    paths = list(runs.values())
    return [_gather(path, name) for path, name in zip(paths, short_names(paths), strict=True)]


def _runs_in(path: pathlib.Path) -> list[pathlib.Path]:
    """The directory itself, or those of runs in it, where it is none of a run."""
    if (path / SETTINGS_FILE).exists():
        return [path]
    has = lambda run: any((run / name).exists() for name in (METRICS_FILE, CHECKPOINTS))
    inner = [file.parent for file in path.glob(f"*/{SETTINGS_FILE}") if has(file.parent)]
    return sorted(inner, key=lambda run: _in_words_and_numbers(run.name)) or [path]


def _in_words_and_numbers(name: str) -> list[tuple[float, str]]:
    """By what people sort names.

    Example:
        >>> sorted(["tau=1", "tau=0.5", "tau=0.25_b", "tau=10"], key=_in_words_and_numbers)
        ['tau=0.25_b', 'tau=0.5', 'tau=1', 'tau=10']
    """
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts)]


def of_embeddings(path: pathlib.Path | str, temperature: Temperature) -> Run:
    """A file of embeddings as a run whose only record it is: see `microscope.read_embeddings`.

    Args:
        path: the file.
        temperature: under which the pairs are weighed.

    Returns:
        The run.

    Raises:
        EmbeddingsError: it has no embeddings that can be used.
        FileError: it cannot be read.

    Example:
        >>> from dystress_jax import report, temperatures
        >>> np.savez("z.npz", features=np.eye(3), labels=[0, 1, 1])
        >>> report.of_embeddings("z.npz", temperatures.constant(0.5)).name
        'z'
    """
    path = pathlib.Path(path).expanduser().absolute()
    images = microscope.read_embeddings(path)
    records = microscope.as_records(images, temperature) if len(images.ids) > 1 else None
    missing = images.notes
    if records is None:
        missing += ("There is one row only: no pair can be looked at.",)
    return Run(path.stem, str(path), records=records, images=images, missing=missing)


def short_names(paths: list[pathlib.Path]) -> list[str]:
    """The last parts of paths, as many as it takes to tell them apart.

    Example:
        >>> short_names([pathlib.Path("a/x"), pathlib.Path("b/x"), pathlib.Path("b/y")])
        ['a/x', 'b/x', 'b/y']
    """
    for count in range(1, max((len(path.parts) for path in paths), default=1)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs each of which has a name of its own.

    Args:
        runs: of any names; those of one name take as much of their place as tells them apart.

    Example:
        >>> runs = [Run("z", "/a/z.npz"), Run("z", "/b/z.npz"), Run("z", "/b/z.npz")]
        >>> [run.name for run in told_apart(runs)]
        ['a/z.npz', 'b/z.npz', 'b/z.npz (2)']
    """
    if len({run.name for run in runs}) == len(runs):
        return list(runs)
    places = list(dict.fromkeys(pathlib.Path(run.place) for run in runs))
    names = dict(zip(places, short_names(places), strict=True))
    found: list[Run] = []
    for run in runs:
        again = sum(one.place == run.place for one in found)
        name = names[pathlib.Path(run.place)] + (f" ({again + 1})" if again else "")
        found.append(run._replace(name=name))
    return found


def _gather(path: pathlib.Path, name: str) -> Run:
    recorded = microscope.of_run(path)
    missing: list[str] = []
    config = _json(path / SETTINGS_FILE, missing)
    summary = _json(path / SUMMARY_FILE, missing, needed=False)
    imported = not (path / METRICS_FILE).exists() and _only_imported(path / CHECKPOINTS)
    diverged = None if summary else _json(path / DIVERGED_FILE, [], needed=False).get("diverged")
    if imported:
        missing.append("The weights are imported: nothing was trained here.")
    elif not summary:
        missing.append(
            f"The run has diverged: {diverged}"
            if diverged
            else "The run has not ended: there is no summary.json yet."
        )
    missing += () if imported else recorded.missing
    results = _results(path, missing)
    called = {stem: _called(stem, found, summary.get("steps")) for stem, found in results.items()}
    by_command = {f"eval {called[stem]}": found for stem, found in results.items()}
    evaluations = {
        name: measured(found)
        for name, found in {**_dict(summary.get("evaluations")), **by_command}.items()
    }
    return Run(
        name=name,
        place=str(path),
        config=flat(config),
        curves={} if imported else _curves(path, missing),
        records=recorded.records,
        images=recorded.images,
        baselines=baselines(summary),
        chance=_chance(evaluations["knn"]) if "knn" in evaluations else None,
        evaluations={name: found for name, found in evaluations.items() if found.rows},
        confusions=_confusions(path, called, missing),
        environment=_json(path / ENVIRONMENT_FILE, missing, needed=False),
        missing=tuple(missing),
        ignored=_ignored(config),
        described=_dict(_json(path / IMAGES_FILE, [], needed=False).get("described")),
        ended=bool(summary),
        diverged=bool(diverged),
    )


def _only_imported(checkpoints: pathlib.Path) -> bool:
    """Whether the only checkpoint is that before the first step, as of `dystress import`."""
    return [path.name for path in checkpoints.glob("*")] == ["0"]


def _chance(knn: Measured) -> float | None:
    """What guessing one of the classes would reach."""
    classes = knn.about.get("classes")
    return 1 / classes if isinstance(classes, int) and classes >= 1 else None


def _ignored(config: dict[str, Any]) -> frozenset[str]:
    """Settings that a run ignores; where they are none of today, nothing is known of most."""
    counted = ["epochs"] if config.get("steps") else []  # steps come first
    try:
        from ..run.relevance import useless_of_file  # the trainer's packages may not be there

        return frozenset([*useless_of_file(config), *counted])
    except (ImportError, UserError):
        return frozenset(counted)


def flat(nested: Mapping[str, Any], prefix: str = "") -> Flat:
    """Settings by their dotted names.

    Example:
        >>> flat({"seed": 0, "data": {"source": "tfds", "options": {}}})
        {'seed': 0, 'data.source': 'tfds'}
    """
    found: Flat = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def baselines(summary: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies `knn_NAME` of a summary, that of the trained encoder first.

    Example:
        >>> baselines({"knn_raw_pixels": 0.3, "knn_trained": 0.5, "knn_trained_balanced": 0.4})
        {'trained': 0.5, 'raw pixels': 0.3}
    """
    found = {
        name.removeprefix("knn_").replace("_", " "): float(value)
        for name, value in summary.items()
        if name.startswith("knn_") and not name.endswith("_balanced")
        if isinstance(value, float) and 0 <= value <= 1
    }
    return dict(sorted(found.items(), key=lambda item: (item[0] != "trained", -item[1])))


def measured(found: Any) -> Measured:
    """An evaluation as `summary.json` and the files of `eval` hold it; all of it is optional."""
    found = _dict(found)
    named = ("chance", "balanced", "split", "per_class_accuracy", "protocol")
    about = {n: x for n, x in found.items() if n not in named and not _is_number(x)}
    about |= {n: x for n, x in found.items() if n in _ABOUT}
    rows = {n: float(x) for n, x in found.items() if _is_number(x) and n not in _ABOUT}
    if "balanced_accuracy" not in rows:
        balanced = _dict(found.get("balanced"))
        rows |= {f"{name}_balanced": float(x) for name, x in balanced.items() if _is_number(x)}
    per_class = _dict(found.get("per_class_accuracy"))
    if any(isinstance(share, dict) for share in per_class.values()):
        per_class = {}  # of several rows, as those of the baselines
    return Measured(
        rows=rows,
        chance={n: float(x) for n, x in _dict(found.get("chance")).items() if _is_number(x)},
        split=str(found.get("split", "")),
        per_class={n: float(x) if _is_number(x) else None for n, x in per_class.items()},
        about={**_dict(found.get("protocol")), **about},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(path: pathlib.Path, missing: list[str], *, needed: bool = True) -> dict[str, Any]:
    """The object in a file; {} if there is none, which is said."""
    if not path.exists():
        if needed:
            missing.append(f"There is no {path.name}.")
        return {}
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        missing.append(f"{path.name} cannot be read ({error}).")
        return {}
    if not isinstance(found, dict):
        missing.append(f"{path.name} holds no names with values, as it should; it is left out.")
    return _dict(found)


def _curves(path: pathlib.Path, missing: list[str]) -> dict[str, CurveOverSteps]:
    try:
        lines = (path / METRICS_FILE).read_bytes().splitlines()
    except OSError:
        missing.append(f"There is no {METRICS_FILE}.")
        return {}
    found: dict[str, dict[int, float]] = {}
    damaged = 0
    for at, line in enumerate(lines, start=1):
        try:
            numbers = _dict(parse_json(line))
        except ValueError:
            numbers = {}
        step = numbers.get("step")
        if not isinstance(step, int):
            damaged += at < len(lines)  # the last one may be half written by a run that goes on
            continue
        for name, value in numbers.items():
            if name != "step" and _is_number(value) and math.isfinite(value):
                found.setdefault(name, {})[step] = float(value)
    if damaged:
        missing.append(f"{METRICS_FILE}: {damaged} of {len(lines)} lines are damaged and left out.")
    sort = lambda points: sorted(points.items())
    return {
        name: CurveOverSteps(*(np.array(column) for column in zip(*sort(points), strict=True)))
        for name, points in found.items()
    }


def _results(path: pathlib.Path, missing: list[str]) -> dict[str, Any]:
    """The results of `dystress eval`, by the names of their files."""
    files = sorted((path / RESULTS).glob("*.json"))
    return {file.stem: _json(file, missing) for file in files if not file.stem.endswith(CONFUSION)}


def _called(stem: str, result: Mapping[str, Any], last: Any) -> str:
    """A result by the name of its file, with the step unless it is of the end or says which.

    Example:
        >>> of_step = {"checkpoint_step": 500}
        >>> _called("knn", of_step, 500), _called("knn", of_step, 900)
        ('knn', 'knn at step 500')
        >>> _called("knn_best_knn.k=5", of_step, 900), _called("knn_500", of_step, 900)
        ('knn_best_knn.k=5', 'knn_500')
    """
    step = result.get("checkpoint_step")
    says = {"best", str(step)} & {*stem.split("_")}
    return stem if step in (None, last) or says else f"{stem} at step {step}"


def _confusions(
    path: pathlib.Path, called: Mapping[str, str], missing: list[str]
) -> dict[str, ConfusionCounts]:
    files = sorted((path / RESULTS).glob(f"*{CONFUSION}.json"))
    found = {}
    for file in files:
        content = _json(file, missing)
        names = content.get("class_names")
        try:
            counts = np.array(content.get("counts"), np.int64)
        except (TypeError, ValueError):
            counts = np.zeros(0, np.int64)
        if isinstance(names, list) and counts.shape == (len(names), len(names)) and names:
            stem = file.stem.removesuffix(CONFUSION)
            of = str(content.get("of", ""))
            found[called.get(stem, stem)] = ConfusionCounts(tuple(map(str, names)), counts, of)
        else:
            missing.append(f"{RESULTS}/{file.name} holds no confusion matrix.")
    return found
