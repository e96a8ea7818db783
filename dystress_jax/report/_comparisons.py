"""What stands out between runs, in plain sentences; each comes from a rule that is said beside it.

Runs that differ in their seed only speak together. Of a few groups of runs each is held against the
first one, of more the best of all is named.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from ..microscope import unit_of
from ._groups import (
    KNN,
    WATCHED,
    Group,
    groups_of,
    measured_otherwise,
    measures_of,
    settings_that_differ,
    value_of,
)
from ._overview import LEVEL, Overview, best_of, by_chance, overview, standing
from ._run import Run
from ._sentences import Sentence, last_of, negatives_of, of_kind, percent

FEW = 3  # groups of runs that are held against the first one
SETTINGS = 3  # that differ, at most, named in a sentence
STRETCHES = 3  # of similarities, at most, named in a sentence


def compare(runs: Sequence[Run]) -> list[Sentence]:
    """All that several runs give reason to say of each other.

    Args:
        runs: of `gather` or `of_embeddings`; the first one, with its other seeds, is what the
            others are held against.

    Returns:
        The sentences; there are none of a single run.

    Example:
        >>> from dystress_jax import report
        >>> report.compare(report.gather(["runs/quickstart"]))
        []
    """
    groups, beside = groups_of(runs), overview(runs)
    if len(groups) > FEW:
        return [*lost(beside), *best(beside)]
    found = list(lost(beside))
    found += [s for side in groups if len(side.seeds) > 1 for s in seeds(side)]
    found += [s for side in groups[1:] for rule in RULES for s in rule(side, groups[0])]
    return found


def lost(found: Overview) -> Iterator[Sentence]:
    """Of which settings some seeds have diverged."""
    for row in found.rows:
        if row.diverged and row.seeds > 1:
            verb = "has" if row.diverged == 1 else "have"
            left = "; the means are of the others" if row.measured else ""
            yield Sentence(
                f"Of the {row.seeds} seeds of “{row.group.name}” {row.diverged} {verb} "
                f"diverged{left}.",
                "runs whose loss has become NaN or infinite",
            )


def best(found: Overview) -> Iterator[Sentence]:
    """Which settings have the highest accuracy, and which could be as good."""
    for name in found.measures:
        highest, stands = best_of(found, name), standing(found, name)
        if highest is None:
            continue
        first = found.rows[highest]
        level, behind, unknown = map(stands.count, ("level", "behind", "unknown"))
        counted = {
            f"seeds alone could make the difference to {level} of the others": level,
            f"further behind than seeds alone explain: {behind} of the others": behind,
            f"with one seed it is not known what seeds do: {unknown} of the others": unknown,
        }
        words = [text for text, count in counted.items() if count]
        yield Sentence(
            f"The {name} is highest of “{first.group.name}”, "
            f"{percent(float(first.measured[name].mean()))}: {'; '.join(words)}.",
            "the means over the seeds; the others are held against the highest one by one, by "
            "Welch's t-test, p < 0.05",
        )


def seeds(side: Group) -> Iterator[Sentence]:
    """How far the seeds of equal settings differ."""
    for name, values in _closing(side).items():
        if len(values) > 1:
            yield Sentence(
                f"Over the {len(values)} seeds of “{side.called}” the {name} is "
                f"{percent(float(values.mean()))} on average, with a standard deviation of "
                f"{100 * values.std(ddof=1):.1f} points.",
                "runs that differ in their seed only, where two or more have been measured",
            )


def settings(side: Group, base: Group) -> Iterator[Sentence]:
    """What was set differently."""
    ours, theirs = side.first, base.first
    if not ours.config or not theirs.config:
        return
    said = lambda value: "unset" if value is None else value_of(value)
    differing = [
        f"{name} is {said(here)}, not {said(there)}"
        for name, (here, there) in settings_that_differ([ours, theirs]).items()
    ]
    if differing:
        more = len(differing) - SETTINGS
        told = differing[:SETTINGS] + ([f"{more} more settings differ"] if more > 0 else [])
        yield Sentence(
            f"“{side.called}” beside “{base.called}”: {'; '.join(told)}.",
            f"the settings that differ, the seed aside; at most {SETTINGS} are named",
        )


def accuracies(side: Group, base: Group) -> Iterator[Sentence]:
    """Which is better, by how much, and whether seeds alone could make the difference."""
    other, own = _closing(base), _closing(side)
    both = [side.first, base.first]
    differing = measured_otherwise(both, settings_that_differ(both))
    if differing and other.keys() & own.keys():
        yield Sentence(
            f"The accuracies of “{side.called}” and “{base.called}” are not compared: "
            f"{' and '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}.",
            "accuracies are compared only if the settings say that they are measured on the same "
            "images and in the same way",
        )
        return
    for name, ours in own.items():
        theirs = other.get(name, np.zeros(0))
        if not len(theirs):
            continue
        points = 100 * float(ours.mean() - theirs.mean())
        way = f"{abs(points):.1f} points {'higher' if points > 0 else 'lower'} than"
        if abs(points) < 0.05:
            way = "the same as"
        yield Sentence(
            f"The {name} of “{side.called}” is {way} that of “{base.called}”: "
            f"{percent(float(ours.mean()))} and {percent(float(theirs.mean()))} "
            f"({_verdict(ours, theirs)}).",
            "the means over the seeds; more than seeds alone explain where p < 0.05 by Welch's "
            "t-test",
        )


def _verdict(ours: Float[np.ndarray, " a"], theirs: Float[np.ndarray, " b"]) -> str:
    """Whether seeds alone could make the difference of two means."""
    a, b, chance = len(ours), len(theirs), by_chance(ours, theirs)
    if chance is None:
        return f"{'one seed each' if a == b else f'{a} and {b} seeds'}: what seeds do is not known"
    spread = " and ".join(f"{100 * x.std(ddof=1):.1f}" for x in (ours, theirs))
    return (
        f"{f'{a} seeds each' if a == b else f'{a} and {b} seeds'}, standard deviations {spread}: "
        f"{'more' if chance < LEVEL else 'no more'} than seeds alone explain"
    )


def temperatures(side: Group, base: Group) -> Iterator[Sentence]:
    """Where the temperature is lower and where it is higher."""
    found, other = _tau(side), _tau(base)
    same_unit = unit_of(side.first.records) == unit_of(base.first.records)
    if found is None or other is None or not same_unit:
        return
    edges, ours = found
    middles = (edges[1:] + edges[:-1]) / 2
    theirs = np.interp(middles, (other[0][1:] + other[0][:-1]) / 2, other[1])
    # Where a similarity has no limits, what only one of the runs has seen is left out.
    both = (middles >= other[0][0]) & (middles <= other[0][-1])
    clear = both & (np.abs(ours - theirs) > 0.01 * np.minimum(ours, theirs))
    pairs = of_kind(side.first, "similarity", "negative")
    parts = []
    for word, there in {"lower": ours < theirs, "higher": ours > theirs}.items():
        if not (there & clear).any():
            continue
        gap = np.where(there & clear, np.abs(ours - theirs), 0)
        most = int(gap.argmax())
        held = ""
        if pairs is not None and len(pairs) == len(gap) and pairs.sum() > 0:
            share = float(pairs[gap > 0].sum() / pairs.sum())
            held = f", where {percent(share)} of its negatives lie"
        parts.append(
            f"{word} {_where(edges, gap > 0)} (by up to {gap[most]:.3f}, at s = "
            f"{_number(middles[most])}){held}"
        )
    if parts:
        yield Sentence(
            f"The temperature of “{side.called}”, beside that of “{base.called}”, is "
            f"{', and '.join(parts)}.",
            "τ(s) of the last records, the mean over the seeds, where the two differ by more than "
            "1 %",
        )


def focus(side: Group, base: Group) -> Iterator[Sentence]:
    """Which of them takes its gradient from fewer negatives."""
    ours, theirs = _focus(side), _focus(base)
    if ours is None or theirs is None or max(ours[0] / theirs[0], theirs[0] / ours[0]) < 1.2:
        return
    told = lambda found: f"{found[1]:.0f} of {found[2]:.0f} negatives"
    word = "fewer" if ours[0] < theirs[0] else "more"
    yield Sentence(
        f"In “{side.called}” 80 % of the gradient of an anchor comes from {told(ours)}, in "
        f"“{base.called}” from {told(theirs)}: “{side.called}” listens to {word} of them.",
        "the most similar negatives that hold 80 % of the weights, last record, mean over the "
        "seeds; said when the shares differ by a factor of 1.2",
    )


def spread(side: Group, base: Group) -> Iterator[Sentence]:
    """Which of them spreads its embeddings more evenly, and keeps classes closer together."""
    ours, theirs = (_mean(s, "uniformity") for s in (side, base))
    if ours is None or theirs is None or abs(ours - theirs) < 0.1:
        return
    word = "more" if ours < theirs else "less"
    told = f"uniformity {ours:.2f} and {theirs:.2f}, lower is more even"
    closer, theirs_closer = (_mean(s, "tolerance") for s in (side, base))
    if closer is not None and theirs_closer is not None:
        told += f"; tolerance, the mean cosine inside a class, {closer:.2f} and {theirs_closer:.2f}"
    yield Sentence(
        f"The embeddings of “{side.called}” cover the sphere {word} evenly than those of "
        f"“{base.called}” ({told}).",
        "the batch of the last record, mean over the seeds; said when uniformity differs by 0.1",
    )


RULES: tuple[Callable[[Group, Group], Iterator[Sentence]], ...] = (
    settings,
    accuracies,
    temperatures,
    focus,
    spread,
)


def _closing(side: Group) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The accuracies at the end of runs."""
    found = measures_of(side.seeds)
    if KNN in found:  # else the closing ones are those of held-out images
        found.pop(WATCHED, None)
    return found


