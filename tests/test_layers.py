"""Imports point one way, and the base install stays light."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "dystress_jax"

# From the ground up. A module imports from lower layers only; a package is one module here.
LAYERS = [
    {"errors"},
    {"temperatures", "similarities"},
    {"losses", "metrics"},
    {"schemes", "models", "augment", "data", "optim", "sharding"},
    {"config", "report", "checkpoint", "interrupt"},
    {"methods", "evaluation"},
    {"state"},
    {"step", "objective", "networks", "vocabulary"},
    {"experiment"},
    {"image_text"},
    {"trainer", "evaluator", "command_line"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
READS_CONFIG = {
    "config",
    "objective",
    "networks",
    "vocabulary",
    "experiment",
    "image_text",
    "trainer",
    "evaluator",
    "command_line",
}


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    """The top-level modules of this package that a file imports."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            parents = path.relative_to(PACKAGE).parts[: depth - node.level]
            parts = [*parents, *(node.module or "").split(".")] if node.module else list(parents)
            yield from [parts[0]] if parts else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "dystress_jax":
                yield from parts[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("dystress_jax."):
                    yield alias.name.split(".")[1]


@each_file
def test_imports_point_to_lower_layers(path):
    here = room(path)
    assert here in LEVEL, f"say in LAYERS where {here} belongs"
    for imported in imported_rooms(path):
        if imported != here:
            assert LEVEL[imported] < LEVEL[here], f"{here} imports {imported}"


@each_file
def test_only_the_edge_reads_the_config(path):
    if "config" in imported_rooms(path):
        assert room(path) in READS_CONFIG


def test_importing_the_package_loads_jax_and_jaxtyping_only():
    heavy = (
        "flax optax grain orbax ml_collections tensorflow tensorflow_datasets matplotlib PIL "
        "sklearn tqdm tensorboardX absl dm_pix beartype tokenizers"
    )
    code = (
        "import sys, dystress_jax as dx; dx.losses.nt_xent; dx.metrics.alignment; "
        f"print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert done.stdout.strip() == "[]"
