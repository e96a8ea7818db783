"""The tutorials as notebooks: made of their pages, and run from the first cell to the last."""

import os
import pathlib
import re
import resource
import subprocess
import sys

import nbformat
import pytest

from tests import test_pages
from tools import notebooks

MOST_SECONDS = 2 * 120  # two minutes on two cores


@pytest.mark.parametrize("page", notebooks.TUTORIALS, ids=lambda page: page.stem)
def test_a_notebook_has_all_that_its_page_has(page):
    made = notebooks.notebook(page)
    nbformat.validate(made)
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    assert code == [block.strip("\n") for block, _ in test_pages.program(page)]
    text = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert "](../" not in text, "a link that leads nowhere"
    written = test_pages.BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = lambda text: re.findall(r"^##* .*", text, flags=re.MULTILINE)
    assert headings(text) == headings(written)
    pictures = [name for cell in made.cells for name in cell.get("attachments", {})]
    assert pictures == re.findall(r"attachment:(\S+)\)", text)
    assert len(pictures) == written.count("](../images/")


@pytest.mark.ci
@pytest.mark.parametrize("page", notebooks.TUTORIALS, ids=lambda page: page.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last_in_an_empty_directory(page, tmp_path):
    path = tmp_path / f"{page.stem}.ipynb"
    nbformat.write(notebooks.notebook(page), path)
    before = computed()
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("jupyter-execute"), "--inplace", str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = nbformat.read(path, as_version=4)
    cells = [cell for cell in run.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert computed() - before < MOST_SECONDS


def computed():
    """Seconds that the processes of this one have computed, on all cores together."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
