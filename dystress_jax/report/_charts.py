"""What all charts of a report have: their colours, their keys, and a plain figure of bokeh."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bokeh.plotting import figure

from ._groups import groups_of
from ._run import Run

# Told apart by people who see colours differently, on white, and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07d00", "#777777")
IN_THE_DARK = ("#56b4e9", "#ff8c42", "#2fd6a3", "#e08bd8", "#e6b800", "#b0b0b0")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star", "plus")
DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
BAD = "#cc1111"
SOFT = "#8a8a8a"


class Key(NamedTuple):
    """One entry of the key of a chart."""

    label: str
    colour: str
    dash: str = "solid"


class Chart(NamedTuple):
    """A chart and what is said of it.

    Attributes:
        name: of its place in the page.
        title: a line above it.
        about: what it shows, for those who cannot see it too.
        figure: of bokeh.
        keys: what its lines are.
        is_wide: whether it takes the width of the page.
    """

    name: str
    title: str
    about: str
    figure: Any
    keys: tuple[Key, ...] = ()
    is_wide: bool = False


def style_of(number: int) -> tuple[str, str]:
    """Colour and dash of a group of runs."""
    return COLOURS[number % len(COLOURS)], DASHES[(number // len(COLOURS)) % len(DASHES)]


def inks(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Colour and dash of each run, which are those of its group in every chart.

    Example:
        >>> runs = [Run("a", "a", {"seed": 0}), Run("b", "b"), Run("c", "c", {"seed": 1})]
        >>> [colour for colour, _ in inks(runs)] == [COLOURS[0], COLOURS[1], COLOURS[0]]
        True
    """
    numbers = {i: number for number, group in enumerate(groups_of(runs)) for i in group.runs}
    return [style_of(numbers[i]) for i in range(len(runs))]


def plain(*, x: str, y: str, height: int = 260, **options: Any) -> Any:
    """A figure without tools, as wide as its place, that takes the colours of the page."""
    made = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_axis_label=x,
        y_axis_label=y,
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0,
        min_width=200,
        **options,
    )
    made.xgrid.grid_line_color = None
    return made
