"""The text transformers against a float64 NumPy oracle, and what padding must not do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax.errors import ArgumentError
from dystress_jax.models import text_transformer
from dystress_jax.models._functional import functional
from dystress_jax.models._text import (
    BidirectionalTransformer,
    CausalTransformer,
    PaddedTransformer,
)
from tests.transformer_oracles import CLIP_EPSILON, blocks, layer_norm, scattered, tanh_gelu

SIZES = {"vocab_size": 20, "context": 9}
# Lengths 5, 3, 2 (no word between start and end) and 0.
IDS = np.array([[1, 5, 6, 7, 2], [1, 9, 2, 0, 0], [1, 2, 0, 0, 0], [0, 0, 0, 0, 0]], np.int32)


@functools.cache
def tiny(pooling, tokens=1, *, remat=False, dtype=jnp.float32):
    """Two blocks of 8 channels."""
    module = CausalTransformer
    if pooling == "cls":
        module = functools.partial(BidirectionalTransformer, class_tokens=tokens)
    build = lambda rngs: module(8, 2, 2, **SIZES, remat=remat, dtype=dtype, rngs=rngs)
    return functional(build, out_features=8 * tokens)


CASES = {"cls": ("cls", 1), "three cls": ("cls", 3), "eot": ("eot", 1)}


@pytest.fixture(params=CASES.values(), ids=list(CASES), scope="module")
def case(request):
    network = tiny(*request.param)
    return network, *scattered(network), *request.param


@functools.cache
def compiled(network):
    return jax.jit(network.apply, static_argnames="train")


def features(network, params, stats, ids):
    return np.asarray(compiled(network)(params, stats, jnp.asarray(ids), train=False)[0])


def oracle(ids, params, *, pooling, tokens, heads=2):
    """Text by text, without any padding."""
    params = jax.tree.map(np.float64, params)
    norm = functools.partial(layer_norm, epsilon=CLIP_EPSILON)
    transform = functools.partial(blocks, epsilon=CLIP_EPSILON)
    found = []
    for row in ids:
        row = [i for i in row if i != 0] or [0]
        row = [row[0]] * (tokens - 1) + row
        x = params["words"]["embedding"][row] + params["positions"][: len(row)]
        if pooling == "cls":
            x = norm(x, params["norm_first"])[None]
            x = transform(x, params["blocks"], heads, norm_first=False)
            found.append(norm(x[0, :tokens], params["norm"]).reshape(-1))
        else:
            before = np.tril(np.ones((1, len(row), len(row))))
            x = transform(x[None], params["blocks"], heads, seen=before)
            found.append(norm(x[0, -1], params["norm"]))
    return np.stack(found)


@pytest.mark.parametrize("pooling", ["cls", "eot"])
def test_at_its_initial_values_it_has_the_epsilon_of_clip(pooling):
    """Tokens are so short then that 1e-6 in place of 1e-5 changes features by 1 %."""
    network = tiny(pooling)
    params, stats = jax.jit(network.init)(jax.random.key(0))
    found = features(network, params, stats, IDS)
    expected = oracle(IDS, params, pooling=pooling, tokens=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_network_equals_a_float64_oracle_that_never_saw_padding(case):
    network, params, stats, pooling, tokens = case
    expected = oracle(IDS, params, pooling=pooling, tokens=tokens)
    found = features(network, params, stats, IDS)
    assert found.shape == (4, 8 * tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_siglips_last_position_sees_all_of_the_context():
    """Against float64, with the id that stands behind a text put in by hand."""
    build = lambda rngs: PaddedTransformer(
        *(8, 2, 2), **SIZES, padding=2, remat=False, dtype=jnp.float32, rngs=rngs
    )
    network = functional(build, out_features=8)
    params, stats = scattered(network)
    wide = jax.tree.map(np.float64, params)
    filled = np.pad(IDS, ((0, 0), (0, 4)))
    x = wide["words"]["embedding"][np.where(filled == 0, 2, filled)] + wide["positions"]
    x = blocks(x, wide["blocks"], 2, gelu=tanh_gelu)
    expected = layer_norm(x[:, -1], wide["norm"])
    for ids in (IDS, filled):
        found = features(network, params, stats, ids)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_more_padding_changes_nothing(case):
    network, params, stats, *_ = case
    padded = np.pad(IDS, ((0, 0), (0, 4)))
    np.testing.assert_allclose(
        features(network, params, stats, padded),
        features(network, params, stats, IDS),
        rtol=1e-6,
        atol=1e-6,
    )


def test_the_embedding_of_padding_gets_no_gradient(case):
    """Every other parameter in use does, and all of them are finite, also for an empty text."""
    network, params, stats, _, tokens = case
    target = np.random.default_rng(2).normal(size=(4, 8 * tokens)).astype(np.float32)
    loss = lambda params, ids: jnp.sum(target * network.apply(params, stats, ids, train=True)[0])
    gradient = jax.jit(jax.grad(loss))
    empty_too = gradient(params, jnp.asarray(IDS))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(empty_too))
    words = IDS.copy()
    words[3] = [1, 12, 13, 2, 0]
    found = gradient(params, jnp.asarray(words))
    embedding = found["words"].pop("embedding")
    used = np.isin(np.arange(20), np.setdiff1d(words, [0]))
    assert not np.any(embedding[~used])
    assert np.all(np.any(np.abs(embedding[used]) > 1e-7, axis=1))
    positions = found.pop("positions")
    seen = 5 + tokens - 1
    assert not np.any(positions[seen:])
    assert np.all(np.any(np.abs(positions[:seen]) > 1e-7, axis=1))
    for path, leaf in jax.tree.leaves_with_path(found):
        share = 0.6 if "'qkv']['bias']" in jax.tree_util.keystr(path) else 0.99
        assert np.mean(np.abs(leaf) > 1e-7) > share, path


def test_copies_of_the_class_token_differ_by_their_position_only():
    network = tiny("cls", 3)
    params, stats = scattered(network)
    split = lambda params: features(network, params, stats, IDS).reshape(4, 3, 8)
    different = split(params)
    assert np.abs(different[:, 0] - different[:, 1]).max() > 1e-2
    params["positions"] = params["positions"].at[:3].set(params["positions"][:1])
    alike = split(params)
    np.testing.assert_allclose(alike[:, 1:], alike[:, :1].repeat(2, axis=1), rtol=1e-5, atol=1e-6)


def test_a_causal_network_does_not_see_what_follows_and_the_other_does():
    """A token after the pooled one: behind [CLS] it matters, behind the end it is another end."""
    longer = np.array([[1, 5, 6, 7, 2], [1, 5, 6, 0, 0]], np.int32)
    params, stats = scattered(tiny("cls"))
    a, b = features(tiny("cls"), params, stats, longer)
    assert np.abs(a - b).max() > 1e-3
    params, stats = scattered(tiny("eot"))
    alone = features(tiny("eot"), params, stats, longer[1:])
    together = features(tiny("eot"), params, stats, longer)
    np.testing.assert_allclose(together[1:], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.ci
def test_rematerialised_gradients_are_the_same():
    params, stats = scattered(tiny("cls"))
    ids = jnp.asarray(IDS)
    loss = lambda network: lambda p: jnp.sum(network.apply(p, stats, ids, train=True)[0] ** 3)
    kept = jax.jit(jax.grad(loss(tiny("cls"))))(params)
    again = jax.jit(jax.grad(loss(tiny("cls", remat=True))))(params)
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "eot"])
def test_bfloat16_computes_close_to_float32_and_keeps_parameters_wide(pooling):
    params, stats = scattered(tiny(pooling))
    expected = features(tiny(pooling), params, stats, IDS)
    found = features(tiny(pooling, dtype=jnp.bfloat16), params, stats, IDS)
    assert found.dtype == np.float32
    assert np.any(found != expected)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.1)


def test_an_id_outside_of_the_vocabulary_is_not_taken_for_another():
    params, stats = scattered(tiny("cls"))
    ids = np.array([[1, 20, 2], [1, 19, 2], [1, -1, 2]], np.int32)
    found = features(tiny("cls"), params, stats, ids)
    assert np.all(np.isnan(found[[0, 2]]))
    assert np.all(np.isfinite(found[1]))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "gpt"}, "name: found 'gpt'; allowed: text_micro, .*text_base"),
        ({"pooling": "mean"}, "pooling: found 'mean'; allowed: cls, eot"),
        ({"vocab_size": 0}, "vocab_size: found 0; allowed: at least 1"),
        ({"context": 0}, "context: found 0; allowed: at least 1"),
        ({"class_tokens": 0}, "class_tokens: found 0; allowed: at least 1"),
        ({"pooling": "eot", "class_tokens": 4}, "class_tokens: found 4 with `pooling` 'eot'"),
        ({"pooling": "last", "class_tokens": 4}, "class_tokens: found 4 with `pooling` 'last'"),
        ({"pooling": "last", "quick_gelu": True}, "quick_gelu: found True with `pooling` 'last'"),
        ({"pooling": "eot", "padding": 2}, "padding: found 2 with `pooling` 'eot'; allowed: 0"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        text_transformer(**{"name": "text_micro", "vocab_size": 20, **keywords})


@pytest.mark.parametrize("pooling", ["cls", "eot"])
@pytest.mark.parametrize("t", [0, 10])
def test_texts_that_do_not_fit_are_refused_with_the_numbers(pooling, t):
    params, stats = jax.eval_shape(tiny(pooling).init, jax.random.key(0))
    ids = jax.ShapeDtypeStruct((1, t), jnp.int32)
    message = rf"context: found 9 with token ids of shape \(1, {t}\)"
    with pytest.raises(ArgumentError, match=message):
        jax.eval_shape(functools.partial(tiny(pooling).apply, train=True), params, stats, ids)
