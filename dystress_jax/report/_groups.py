"""Runs that differ in their seed only, what sets groups of them apart, and what each measured."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ._run import Flat, Measured, Run, places_of, readers

SHARES = ("top", "recall", "accuracy", "purity")  # parts of names whose numbers are shares
HELD_OUT = " on held-out images"
KNN, WATCHED = "kNN accuracy", f"kNN accuracy{HELD_OUT}"
ONE_BY_ONE = 6  # runs that are shown each by itself; of more, one of each group
AT_MOST = 12  # of these


class Group(NamedTuple):
    """Runs that differ in nothing but their seeds.

    Attributes:
        name: that of the first one, with how many seeds there are.
        runs: their places among all runs.
        seeds: of each seed one run: a seed that is there twice counts once.
    """

    name: str
    runs: tuple[int, ...]
    seeds: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """Of the first seed, for what is the same in all."""
        return self.seeds[0]

    @property
    def called(self) -> str:
        """The name without the seed, where there are several and a sweep has it in their names."""
        name = self.first.name
        return _without_seed(name) if len(self.seeds) > 1 else name


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Runs of equal settings belong together; a run without settings is alone.

    Example:
        >>> runs = [Run("a", "a", {"seed": 0}), Run("b", "b", {"seed": 1}), Run("c", "c")]
        >>> [group.name for group in groups_of(runs)]
        ['a and 1 more seed', 'c']
    """
    found: dict[Any, list[int]] = {}
    for number, (run, settings) in enumerate(zip(runs, _deciding(runs), strict=True)):
        key = repr(sorted(settings.items())) if run.config else number
        found.setdefault(key, []).append(number)
    seeds = [_one_of_each_seed([runs[i] for i in of]) for of in found.values()]
    names = [_name([run.name for run in of]) for of in seeds]
    return [
        Group(name if names.count(name) == 1 else f"{name} ({of[0].name})", tuple(places), of)
        for name, places, of in zip(names, found.values(), seeds, strict=True)
    ]


def _deciding(runs: Sequence[Run]) -> list[Flat]:
    """The settings of each run that decide about numbers.

    Where images lie decides nothing: those that are the same lie for all where the first has them.

    Example:
        >>> a, b = ({"data.path": f"/{name}/photos"} for name in "ab")
        >>> same, other = {"images": "4 of [8, 8, 3]"}, {"images": "5 of [8, 8, 3]"}
        >>> runs = [Run("a", "a", a, described=same), Run("b", "b", b, described=same)]
        >>> [*_deciding(runs), *_deciding([runs[0], runs[1]._replace(described=other)])]
        [{'data.path': '/a/photos'}, {'data.path': '/a/photos'},
         {'data.path': '/a/photos'}, {'data.path': '/b/photos'}]
    """
    first: dict[tuple[str, str], Flat] = {}
    found = []
    for run in runs:
        settings = run.settings
        for images, fingerprint in run.described.items():
            own = places_of(images, settings)
            same = first.setdefault((images, str(fingerprint)), own)
            settings = {n: x for n, x in settings.items() if n not in own} | same
        found.append(settings)
    return found


