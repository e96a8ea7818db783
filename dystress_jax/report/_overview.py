"""Several runs in one table: the settings that differ, and each accuracy with its seeds."""

import csv
import io
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Float

from ..errors import a_few
from ._groups import (
    Group,
    groups_of,
    measured_otherwise,
    measures_of,
    settings_that_differ,
    value_of,
)
from ._run import Run

ROUNDING = 1e-9  # of accuracies, which are shares of whole images
LEVEL = 0.05  # from this probability on, a difference may be one of seeds


class Row(NamedTuple):
    """Runs that differ in their seed only.

    Attributes:
        group: which ones.
        settings: a value for each setting of the overview; None: they would ignore it.
        seeds: of all of them, finished or not.
        measured: by the name of the accuracy, a share for each seed that has it.
        diverged: seeds of which no other run has come to its end.
    """

    group: Group
    settings: tuple[Any, ...]
    seeds: int
    measured: dict[str, Float[np.ndarray, " seeds"]]
    diverged: int = 0


class Overview(NamedTuple):
    """What several runs have measured.

    Attributes:
        settings: the names of those that differ.
        measures: the names of the accuracies.
        rows: one for each group of seeds.
        otherwise: of the settings those by which not all are measured on the same images and in the
            same way.
    """

    settings: tuple[str, ...]
    measures: tuple[str, ...]
    rows: tuple[Row, ...]
    otherwise: tuple[str, ...] = ()

    @property
    def comparable(self) -> bool:
        """Whether one may be held against another, as far as the settings say."""
        return not self.otherwise


def overview(runs: Sequence[Run]) -> Overview:
    """One row for all seeds of the same settings.

    Args:
        runs: of `gather`; those without settings are left out.

    Returns:
        The settings that differ, the accuracies, and a row for each group of seeds.

    Example:
        >>> from dystress_jax import report
        >>> found = report.overview(report.gather(["runs/quickstart"]))
        >>> len(found.rows), found.settings
        (1, ())
    """
    groups = [group for group in groups_of(runs) if runs[group.runs[0]].config]
    differ = settings_that_differ(runs)
    rows = [
        Row(
            group,
            tuple(values[group.runs[0]] for values in differ.values()),
            len(group.seeds),
            measures_of(group.seeds),
            sum(run.diverged for run in group.seeds),
        )
        for group in groups
    ]
    names = dict.fromkeys(name for row in rows for name in row.measured)
    return Overview(
        tuple(differ), tuple(names), tuple(rows), tuple(measured_otherwise(runs, differ))
    )


def best_of(found: Overview, measure: str) -> int | None:
    """The number of the row with the highest mean; None where there are no two to compare.

    Example:
        >>> found = overview([])
        >>> best_of(found, "kNN accuracy") is None
        True
    """
    if not found.comparable:
        return None
    means = {
        number: float(row.measured[measure].mean())
        for number, row in enumerate(found.rows)
        if measure in row.measured
    }
    return max(means, key=lambda number: means[number]) if len(means) > 1 else None


def by_chance(ours: Float[np.ndarray, " a"], theirs: Float[np.ndarray, " b"]) -> float | None:
    """How probable it is that seeds alone make two means differ as much: Welch's t-test.

    Args:
        ours: a number for each seed.
        theirs: a number for each seed.

    Returns:
        The probability, of a difference in either direction; None with one seed.

    Example:
        >>> round(by_chance(np.array([0.50, 0.54, 0.55]), np.array([0.40, 0.42])), 4)
        0.0073
        >>> by_chance(np.array([0.5]), np.array([0.4, 0.5])) is None
        True
    """
    sizes = np.array([len(ours), len(theirs)])
    if sizes.min() < 2:
        return None
    gap = abs(float(ours.mean() - theirs.mean()))
    of_means = np.array([ours.var(ddof=1), theirs.var(ddof=1)]) / sizes
    error = float(np.sqrt(of_means.sum()))
    if error <= ROUNDING:
        return float(gap <= ROUNDING)
    freedom = error**4 / float((of_means**2 / (sizes - 1)).sum())
    return 2 * float(scipy.special.stdtr(freedom, -gap / error))


def standing(found: Overview, measure: str) -> list[str]:
    """How each row stands beside the best: best, level, behind, unknown, or "" without a number.

    `level`: seeds alone could make the difference; `unknown`: one of the two has one seed.
    """
    best, said = best_of(found, measure), []
    for number, row in enumerate(found.rows):
        if best is None or measure not in row.measured:
            said.append("")
            continue
        chance = by_chance(row.measured[measure], found.rows[best].measured[measure])
        if number == best:
            said.append("best")
        elif chance is None:
            said.append("unknown")
        else:
            said.append("level" if chance >= LEVEL else "behind")
    return said


