"""What the README, the settings and the menu of the site say is what there is."""

import pathlib
import re

import jax.numpy as jnp
import pytest
import yaml

from dystress_jax import augment, models
from dystress_jax.run import config_files
from dystress_jax.run.fields import fields, groups, may_change_on_resume
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


def rows(page, heading):
    """The tables of a section, a list of cells a row."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    found = re.findall(r"^\|(.*)\|$", text.partition("\n## ")[0], flags=re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in found if "---" not in row][1:]


def test_the_settings_that_may_change_are_those_that_a_run_goes_on_with():
    named = re.findall(r"`([\w.]+)`", str(rows("hosts.md", "What may change")))
    allowed = {field.name for field in fields() if may_change_on_resume(field.name)}
    grouped = [name for name in named if name in groups()]
    of_groups = {field.name for field in fields() if field.name.partition(".")[0] in grouped}
    named.remove("probe.online")  # named as the exception
    assert {*named} - {*grouped} | of_groups - {"probe.online"} == allowed


def test_the_table_of_recipes_is_that_of_the_code():
    table = {}
    for name, make in augment.RECIPES.items():
        recipe = make()
        several = recipe.first != recipe.second
        for which, view in (("first", recipe.first), ("second", recipe.second)):
            strengths = (view.brightness, view.contrast, view.saturation, view.hue)
            jitter = f"{view.jitter:g}: " + ", ".join(f"{x:g}" for x in strengths)
            low, high = view.crop_area
            said = (view.flip, view.jitter and jitter, view.grayscale, view.blur, view.solarize)
            table[f"`{name}`" + (f", {which} view" if several else "")] = [
                "the middle square" if low == high else f"{low:g} to {high:g}",
                *(str(x) if isinstance(x, str) else f"{x:g}" if x else "" for x in said),
            ]
    assert {first: rest for first, *rest in rows("training.md", "Views")} == table


def test_the_table_of_heads_has_all_of_them():
    named = [row[0].strip("`") for row in rows("training.md", "Projection heads")]
    assert named == list(models.HEADS)


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
    assert sorted(named) == sorted(config_files.names())


@pytest.mark.parametrize("page", MARKDOWN, ids=test_pages.name)
def test_links_point_to_files(page):
    """As on GitHub; those of the site, with their anchors, are checked when it is built."""
    for target in re.findall(r"\]\((?!http)([^)#\s]+)[)#]", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_menu_of_the_site():
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = set(re.findall(r"[\w./-]+\.md", str(menu)))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} <= listed
