"""Write the table of settings into README.md: python tools/settings_table.py."""

import pathlib

from dystress_jax.run.fields import Field, fields

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings: python tools/settings_table.py -->\n", "<!-- end of the settings -->"


def table() -> str:
    """One row a field: its name, its default, its meaning and what it applies to."""
    lines = ["| field | default | meaning | applies to |", "|---|---|---|---|"]
    for field in fields():
        default = {"": '""'}.get(str(field.default), field.default)
        lines.append(f"| `{field.name}` | {default} | {_meaning(field)} | {_applies_to(field)} |")
    return "\n".join(lines) + "\n"


def _meaning(field: Field) -> str:
    choices = list(field.limits["among"])
    own = ["MODULE:OBJECT"] if field.limits["own"] else []
    return field.limits["doc"] + (f" ({', '.join([*choices, *own])})" if choices else "")


def _applies_to(field: Field) -> str:
    """The choices that use the field, or those that do not, whichever are fewer."""
    said = []
    for axis, names in field.only_for.items():
        [every] = [list(other.limits["among"]) for other in fields() if other.name == axis]
        if not every:  # a number or a text
            said.append(f"`{axis}`: " + ", ".join(name or '""' for name in names))
        others = [name for name in every if name not in names]
        if others:
            named = ", ".join(names)
            few = f"all but {', '.join(others)}" if 2 * len(others) < len(every) else named
            said.append(f"`{axis}`: {few}")
    return "; ".join(said)


def written(readme: str) -> str:
    """The README with today's table."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
