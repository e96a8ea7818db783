"""What the README, the settings and the menu of the site say is what there is."""

import pathlib
import re

import jax.numpy as jnp
import pytest
import yaml

from dystress_jax.run import cli
from dystress_jax.run.fields import fields
from tests import test_pages
from tools import settings_table

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def test_the_page_of_settings_is_complete_and_true():
    page = settings_table.PAGE.read_text(encoding="utf-8")
    assert page == settings_table.page()
    for field in fields():
        assert f"| `{field.name}` |" in page


def test_the_loss_of_the_readme_is_ten_lines_and_learns():
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.splitlines()) <= 10
    names = {}
    exec(code, names)
    learned, views = names["weights"], (names["view_a"], names["view_b"])
    assert 0 < names["loss"](learned, *views) < names["loss"](jnp.eye(8, 4), *views)


def test_every_config_that_is_named_exists_and_every_one_is_named():
    page = (DOCS / "configs.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert sorted(named) == sorted(cli.config_names())


@pytest.mark.parametrize("page", MARKDOWN, ids=test_pages.name)
def test_links_point_to_files(page):
    """As on GitHub; those of the site, with their anchors, are checked when it is built."""
    for target in re.findall(r"\]\((?!http)([^)#\s]+)[)#]", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_menu_of_the_site():
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = set(re.findall(r"[\w./-]+\.md", str(menu)))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} <= listed
