"""Write docs/settings.md, a table for each group of settings: python tools/settings_table.py."""

import dataclasses
import itertools
import pathlib

from dystress_jax.configs import quickstart
from dystress_jax.run.config import Config
from dystress_jax.run.fields import Field, defaults, differences, fields

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """\
<!-- Written by tools/settings_table.py: change what it reads, dystress_jax/run/config.py. -->

# Settings

Every field of the config. On the command line a field is `--config.NAME=VALUE`, in a config file
`config.NAME = VALUE`. `MODULE:OBJECT` stands for [a part of your own](extending.md).

**Without `--config` a run starts from the config `quickstart`**, not from the defaults. It has
{quickstart}.
A [config of your own](configs.md#a-config-of-your-own) and Python start from the defaults.

A field that the run would not use is refused if it is set: "applies to" says when it is used. What
goes with what, and what the projection heads and the views are: [training](training.md).
"""


def page() -> str:
    """The page: a table for each group, in the order of the fields."""
    changed = differences(defaults().to_dict(), quickstart.get_config().to_dict())
    of_quickstart = (f"`{name}={value}`" for name, (_, value) in changed.items())
    parts = [HEAD.format(quickstart=", ".join(of_quickstart))]
    for group, members in itertools.groupby(fields(), lambda field: field.name.rpartition(".")[0]):
        title = f"## `{group}`: {_purpose(group)}" if group else "## The run"
        parts.append(f"{title}\n\n{_table(list(members))}")
    return "\n".join(parts)


def _purpose(group: str) -> str:
    """The first line of the group's docstring, as the end of a title."""
    [kind] = [field.type for field in dataclasses.fields(Config) if field.name == group]
    first = (kind.__doc__ or "").partition("\n")[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _table(of: list[Field]) -> str:
    """One row a field: its name, its default, its meaning and what it applies to."""
    applies = [_applies_to(field) for field in of]
    shared = [each for each in applies[0] if all(each in others for others in applies)]
    lines = [f"All of them apply to {'; '.join(shared)}.\n"] if shared else []
    lines += ["| field | default | meaning | applies to |", "|---|---|---|---|"]
    for field, each in zip(of, applies, strict=True):
        default = {"": '""'}.get(str(field.default), field.default)
        own = "; ".join(said for said in each if said not in shared)
        lines.append(f"| `{field.name}` | {default} | {_meaning(field)} | {own} |")
    return "\n".join(lines) + "\n"


def _meaning(field: Field) -> str:
    choices = list(field.meaning.among)
    own = ["MODULE:OBJECT"] if field.meaning.own else []
    return field.meaning.doc + (f" ({', '.join([*choices, *own])})" if choices else "")


def _applies_to(field: Field) -> list[str]:
    """The choices that use the field, or those that do not, whichever are fewer."""
    said = []
    for axis, names in field.only_for.items():
        [every] = [list(other.meaning.among) for other in fields() if other.name == axis]
        if not every:  # a number or a text
            said.append(f"`{axis}`: " + ", ".join(name or '""' for name in names))
        others = [name for name in every if name not in names]
        if others:
            named = ", ".join(names)
            few = f"all except {', '.join(others)}" if 2 * len(others) < len(every) else named
            said.append(f"`{axis}`: {few}")
    return said


if __name__ == "__main__":
    PAGE.write_text(page())