def cell(values: Float[np.ndarray, " n"] | None, seeds: int) -> str:
    """Mean and standard deviation in percent, and how many seeds have it where not all do.

    Example:
        >>> cell(np.array([0.5, 0.54]), 2), cell(np.array([0.5]), 3), cell(None, 2)
        ('52.0 ± 2.8', '50.0 (1 seed)', '—')
    """
    if values is None:
        return "—"
    spread = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
    some = f" ({len(values)} seed{'s' * (len(values) > 1)})" if len(values) < seeds else ""
    return f"{100 * values.mean():.1f}{spread}{some}"


def head_of(found: Overview) -> list[str]:
    """The names of the columns."""
    return [*found.settings, *(f"{name}, %" for name in found.measures), "seeds"]


WIDEST = 160  # characters of a line
MARKS = {"best": "★", "level": "≈", "behind": "", "unknown": "?", "": ""}
_LEGEND = (
    "Means and standard deviations over the seeds of the training. ★: the highest of its kind; ≈: "
    "seeds alone could make the difference to it (Welch's t-test, p ≥ 0.05, each row on its own); "
    "?: with one seed nobody knows. Choose settings by held-out images: the one that is highest on "
    "the test images owes a part of it to the choice."
)


def legend(found: Overview) -> str:
    """What the marks of the table say, or why there are none.

    Example:
        >>> legend(overview([])).startswith("Means and standard deviations")
        True
    """
    if found.comparable:
        return _LEGEND
    return (
        "Means and standard deviations over the seeds of the training. The runs are measured on "
        f"other images or classes, or in another way ({a_few(found.otherwise)}), so none is held "
        "against another."
    )


def cells_of(found: Overview) -> list[list[str]]:
    """The texts of the rows, by the columns of `head_of`."""
    marks = {name: standing(found, name) for name in found.measures}
    return [
        [
            *("—" if value is None else value_of(value) for value in row.settings),
            *(
                f"{cell(row.measured.get(name), row.seeds)} {MARKS[marks[name][number]]}".rstrip()
                for name in found.measures
            ),
            f"{row.seeds}, {row.diverged} diverged" if row.diverged else str(row.seeds),
        ]
        for number, row in enumerate(found.rows)
    ]


def markdown(found: Overview) -> str:
    """The table for a terminal or a paper's notes.

    Args:
        found: of `overview`.

    Returns:
        The table in Markdown, its columns aligned, and what its marks say. A table that would be
        wider than a terminal lies on its side: a column for each group of seeds.

    Example:
        >>> from dystress_jax import report
        >>> found = report.overview(report.gather(["runs/quickstart"]))
        >>> report.markdown(found).splitlines()[0].endswith("| seeds |")
        True
    """
    rows = [head_of(found), *cells_of(found)]
    rows = [[text.replace("|", "\\|") for text in row] for row in rows]
    names = ["", *(row.group.called for row in found.rows)]
    on_its_side = [names, *map(list, zip(*rows, strict=True))]
    if _width(rows) > max(WIDEST, _width(on_its_side)):
        rows = on_its_side
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = lambda texts: "| " + " | ".join(texts) + " |"
    padded = [[t.ljust(w) for t, w in zip(row, widths, strict=True)] for row in rows]
    table = [line(padded[0]), line(["-" * w for w in widths]), *map(line, padded[1:])]
    return "\n".join([*table, "", *textwrap.wrap(legend(found), 100)])


def _width(rows: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 3 for column in zip(*rows, strict=True))


def as_csv(runs: Sequence[Run]) -> str:
    """A line for each run: its name, the settings that differ, its seed and its accuracies.

    Args:
        runs: of `gather`.

    Returns:
        The lines, the names of the columns first. Accuracies are shares from 0 to 1; the last
        column says whether the run is `complete`, `unfinished` or has `diverged`.

    Example:
        >>> from dystress_jax import report
        >>> names, first = report.as_csv(report.gather(["runs/quickstart"])).splitlines()
        >>> names.startswith("run,seed"), first.startswith("quickstart,0")
        (True, True)
    """
    found, differ = overview(runs), settings_that_differ(runs)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", *differ, "seed", *found.measures, "ended"])
    for number, run in enumerate(runs):
        own = measures_of([run])
        settings = [values[number] for values in differ.values()]
        numbers = [own[name][0] if name in own else "" for name in found.measures]
        ended = "complete" if run.ended else "diverged" if run.diverged else "unfinished"
        writer.writerow([run.name, *settings, run.seed, *numbers, ended])
    return file.getvalue()
