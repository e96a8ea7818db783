"""Tables in the documents are those of the commands that they name."""

import json
import pathlib
import re

import jax
import optax
import pytest

from benchmarks.loss import finite, report

DOCS = pathlib.Path(__file__).parents[1] / "docs"
GUIDE = DOCS / "loss-guide.md"


@pytest.mark.ci
def test_the_table_of_gradients_that_are_not_finite_is_the_one_of_its_command():
    (shown,) = re.findall(r"<!-- finite -->\n(.*)\n<!-- /finite -->", GUIDE.read_text(), re.DOTALL)
    if f"optax {optax.__version__}, jax {jax.__version__}." in shown:
        assert finite.markdown() == shown
    else:  # what others do may change, ours may not
        assert not any("".join(cells) for cells in finite.table(finite.ours).values())


def test_the_page_of_results_is_made_from_the_measured_numbers():
    measured = json.loads((DOCS / "results" / "loss.json").read_text())
    assert report.markdown(measured) == (DOCS / "results" / "loss.md").read_text()
