"""Every loss, in every strategy, on any number of devices, is the dense loss."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, similarities, temperatures
from dystress_jax.errors import ArgumentError
from tests import every_loss

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict_dtypes")]

ROWS, TILE = 5, 3  # of each device: neither these nor those of two views fill their tiles


def make_mesh(devices):
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), auto, devices=jax.devices()[:devices])


def is_loss(name):
    function = getattr(losses, name)
    return inspect.isfunction(function) and "normalize" in inspect.signature(function).parameters


def test_the_table_has_every_loss_with_every_keyword():
    cases = {name: make(ROWS) for name, make in every_loss.CASES.items()}
    public = {name for name in dir(losses) if is_loss(name)}
    assert {name.split(",")[0] for name in cases} == public
    for name in public:
        parameters = inspect.signature(getattr(losses, name)).parameters.values()
        takes = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {*every_loss.ELSEWHERE}
        of_cases = [case.keywords for key, case in cases.items() if key.split(",")[0] == name]
        assert takes <= frozenset().union(*of_cases), name


# The kernels know terms and pairs, not losses: every kind of these, and the plain losses.
IN_KERNELS = (
    *every_loss.PLAIN,
    *("nt_xent, every shape", "rgcl, every shape", "supcon, every shape"),
    *("info_nce, positives", "clip, every shape", "siglip, every shape"),
)
GATHERED = ("nt_xent, every shape", "supcon", "clip, every shape", "siglip, every shape")
# The ring too knows terms and pairs: the plain losses, and what differs in how its rows travel.
ON_RING = (
    *every_loss.PLAIN,
    *("nt_xent, every shape", "nt_xent, three views", "nt_xent, global and local"),
    *("rgcl, every shape", "supcon, every shape", "info_nce, positives", "info_nce, more keys"),
    *("clip, every shape", "clip, labels of both", "siglip, every shape"),
    *("clip, one for each anchor", "clip_rgcl, every shape"),
)
RING_OF_MANY = ("nt_xent", "clip", "siglip")
QUICK = (
    *((name, "ring", 3) for name in ("nt_xent", "supcon", "clip", "siglip")),
    *((name, "dense", 3) for name in every_loss.PLAIN),  # those with a queue
    ("nt_xent, every shape", "ring", 3),
    ("rgcl, every shape", "tiled", 1),
    ("clip, one for each anchor", "ring", 3),
    ("clip, every shape", "fused", 1),
    ("siglip", "fused", 1),
)


def cases():
    """Some plain losses on a ring of three, some with every keyword, and everything in ci.

    The ring, whose program is another with every number of devices, on several of them for some.
    """
    for name in every_loss.CASES:
        has_queue = name.startswith("moco")  # of which nothing travels
        others = ("dense", "tiled") if has_queue else ("tiled",)
        others = (*others, "ring") if name in ON_RING and not has_queue else others
        if name in GATHERED:  # others are the same tiles behind the same gathering
            others = (*others, "gathered")
        for strategy in (*others, *(["fused"] if name in IN_KERNELS else [])):
            on_ring = name in every_loss.PLAIN and strategy == "ring"
            counts = (1, 3, 8) if on_ring and name in RING_OF_MANY else (3,)
            alone = strategy == "fused" or (strategy == "tiled" and not has_queue)
            for devices in (1,) if alone else counts:
                marks = () if (name, strategy, devices) in QUICK else pytest.mark.ci
                yield pytest.param(name, strategy, devices, marks=marks)


@pytest.mark.parametrize(("name", "strategy", "devices"), list(cases()))
def test_values_and_gradients_are_those_of_the_dense_loss(name, strategy, devices):
    """Of embeddings, temperatures, weights, further negatives, scale and bias."""
    case, expected = every_loss.dense(name, devices * ROWS)
    how = {"strategy": strategy, "tile_size": TILE}
    loss = losses.on_mesh(case.loss, make_mesh(devices), **how)
    if strategy in ("tiled", "fused") and devices == 1:
        loss = functools.partial(case.loss, **how)
    found = every_loss.with_gradients(loss)(case.arrays, case.numbers, case.fixed)
    every_loss.assert_same(found, expected, 2e-5)


def test_over_devices_each_has_a_kernel_of_its_own():
    case = every_loss.CASES["nt_xent"](3 * ROWS)
    strategy = losses.gathered("data", within=losses.fused((4, 3)))
    mesh, rows = make_mesh(3), jax.P("data")
    local = lambda a, b: losses.nt_xent(a, b, temperature=0.2, strategy=strategy)
    spread = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    alone = lambda a, b: losses.nt_xent(a, b, temperature=0.2, strategy="dense")
    slope = lambda loss: jax.jit(jax.grad(lambda views: loss(*views).mean()))(case.arrays)
    every_loss.assert_same(slope(spread), slope(alone))
    with pytest.raises(ArgumentError, match=r"^strategy: found fused over several CPU devices"):
        losses.on_mesh(losses.nt_xent, mesh, strategy="fused")(*case.arrays, temperature=0.2)


GPU = {
    "nt_xent": lambda a, b, **how: losses.nt_xent(a, b, temperature=temperatures.temo(), **how),
    "nt_xent, tiny": lambda a, b, **how: losses.nt_xent(a, b, temperature=0.002, **how),
    "nt_xent, where": lambda a, b, **how: losses.nt_xent(
        a, b, temperature=0.1, where=a[:, 0] > 0, **how
    ),
    "supcon": lambda a, b, **how: losses.supcon(
        a, b, labels=jnp.arange(96) % 7, temperature=0.1, **how
    ),
    "rgcl": lambda a, b, **how: losses.rgcl(a, b, temperature=jnp.full(192, 0.1), **how),
    "clip": lambda a, b, **how: losses.clip(a, b, temperature=temperatures.dystress(), **how),
    "siglip": lambda a, b, **how: losses.siglip(a, b, scale=10.0, bias=-3.0, **how),
    "moco": lambda a, b, **how: losses.moco(a, b, a, temperature=0.1, **how),
}


@pytest.mark.parametrize(
    "precision",
    ["bfloat16", *(pytest.param(p, marks=pytest.mark.ci) for p in ("float32", "tensorfloat32"))],
)
@pytest.mark.parametrize("name", GPU)
def test_the_kernels_are_programs_for_nvidia(name, precision, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    view = jax.ShapeDtypeStruct((96, 32), jnp.float32)
    loss = lambda a, b: GPU[name](a, b, strategy="fused", precision=precision).mean()
    step = jax.jit(jax.value_and_grad(loss, (0, 1))).trace(view, view)
    assert "triton" in step.lower(lowering_platforms=("cuda",)).as_text()


def test_the_kernels_of_several_devices_are_programs_for_nvidia(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    view = jax.ShapeDtypeStruct((96, 32), jnp.float32)
    loss = losses.on_mesh(GPU["clip"], make_mesh(3), strategy="fused")
    step = jax.jit(jax.value_and_grad(lambda a, b: loss(a, b).mean(), (0, 1))).trace(view, view)
    assert "triton" in step.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("d", "how", "said"),
    [
        (
            24,
            {},
            r"strategy: found fused with rows of 24 numbers; allowed: a power of two from 16",
        ),
        (32, {"tile_size": 24}, r"tile_size: found \(24, 24\) with fused; allowed: powers of two"),
        (32, {"weights": jnp.ones((96, 96))}, r"strategy: found fused with weights of each pair"),
        (32, {"positives": jnp.zeros((96, 16), int)}, r"strategy: found fused with .* positives"),
    ],
)
def test_what_the_kernels_cannot_do_is_told(d, how, said, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    view = jax.ShapeDtypeStruct((96, d), jnp.float32)
    loss = lambda a, b: losses.info_nce(a, b, temperature=0.1, strategy="fused", **how)
    with pytest.raises(ArgumentError, match=said):
        jax.eval_shape(loss, view, view)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ArgumentError, match=r"strategy: found fused on a tpu; allowed: on NVIDIA"):
        jax.eval_shape(loss, view, view)


@pytest.mark.parametrize("name", every_loss.PLAIN)
def test_the_precision_is_that_of_the_similarity(name):
    case = every_loss.CASES[name](ROWS)
    call = lambda **how: case.loss(*case.arrays, **case.numbers, strategy="dense", **how)
    narrow = similarities.sphere.with_precision("bfloat16")
    found = call(precision="bfloat16")
    np.testing.assert_array_equal(found, call(similarity=narrow))
    assert np.any(np.asarray(found) != call())
