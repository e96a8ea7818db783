"""Imports point one way, lower layers know no settings, and the base install stays light."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from dystress_jax import data, methods, run, schemes
from dystress_jax.run.fields import fields
from dystress_jax.training import abstract_state, make_train_step
from tests import steps

PACKAGE = pathlib.Path(__file__).parent.parent / "dystress_jax"

# From the ground up. A module imports from lower layers only; a package is one module here.
LIBRARY = [
    {"errors", "_order", "_placement"},
    {"temperatures", "similarities", "gradcache"},
    {"losses", "metrics"},
    {"schemes"},
]
PARTS = [
    {"files", "run_files"},
    {"_pca", "optim", "sharding", "models", "augment", "data"},
    {"microscope"},
    {"methods", "evaluation", "weights"},
]
LAYERS = [
    *LIBRARY,
    *PARTS,
    {"training"},
    {"run", "explorer"},
    {"report"},
    {"configs"},
    {"commands"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """What a file imports of this package: the parts of each dotted name."""
    here = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level]) if node.level else []
            parts = [*base, *(node.module.split(".") if node.module else [])]
            if not node.level:
                if parts[0] != "dystress_jax":
                    continue
                parts = parts[1:]
            for alias in node.names:
                yield (*parts, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("dystress_jax."):
                    yield tuple(alias.name.split(".")[1:])


@each_file
def test_imports_point_to_lower_layers(path):
    here = room(path)
    assert here in LEVEL, f"say in LAYERS where {here} belongs"
    for there, *_ in imported(path):
        if there != here:
            assert LEVEL[there] < LEVEL[here], f"{here} imports {there}"


def test_no_two_modules_import_each_other():
    modules = {path.relative_to(PACKAGE).with_suffix("").parts for path in FILES}
    graph = {
        module: {
            target[:length]
            for target in imported(PACKAGE.joinpath(*module).with_suffix(".py"))
            for length in range(1, len(target) + 1)
            if target[:length] in modules
        }
        for module in modules
        if module[-1] != "__init__"
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index(("run", "config")) < order.index(("run", "checks"))


@pytest.mark.parametrize("folder", ["losses", "run"])
def test_modules_stand_on_the_page_of_the_architecture_after_all_that_they_import(folder):
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    entry = re.search(rf"^ {{6}}{folder}/ .*\n(?:^ {{8}}.*\n)*", page, re.MULTILINE)
    modules = {path.stem: path for path in FILES if path.parent == PACKAGE / folder}
    names = entry[0] if folder == "losses" else re.sub(r"(?m)(?<=\w) {2,}.*$", "", entry[0])
    order = [name for name in dict.fromkeys(re.findall(r"\w+", names)) if name in modules]
    assert {*order, "__init__"} == {*modules}
    for place, name in enumerate(order):
        needed = {there[1] for there in imported(modules[name]) if there[0] == folder}
        assert needed & modules.keys() <= set(order[:place]), name


@each_file
def test_below_run_nothing_knows_the_name_of_a_field(path):
    if LEVEL[room(path)] >= LEVEL["run"]:
        return
    names = [re.escape(field.name) for field in fields() if "." in field.name]
    # Modules have functions of the same names, such as `augment.size(`.
    pattern = rf"(?<![\w.])(?:config\.\w+|(?:{'|'.join(names)})(?![\w(.]))"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = re.search(pattern, re.sub(r"jax\.config\.|\bconfig\.json", "", node.value))
            assert found is None, f"line {node.lineno}: {found and found[0]}"


def test_importing_the_package_loads_jax_and_jaxtyping_only():
    heavy = (
        "flax optax grain orbax ml_collections tensorflow tensorflow_datasets matplotlib PIL "
        "sklearn tqdm tensorboardX absl dm_pix beartype tokenizers bokeh"
    )
    code = (
        "import sys, dystress_jax as dx; dx.losses.nt_xent; dx.metrics.alignment; "
        f"print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    )
    assert loaded(code) == "[]"


def test_help_of_the_command_loads_nothing():
    code = (
        "import sys, dystress_jax.__main__ as program; program.main(['dystress', '--help']); "
        "print(sorted({'jax', 'numpy', 'absl', 'flax'} & set(sys.modules)))"
    )
    said = loaded(code)
    assert said.startswith("Contrastive learning")
    assert said.endswith("[]")


def loaded(code):
    """What a new process says."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return done.stdout.strip()


IMAGES = np.zeros((32, 8, 8, 3), np.uint8)
SOURCE = data.Source(
    read=lambda rows: (IMAGES[rows], np.int32(rows % 3)),
    index=np.arange(32, dtype=np.int32),
    image_shape=(8, 8, 3),
    class_names=("a", "b", "c"),
)
ENDS = "training/step.train_step", "losses/_partition.logits"


@pytest.mark.parametrize("method", ["simclr", "moco_v3"])
def test_at_most_a_dozen_frames_lie_between_the_step_and_a_logit(method):
    """Of the dense loss on one device, with the probe beside it; traced, never compiled."""
    settings = {"method": method, "batch_size": 16, "model": {"stem": "cifar"}}
    made = steps.make(run.from_config_dict({**settings, "epochs": 1}), SOURCE)
    stacks = []

    def temperature(similarity):
        frame, names = sys._getframe(1), []
        while frame is not None:
            path = pathlib.Path(frame.f_code.co_filename)
            if PACKAGE in path.parents:
                module = path.relative_to(PACKAGE).with_suffix("")
                names.insert(0, f"{module}.{frame.f_code.co_name}")
            frame = frame.f_back
        stacks.append(names)
        return 0.1 + 0 * similarity

    scheme = schemes.fixed(temperature)
    learned, mesh = methods.with_online_probe(made.method, 3), made.mesh
    optimizer = optax.sgd(0.1)
    state = abstract_state(learned, optimizer, scheme=scheme, mesh=mesh)
    step = make_train_step(learned, optimizer, lambda step: 0.1, scheme=scheme, mesh=mesh)
    step.trace(state, jax.eval_shape(lambda: SOURCE.gather(np.arange(16))))
    to_logits = [names for names in stacks if all(end in names for end in ENDS)]
    assert to_logits
    for names in to_logits:
        first, last = (names.index(end) for end in ENDS)
        assert last - first - 1 <= 12, names[first : last + 1]
