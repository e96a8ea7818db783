"""What can be said of a setting: its meaning, its range, and what it applies to."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Table = Mapping[str, Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class Above:
    """In place of names: every number above a limit.

    Example:
        >>> 2 in Above(1), 1 in Above(1), list(Above(1))
        (True, False, ['above 1'])
    """

    limit: float

    def __contains__(self, value: object) -> bool:
        """Whether a value is one of them."""
        return isinstance(value, int | float) and value > self.limit

    def __iter__(self) -> Iterator[str]:
        """What they are, in words."""
        yield f"above {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Given:
    """In place of names: every text but ''.

    Example:
        >>> "runs/a" in Given(), "" in Given(), list(Given())
        (True, False, ['a text'])
    """

    def __contains__(self, value: object) -> bool:
        """Whether a value is one of them."""
        return value != ""

    def __iter__(self) -> Iterator[str]:
        """What they are, in words."""
        yield "a text"


Names = Collection[str] | Above | Given


class Need(NamedTuple):
    """What one choice of a field goes together with.

    Attributes:
        field: the name of another field.
        among: what this one may be.
        why: the reason, as the answer to anything else goes on after its name.
    """

    field: str
    among: Collection[str]
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a field means, what it may hold and what it applies to.

    Attributes:
        doc: what it means, for the table of settings.
        among: the names that it may hold; a table, whose keys they are.
        own: whether `MODULE:OBJECT` may stand in place of one of the names.
        needs: what some of its names go together with.
        only_for: what it applies to, beside what follows from its group: field to names.
        parts: those of `Parts` that read it, where a method may have no use for them; (): those of
            its group.
        about: the field whose choice it is about and nothing else, as the path of a data set is
            about `data.source`: a flag that changes that one puts it back; "": none.
        of_a_machine: whether it is about the machine of a process, such as where a file lies there:
            processes of one run may differ in it. A text is a path.
        of_no_number: whether no number of a run becomes another one by it, so that runs that differ
            in it are repetitions; what it adds at the end is as good in another run.
        may_change: whether a run may go on with another value: neither the model nor the data
            change.
        above: its range, this limit excluded.
        at_least: its range.
        at_most: its range.
        below: its range, this limit excluded.
    """

    doc: str
    among: Collection[str] = ()
    own: bool = False
    needs: Mapping[str, Sequence[Need]] = dataclasses.field(default_factory=dict)
    only_for: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    parts: Collection[str] = ()
    about: str = ""
    of_a_machine: bool = False
    of_no_number: bool = False
    may_change: bool = False
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None


def field(default: Any, doc: str, **meaning: Any) -> Any:
    """A dataclass field with its default and its `Meaning`."""
    metadata = {"meaning": Meaning(doc=doc, **meaning)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """What the fields of a group have in common.

    Attributes:
        axis: the field that chooses in `table` who is built with the group's fields.
        table: the builders by name. A field that only some of them have as an argument applies to
            these; one that none of them has, or all, applies always.
        only_for: what the whole group applies to: field to names.
        parts: as of a `Meaning`.
    """

    axis: str = ""
    table: Table = dataclasses.field(default_factory=dict)
    only_for: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    parts: Collection[str] = ()


def group(cls: type, **common: Any) -> Any:
    """A group of fields, with what they have in common."""
    return dataclasses.field(default_factory=cls, metadata={"group": Group(**common)})


def arguments(builder: Callable[..., Any]) -> list[str]:
    """The names of the arguments that a builder takes, through `functools.partial` too."""
    return [
        name
        for name, parameter in inspect.signature(builder).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def taking(argument: str, table: Table) -> list[str]:
    """The names of the builders that take an argument."""
    return [name for name, build in table.items() if argument in arguments(build)]