def _one_of_each_seed(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Of runs of equal settings the first of each seed that has ended, or else the first.

    Where no seed is known, all. They are in the order of the runs.

    Example:
        >>> runs = [Run("a", "a", {"seed": 0}, ended=False), Run("b", "b", {"seed": 0})]
        >>> [run.name for run in _one_of_each_seed(runs)]
        ['b']
    """
    chosen: dict[Any, int] = {}
    for number in sorted(range(len(runs)), key=lambda number: not runs[number].ended):
        seed = runs[number].seed
        chosen.setdefault(("unknown", number) if seed is None else seed, number)
    return tuple(runs[number] for number in sorted(chosen.values()))


def _name(names: Sequence[str]) -> str:
    """What runs are called together; those of a sweep have the seed in their names.

    Example:
        >>> _name(["tau=0.1_seed=0", "tau=0.1_seed=1"]), _name(["a", "b", "c"]), _name(["a"])
        ('tau=0.1, 2 seeds', 'a and 2 more seeds', 'a')
    """
    first, more = names[0], len(names) - 1
    if not more:
        return first
    settings = {_without_seed(name) for name in names}
    if len(settings) == 1 and settings != set(names):
        return f"{settings.pop()}, {len(names)} seeds"
    return f"{first} and {more} more seed{'s' if more > 1 else ''}"


def _without_seed(name: str) -> str:
    return re.sub(r"_seed=\d+$", "", name)


def one_by_one(runs: Sequence[Run]) -> list[int]:
    """The runs whose pairs and images are shown: all of a few, else the first seed of each group.

    Example:
        >>> few = [Run(f"r{seed}", "", {"seed": seed}) for seed in range(7)]
        >>> one_by_one(few), one_by_one(few[:3])
        ([0], [0, 1, 2])
    """
    if len(runs) <= ONE_BY_ONE:
        return list(range(len(runs)))
    return [group.runs[0] for group in groups_of(runs)][:AT_MOST]


def settings_used(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """All settings but the seed: name to a value for each run, None where it has or uses none."""
    names = dict.fromkeys(name for run in runs for name in run.config if name != "seed")
    used = lambda run, name: None if name in run.ignored else run.config.get(name)
    return {name: [used(run, name) for run in runs] for name in names}


def settings_that_differ(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Of `settings_used` those of which runs have other values, or some have none at all.

    That a run has no use for a setting follows from another one, which differs. What has no
    settings, such as a file of embeddings, is no other setting; nor is what decides about nothing,
    as where the same images lie.

    Example:
        >>> runs = [Run("a", "a", {"seed": 0, "x": 1, "y": 2}), Run("b", "b", {"x": 3, "y": 2})]
        >>> settings_that_differ(runs)
        {'x': [1, 3]}
    """
    found, deciding = {}, _deciding(runs)
    for name, values in settings_used(runs).items():
        pairs = zip(runs, deciding, strict=True)
        counted = [own.get(name) for run, own in pairs if run.config and name not in run.ignored]
        if any(x != counted[0] for x in counted):
            found[name] = values
    return found


# Of the settings of the data that decide about numbers, those that say what is learned from or how
# it is read, not which images are measured.
_OF_TRAINING = ("limit", "imbalance_ratio", "caption_noise", "whole", "on_error")


def measured_otherwise(runs: Sequence[Run], differ: Iterable[str]) -> list[str]:
    """Of `settings_that_differ` those by which runs are measured on other images, or otherwise.

    Args:
        runs: what has been measured of them counts.
        differ: the names of the settings.

    Example:
        >>> knn = {"knn": Measured({"top1": 0.5}, {}, "test", {}, {})}
        >>> differ = ["data.path", "data.limit", "knn.k", "probe.epochs"]
        >>> measured_otherwise([Run("a", "a", evaluations=knn), Run("b", "b")], differ)
        ['data.path', 'knn.k']
    """
    measured = {name.removeprefix("eval ") for run in runs for name in run.evaluations}
    if any("knn" in run.curves for run in runs):
        measured.add("knn")

    def counts(name: str) -> bool:
        group, _, last = name.partition(".")
        of_images = group == "data" and last not in _OF_TRAINING
        return of_images or not measured.isdisjoint(readers(name))

    return [name for name in differ if counts(name)]


def value_of(value: Any) -> str:
    """A setting as it is written.

    Example:
        >>> value_of(None), value_of(""), value_of("sphere"), value_of((0.5, 1))
        ('—', "''", 'sphere', '[0.5, 1]')
    """
    if value is None or isinstance(value, str):
        return "—" if value is None else value or "''"
    return json.dumps(value, default=str)


def measures_of(runs: Sequence[Run]) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The first share of each evaluation, one number for each seed that has it.

    After training on a long tail, that of the rare classes too. The name of what a run without test
    images has measured on held-out ones says so. Nearest neighbours on these, as a run that has
    ended has last watched them, come first, where the closing ones are of other images.

    Args:
        runs: of equal settings, each of another seed.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        own = {}
        closing = run.evaluations.get("knn")
        if run.ended and "knn" in run.curves and (closing is None or closing.split == "test"):
            own[WATCHED] = float(run.curves["knn"].values[-1])
        if "trained" in run.baselines:
            own |= _with_rare_classes(KNN, run.baselines["trained"], "top1", closing)
        for name, evaluation in run.evaluations.items():
            shares = [row for row in evaluation.rows if any(part in row for part in SHARES)]
            # Some runs may be measured at their end, others by `dystress eval`.
            plain = name.removeprefix("eval ")
            of_no_encoder = re.match(r"baselines(?![^ _])", plain)  # also on other images
            if shares and name != "knn" and not of_no_encoder:
                called = name if plain in run.evaluations else plain
                said = f"{called} {shares[0].replace('_', ' ')}"
                own |= _with_rare_classes(said, evaluation.rows[shares[0]], shares[0], evaluation)
        for name, value in own.items():
            if 0 <= value <= 1:  # a damaged file may hold any number
                found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def _with_rare_classes(
    said: str, value: float, row: str, evaluation: Measured | None
) -> dict[str, float]:
    """An accuracy and the same of the third of the classes that is rarest, where it was measured.

    Example:
        >>> tail = Measured({"top1": 0.5, "top1_few": 0.25}, {}, "holdout", {}, {})
        >>> _with_rare_classes("kNN accuracy", 0.5, "top1", tail)
        {'kNN accuracy on held-out images': 0.5,
         'kNN accuracy of rare classes on held-out images': 0.25}
    """
    if evaluation is None:
        return {said: value}
    images = HELD_OUT if evaluation.split == "holdout" else ""
    rare = evaluation.rows.get(f"{row}_few")
    of_rare = {} if rare is None else {f"{said} of rare classes{images}": rare}
    return {f"{said}{images}": value} | of_rare