def _mean(side: Group, scalar: str) -> float | None:
    """Of the last records."""
    found = [value for run in side.seeds if (value := last_of(run, scalar)) is not None]
    return float(np.mean(found)) if found else None


def _focus(side: Group) -> tuple[float, float, float] | None:
    """The share of the negatives that has 80 % of the gradient, their number, and that of all."""
    count, of = _mean(side, "hardest_for_80_percent"), negatives_of(side.first)
    return (count / of, count, of) if count and of else None


def _tau(side: Group) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, " bins"]] | None:
    """The edges of the first run's bins, and the temperature in the middle of each."""
    found = []
    for run in side.seeds:
        if run.records is None or "curve_tau" not in run.records.arrays:
            continue
        edges, tau = (
            np.asarray(run.records[name][-1], np.float64)
            for name in ("similarity_edges", "curve_tau")
        )
        if np.isfinite(edges).all() and np.isfinite(tau).all():
            found.append((edges, tau))
    if not found:
        return None
    edges = found[0][0]
    middles = (edges[1:] + edges[:-1]) / 2
    return edges, np.mean([np.interp(middles, *own) for own in found], axis=0)


def _where(edges: Float[np.ndarray, " edges"], there: Bool[np.ndarray, " bins"]) -> str:
    """Stretches of similarities in words.

    Example:
        >>> _where(np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), np.array([True, False, False, True]))
        'where s < -0.50 or s > 0.50'
    """
    if there.all():
        return "at every similarity"
    steps = np.diff(np.concatenate([[0], there.astype(int), [0]]))
    parts = []
    for low, high in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
        if low == 0:
            parts.append(f"s < {_number(edges[high])}")
        elif high == len(there):
            parts.append(f"s > {_number(edges[low])}")
        else:
            parts.append(f"{_number(edges[low])} < s < {_number(edges[high])}")
    more = len(parts) - STRETCHES
    return "where " + " or ".join(parts[:STRETCHES]) + (f" or {more} more" if more > 0 else "")


def _number(value: float) -> str:
    """Two digits, and no sign of nothing.

    Example:
        >>> _number(-0.001), _number(-0.25)
        ('0.00', '-0.25')
    """
    return f"{round(float(value), 2) + 0.0:.2f}"
