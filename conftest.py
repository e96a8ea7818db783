"""Eight simulated devices, strict shapes and one compilation cache for every test."""

import functools
import gc
import importlib
import os
import pathlib
import tempfile

import jax
import jaxtyping
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir

# Scripts with arguments and needs of their own, not tests.
collect_ignore = ["tests/fixtures", "tests/site", "tests/wheel"]

jax.config.update("jax_num_cpu_devices", 8)
# Devices that wait for each other hold a thread each: there must be more threads than devices.
os.environ.setdefault("PJRT_NPROC", "16")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most programs run once: compiling them takes longer than running. With =0 as users compile them.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
    # The older way to write the loops is quicker to compile by a quarter.
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false"]
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
# Tracing makes millions of objects that stay: looking for cycles among them took a twelfth of the
# time.
gc.set_threshold(100_000, 50, 50)
# Workers and repeated runs compile the same programs: keep them.
CACHE = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(tempfile.gettempdir(), "dystress_jax_test_cache"))
)
# The processes that tests start repeat a few programs: keep all that they compile.
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

_kept = compiler._resolve_compilation_strategy


def _kept_if_of_one_device(computation, devices, compile_options, *args):
    """A program of several CPU devices that was kept has lost the order of its collectives.

    With jaxlib 0.10 its devices then wait for each other, and XLA aborts after 40 s. So it has no
    key, and no time is spent on writing it.
    """
    if devices.size > 1:
        return None, compile_options
    return _kept(computation, devices, compile_options, *args)


compiler._resolve_compilation_strategy = _kept_if_of_one_device

# Programs that are written down in one context need no new one each: a fifth of the time of tests
# that call single operations.
mlir.make_ir_context = functools.cache(mlir.make_ir_context)


def pytest_xdist_auto_num_workers():
    """Compiling, which takes most of the time, keeps one core busy; a worker needs up to 2 GB."""
    return min(os.cpu_count() or 1, 8)


def pytest_collection_modifyitems(items):
    """The long files first, so that neither worker waits for the other at the end."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and "runs/" in item.dtest.docstring:
            item.add_marker("ci")  # an example that has, or makes, a run
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def example_directory(request):
    """Examples of docstrings write files, and read those of runs, in a directory of their own."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    directory = request.getfixturevalue("tmp_path")
    request.getfixturevalue("monkeypatch").chdir(directory)
    docstring = request.node.dtest.docstring
    if "runs/" in docstring:
        examples = importlib.import_module("tests.examples")
        with jax.numpy_rank_promotion("allow"):
            examples.prepare(docstring, directory)


@pytest.fixture
def strict_dtypes():
    """Refuse implicit dtype promotion; for the pure library only, flax and optax rely on it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="module")
def one_device():
    """Runs on one of the devices: what they compile is smaller, and is kept."""
    sharding = importlib.import_module("dystress_jax.sharding")
    make_mesh = sharding.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def quick_processes():
    """The processes that a test starts compile without most optimisations too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield


@pytest.fixture
def unchecked_shapes():
    """Users run without runtime shape checks: there our own errors must come."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
