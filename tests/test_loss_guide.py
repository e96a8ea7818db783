"""The loss guide is a program: its blocks run one after another, and print what it says."""

import pathlib
import re

import jax
import optax

from benchmarks.loss import finite

GUIDE = pathlib.Path(__file__).parents[1] / "docs" / "loss-guide.md"


def test_every_example_runs_and_prints_what_the_guide_shows(capsys):
    text = GUIDE.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) > 8
    namespace = {"__name__": "guide"}
    for block in blocks:
        line = text[: text.index(block)].count("\n")
        code = compile("\n" * line + block, str(GUIDE), "exec")  # errors name the line of the guide
        with jax.numpy_rank_promotion("allow"):  # as for every user
            exec(code, namespace)
    (shown,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    assert capsys.readouterr().out == shown


def test_the_table_of_gradients_that_are_not_finite_is_the_one_of_its_command():
    (shown,) = re.findall(r"<!-- finite -->\n(.*)\n<!-- /finite -->", GUIDE.read_text(), re.DOTALL)
    if f"optax {optax.__version__}, jax {jax.__version__}." in shown:
        assert finite.markdown() == shown
    else:  # what others do may change, ours may not
        assert not any("".join(cells) for cells in finite.table(finite.ours).values())
