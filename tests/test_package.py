"""What is around the code: the version, the README elsewhere, the citation, forms, the image."""

import importlib.metadata
import json
import pathlib
import re
import shlex
import tomllib
import types

import pytest
import yaml

import dystress_jax
from dystress_jax import errors

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read_yaml(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "dystress_jax/__init__.py"
    assert read_yaml(ROOT / "CITATION.cff")["version"] == dystress_jax.__version__
    for text in (README, (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")):
        assert f"dystress_jax {dystress_jax.__version__} |" in text


def test_the_citation_says_what_the_format_asks_for():
    citation = read_yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["project"]["license"]
    for work in (citation, *citation["references"]):
        assert all({"name", "family-names"} & author.keys() for author in work["authors"])


def elsewhere():
    """The README as the package has it."""
    text = README
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    return text


def test_the_readme_has_no_dead_links_outside_the_repository():
    """The repository has no address yet: words stay, links go."""
    text = elsewhere()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert all(link.startswith(("https://", "#")) for link in links), links
    assert "Coming from another library: lightly, solo-learn," in " ".join(text.split())
    without = lambda source: re.findall(r"```.*?```", source, flags=re.DOTALL)
    assert without(text) == without(README)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_the_forms_of_issues_are_forms(path):
    form = read_yaml(path)
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} == form.keys()
    assert len({part["id"] for part in form["body"]}) == len(form["body"])
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert part["attributes"]["label"]


def instructions():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line.split(maxsplit=1) for line in lines]


def test_the_image_is_made_of_what_is_there():
    """What hadolint asks for, and what it cannot know."""
    found = instructions()
    allowed = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    for kind, rest in found:
        if kind == "FROM":
            assert re.fullmatch(r"\S+:(?!latest)\S+", rest)
        if kind == "COPY":
            *sources, _ = shlex.split(rest)
            assert set(sources) <= set(allowed)
            assert all((ROOT / source).exists() for source in sources)
        if kind == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest
            named = re.findall(r"\.\[([\w,]+)\]", rest)[0].split(",")
            assert set(named) <= PROJECT["project"]["optional-dependencies"].keys()
        if kind in ("ENTRYPOINT", "CMD"):
            assert rest.startswith("[")
    needed = [*PROJECT["project"]["license-files"], "README.md", "pyproject.toml"]
    copied = {source for kind, rest in found if kind == "COPY" for source in rest.split()[:-1]}
    assert {path.split("/")[0] for path in needed} <= copied


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'dystress-jax[report]'"),
        ({"url": "https://a.b/c.whl", "archive_info": {}}, "pip install 'dystress-jax[report]'"),
        (
            {"url": "file:///my%20code/dystress", "dir_info": {"editable": True}},
            "pip install -e '/my code/dystress[report]'",
        ),
        ({"url": "file:///code", "dir_info": {}}, "pip install '/code[report]'"),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came_from(monkeypatch, origin, command):
    told = types.SimpleNamespace(read_text=lambda name: origin and json.dumps(origin))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: told)
    assert errors.how_to_install("report") == command


def test_without_the_package_an_extra_is_installed_from_an_index(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert errors.how_to_install("hf") == "pip install 'dystress-jax[hf]'"
