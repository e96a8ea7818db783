"""Lines and results as a person reads them in the terminal."""

import itertools
from collections.abc import Mapping, Sequence

import jax
import tqdm

from ..evaluation import Result, Row

Cells = tuple[str, ...]
ENDS = 3  # of many classes the worst and the best are named


def results(found: Mapping[str, Result], *, note: str = "", also: Sequence[Cells] = ()) -> str:
    """A table for each evaluation, by name.

    Args:
        found: what was measured.
        note: what the titles end with, such as the checkpoint.
        also: rows under the last table.
    """
    tables = []
    for number, (name, result) in enumerate(found.items(), start=1):
        rows = [cells(row) for row in result.rows]
        rows += also if number == len(found) else ()
        title = name if ":" in name else name.replace("_", " ")  # MODULE:OBJECT as it is written
        title += f", {result.split} images" if result.split else ""
        if "classes" in result.protocol:
            title += f", {result.protocol['classes']:,} classes"
        title += note
        tables.append(table(rows, title=title))
    return "\n\n".join(tables)


def details(result: Result) -> list[str]:
    """What else there is to say of a result, in lines: how the classes fare, and notes."""
    lines = []
    if result.confusion is not None:
        shares = result.confusion.by_class().items()
        known = sorted((share, name) for name, share in shares if share is not None)
        shown = [f"{name} {100 * share:.1f} %" for share, name in known]
        some = shown if len(shown) <= 2 * ENDS else [*shown[:ENDS], "...", *shown[-ENDS:]]
        of = f" ({result.confusion.of})" if result.confusion.of else ""
        lines.append(f"by class{of}: {', '.join(some)}")
    return [*lines, *(f"note: {note}" for note in result.notes)]


def cells(row: Row) -> Cells:
    """One number: its name, its value, what guessing gets, the balanced accuracy, and a note.

    Example:
        >>> cells(Row("recall_at_1", 0.164, 0.0006)), cells(Row("uniformity", -2.51, share=False))
        (('recall at 1', '16.4 %', 'chance 0.06 %', '', ''), ('uniformity', '-2.510', '', '', ''))
        >>> cells(Row("images", 1563, share=False))
        ('images', '1,563', '', '', '')
        >>> cells(Row("top1", 1.0, chance=1.0, balanced=0.5, note="k 20"))
        ('top1', '100.0 %', 'chance 100 %', 'balanced 50.0 %', 'k 20')
        >>> cells(Row("top1", 0.5, std=0.012))[1]  # the mean of several seeds
        '50.0 % (1.2)'
    """
    plain = f"{row.value:,}" if isinstance(row.value, int) else f"{row.value:.3f}"
    value = f"{100 * row.value:.1f} %" if row.share else plain
    if row.std is not None:
        value += f" ({100 * row.std:.1f})" if row.share else f" ({row.std:.3f})"
    guessed = f"{_short(100 * row.chance, 2)} %" if row.share and row.chance else None
    guessed = _short(row.chance, 3) if not row.share and row.chance is not None else guessed
    chance = f"chance {guessed}" if guessed else ""
    balanced = "" if row.balanced is None else f"balanced {100 * row.balanced:4.1f} %"
    return row.name.replace("_", " "), value, chance, balanced, row.note


def _short(number: float, digits: int) -> str:
    """Digits that count: a chance is often too little for a fixed number of decimals."""
    return f"{float(f'{number:.{digits}g}'):g}"  # not 1e+02


def table(rows: Sequence[Cells], *, title: str) -> str:
    """A table for the terminal: names to the left, numbers to the right, rows of any length.

    A column without entries takes no room.

    Example:
        >>> print(table([("trained", "50.1 %", "chance 10 %"), ("time", "8 s")], title="kNN"))
        kNN
        ------------------------------
        trained   50.1 %   chance 10 %
        time         8 s
    """
    columns = [c for c in itertools.zip_longest(*rows, fillvalue="") if any(c)]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for name, *numbers in zip(*columns, strict=True):
        aligned = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=True)]
        lines.append("   ".join([f"{name:<{widths[0]}}", *aligned]).rstrip())
    return "\n".join([title, "-" * max(len(title), *map(len, lines)), *lines])


def note(text: str) -> None:
    """Say a line, above a bar that is shown; of several processes the first says it."""
    if jax.process_index() == 0:
        tqdm.tqdm.write(text)
