"""The pages are programs: their blocks run one after another, and print what the pages show."""

import contextlib
import doctest
import io
import pathlib
import re
import sys
import textwrap

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
# Their blocks are files, sources of data, or commands: tests of their own run them.
ELSEWHERE = ("extending.md", "data.md")
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if "```python\n" in page.read_text(encoding="utf-8")
    and page.parent.name != "tutorials"  # `test_notebooks.py`
    and page.name not in ELSEWHERE
]


def name(page):
    return str(page.relative_to(ROOT))


def program(page):
    """The blocks of a page, so that an error names its line there; after each, what it shows."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in BLOCK.finditer(text):
        kind, content = block.groups()
        if kind == "python":
            found.append(("\n" * text[: block.start()].count("\n") + "\n" + content, ""))
        elif found:  # a block of text before any code is no output
            found[-1] = (found[-1][0], content)
    return found


def run(page, namespace):
    for code, shown in program(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), jax.numpy_rank_promotion("allow"):
            exec(compile(code, str(page), "exec"), namespace)
        same = doctest.OutputChecker().check_output(shown, printed.getvalue(), doctest.ELLIPSIS)
        assert same, f"{name(page)} shows\n{shown}but its code prints\n{printed.getvalue()}"


@pytest.mark.ci
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_a_page_runs_and_prints_what_the_page_shows(page):
    run(page, {"__name__": "page"})


def test_what_a_page_shows_must_be_what_its_code_prints(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    page = tmp_path / "page.md"
    shown = textwrap.dedent("""
        ```python
        print(1 + 1)
        ```

        ```text
        2
        ```
    """)
    page.write_text(shown)
    run(page, {})
    page.write_text(shown.replace("\n2\n", "\n3\n"))
    with pytest.raises(AssertionError, match=r"page\.md shows\s+3\s+but its code prints\s+2"):
        run(page, {})
