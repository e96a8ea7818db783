"""The pages for those who come from another library: what their tables name is there, and runs."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from dystress_jax import losses, schemes, temperatures
from dystress_jax.run.fields import fields, groups

PAGES = sorted((pathlib.Path(__file__).parents[1] / "docs" / "migration").glob("*.md"))
FIELDS = {field.name: field for field in fields()}
PURE = ("losses.", "temperatures.", "schemes.")


def cells(page):
    """What the second column of each table has in code: ours."""
    for row in re.findall(r"^\| .* \|$", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        _, ours, *_ = row.strip("|").split("|")
        yield from re.findall(r"`([^`]+)`", ours)


CODE = sorted({(page.stem, code) for page in PAGES for code in cells(page)})
CALLS = [each for each in CODE if each[1].startswith(PURE)]
SETTINGS = [
    (name, code)
    for name, code in CODE
    if code.partition("=")[0] in FIELDS
    or (re.fullmatch(r"\w+\.\w+(=\S+)?", code) and code.split(".")[0] in groups())
]


def test_the_tables_are_read():
    assert {name for name, _ in CALLS} == {"lightly", "open-clip", "optax"}
    assert {name for name, _ in SETTINGS} == {"lightly", "open-clip", "solo-learn"}
    assert len(CALLS) > 10
    assert len(SETTINGS) > 40


@pytest.mark.parametrize("code", [code for _, code in CALLS])
def test_a_call_of_a_table_can_be_made(code):
    view = jax.random.normal(jax.random.key(0), (4, 8))
    given = {
        **{"losses": losses, "temperatures": temperatures, "schemes": schemes},
        **{"a": view, "b": view[::-1], "images": view, "texts": view + 1.0, "queue": view - 1.0},
        **{"t": 0.2, "s": 0.5, "x": 0.5, "y": 0.0, "scale": 10.0, "bias": -10.0},
        **{"log_scale": jnp.log(10.0), "mesh": jax.make_mesh((8,), ("data",))},
    }
    made = eval(code.replace("(...)", "(0.1, 0.2)"), given)
    if code.endswith(".mean()"):
        assert made.shape == ()
        assert jnp.isfinite(made)
    else:
        assert callable(made) or isinstance(made, schemes.Scheme)


@pytest.mark.parametrize("code", [code for _, code in SETTINGS])
def test_a_setting_of_a_table_is_one(code):
    name, _, value = code.partition("=")
    assert name in FIELDS, name
    choices = FIELDS[name].meaning.among
    assert not value or not choices or value in choices
