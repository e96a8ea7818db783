"""What the README says is what the code does."""

import pathlib
import re

import jax.numpy as jnp

from dystress_jax.run import cli
from dystress_jax.run.fields import fields
from tools import settings_table

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_of_settings_is_complete_and_true():
    assert settings_table.written(README) == README
    for field in fields():
        assert f"| `{field.name}` |" in README


def test_the_python_example_runs():
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(code, names)
    assert names["weights"].shape == (8, 4)
    assert 0 < names["value"] < names["loss"](jnp.eye(8, 4), names["views_a"], names["views_b"])


def test_every_config_that_is_named_exists_and_every_one_is_named():
    named = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
    existing = set(cli.config_names())
    assert existing <= named


def test_links_point_to_files():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
