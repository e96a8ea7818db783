"""The tables of a report, as HTML."""

import html
from collections.abc import Iterable, Sequence

import numpy as np

from ._groups import SHARES, groups_of, settings_used, value_of
from ._overview import Overview, cells_of, head_of
from ._run import ConfusionCounts, Run

CELLS = 24  # classes at most whose confusion is shown whole
CONFUSED = 15  # pairs of classes shown where there are more


def evaluations(runs: Sequence[Run]) -> str:
    """Everything that was measured, a row a number, a column for all seeds of some settings."""
    groups = groups_of(runs)
    keys = [(name, row) for run in runs for name, e in run.evaluations.items() for row in e.rows]
    head, body = ["", "images", "chance", *(group.name for group in groups)], []
    for name, row in dict.fromkeys(keys):
        having = [run.evaluations[name] for run in runs if name in run.evaluations]
        # Runs of other data may have others.
        split = " or ".join(dict.fromkeys(found.split for found in having if found.split))
        chances = [number(row, found.chance[row]) for found in having if row in found.chance]
        chance = " or ".join(dict.fromkeys(chances))
        cells = [_over_seeds(row, group.seeds, name) for group in groups]
        body.append([f"{name}: {row.replace('_', ' ')}", split, chance, *cells])
    without = [i for i in (1, 2) if not any(cells[i] for cells in body)]
    kept = [i for i in range(len(head)) if i not in without]
    return table([head[i] for i in kept], [[cells[i] for i in kept] for cells in body])


def _over_seeds(row: str, runs: Sequence[Run], name: str) -> str:
    """The mean of a number, and its standard deviation where it was measured of several runs."""
    found = [r.evaluations[name].rows.get(row) for r in runs if name in r.evaluations]
    values = [value for value in found if value is not None]
    if len(values) < 2:
        return number(row, values[0]) if values else ""
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    if (shown := number(row, mean)).endswith(" %"):
        return f"{shown.removesuffix(' %')} ± {100 * spread:.1f} %"
    return f"{shown} ± {spread:.2g}"


def overview(found: Overview) -> str:
    """The settings that differ beside what was measured, a row for all seeds of some settings."""
    return table(head_of(found), cells_of(found))


def per_class(runs: Sequence[Run]) -> str:
    """The accuracy of each class with a bar, for each evaluation that has it."""
    parts = []
    for name in dict.fromkeys(name for run in runs for name in run.evaluations):
        having = [r for r in runs if name in r.evaluations and r.evaluations[name].per_class]
        if not having:
            continue
        classes = list(dict.fromkeys(c for r in having for c in r.evaluations[name].per_class))
        rows = []
        for label in classes:
            shares = [r.evaluations[name].per_class.get(label) for r in having]
            rows.append(f"<tr><th scope=row>{safe(label)}</th>{''.join(map(_bar, shares))}</tr>")
        head = _head(["class", *(r.name for r in having)])
        of = {str(r.evaluations[name].about.get("per_class_of", "")): None for r in having}
        title = f"{name}{_among(*of)}: accuracy of each class"
        parts.append(_details(title, f"{head}{''.join(rows)}"))
    return "".join(parts)


def confusions(run: Run) -> str:
    """Which classes were taken for which: whole where they are few, else the most frequent."""
    parts = []
    for name, found in run.confusions.items():
        few = len(found.class_names) <= CELLS
        content = _matrix(found) if few else _most_confused(found)
        title = f"{run.name}, {name}{_among(found.of)}: which classes are taken for which"
        parts.append(_details(title, content))
    return "".join(parts)


def _among(*of: str) -> str:
    """Which of several measurements is shown, in brackets."""
    named = "; ".join(filter(None, of))
    return f" ({named})" if named else ""


def _matrix(found: ConfusionCounts) -> str:
    shares = found.counts / np.maximum(found.counts.sum(axis=1, keepdims=True), 1)
    numbered = [f"{i + 1}" for i in range(len(found.class_names))]
    rows = []
    for i, name in enumerate(found.class_names):
        cells = "".join(
            f'<td style="--share:{share:.2f}"{" class=right" * (i == j)} '
            f'title="{safe(name)} taken for {safe(found.class_names[j])}">{count or ""}</td>'
            for j, (share, count) in enumerate(zip(shares[i], found.counts[i], strict=True))
        )
        rows.append(f"<tr><th scope=row>{i + 1} {safe(name)}</th>{cells}</tr>")
    return f"{_head(['is ↓ taken for →', *numbered])}{''.join(rows)}"


def _most_confused(found: ConfusionCounts) -> str:
    counts = found.counts.copy()
    np.fill_diagonal(counts, 0)
    rows, names = [], found.class_names
    for at in np.argsort(-counts, axis=None, kind="stable")[:CONFUSED]:
        i, j = np.unravel_index(at, counts.shape)
        if counts[i, j]:
            share = counts[i, j] / found.counts[i].sum()
            rows.append([names[i], names[j], str(counts[i, j]), f"{100 * share:.1f} %"])
    return table(["is", "taken for", "images", "of its class"], rows)


def differences(runs: Sequence[Run]) -> str:
    """The settings in which runs differ; a run that would ignore one has none."""
    rows = [
        [name, *map(value_of, values)]
        for name, values in settings_used(runs).items()
        if any(value != values[0] for value in values)
    ]
    seeds = [value_of(run.seed) for run in runs]
    if len(set(seeds)) > 1:
        rows.append(["seed", *seeds])
    if not rows:
        return "<p>The runs have the same settings.</p>"
    return table(["setting", *(run.name for run in runs)], rows)


def settings(run: Run) -> str:
    """All settings of a run."""
    rows = [[name, value_of(value)] for name, value in run.config.items()]
    return _details(f"{run.name}: all settings", table(["setting", "value"], rows, kind="texts"))


def environment(runs: Sequence[Run]) -> str:
    """Where runs took place, and by which code."""
    columns = []
    for run in runs:
        column = {"directory or file": run.place}
        for name, value in run.environment.items():
            if isinstance(value, dict):
                column |= {f"{name}: {inner}": value_of(x) for inner, x in value.items()}
            elif name == "command" and isinstance(value, list):
                column[name] = " ".join(map(str, value))
            else:
                column[name] = value_of(value)
        columns.append(column)
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name, "—") for column in columns)] for name in names]
    return table(["", *(run.name for run in runs)], rows, kind="texts")


def number(name: str, value: float) -> str:
    """A measured number as people read it.

    Example:
        >>> number("top1", 0.4788), number("top1", 0.00064), number("uniformity", -2.34567)
        ('47.9 %', '0.064 %', '-2.346')
    """
    if any(part in name for part in SHARES) and 0 <= value <= 1:
        return f"{100 * value:.1f} %" if value >= 0.01 or not value else f"{100 * value:.2g} %"
    return f"{value:.4g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "numbers") -> str:
    """A table whose first column names the rows; of `numbers`, or of `texts`, which wrap."""
    body = "".join(
        f"<tr><th scope=row>{safe(first)}</th>{''.join(f'<td>{safe(x)}</td>' for x in rest)}</tr>"
        for first, *rest in rows
    )
    return f'<div class="scroll"><table class="{kind}">{_head(head)}{body}</table></div>'


def safe(text: str) -> str:
    """A text as HTML shows it, whatever letters it has."""
    return html.escape(str(text))


def _head(names: Sequence[str]) -> str:
    cells = "".join(f"<th scope=col>{safe(name)}</th>" for name in names)
    return f"<thead><tr>{cells}</tr></thead>"


def _details(title: str, rows: str) -> str:
    whole = rows if rows.startswith("<div") else f'<div class="scroll"><table>{rows}</table></div>'
    return f"<details><summary>{safe(title)}</summary>{whole}</details>"


def _bar(share: float | None) -> str:
    if share is None:
        return "<td>no images</td>"
    return f'<td class="bar" style="--share:{share:.3f}"><span>{100 * share:.1f} %</span></td>'
