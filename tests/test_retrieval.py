"""Retrieval against a plain count, on embeddings whose neighbours are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import metrics, similarities
from dystress_jax.evaluation import retrieval_chance, retrieval_ranks, retrieval_recalls
from tests import oracles

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(30, 6)).astype(np.float32)
OWNER = np.r_[np.arange(30), RNG.integers(0, 30, 40)].astype(np.int32)  # 1 to several texts each
TEXTS = (IMAGES[OWNER] + 0.8 * RNG.normal(size=(70, 6))).astype(np.float32)


def expected_recalls(s, ks):
    """From the matrix of similarities: sort, and look whether a right one is among the first k."""
    found = {}
    for k in ks:
        first = np.argsort(-s, axis=1)[:, :k]
        hits = [i in OWNER[texts] for i, texts in enumerate(first)]
        found[f"image_to_text_recall_at_{k}"] = np.mean(hits)
    for k in ks:
        first = np.argsort(-s.T, axis=1)[:, :k]
        hits = [owner in images for owner, images in zip(OWNER, first, strict=True)]
        found[f"text_to_image_recall_at_{k}"] = np.mean(hits)
    return found


def oblique_oracle(tokens):
    split = lambda x: oracles.unit(np.float64(x).reshape(-1, 6 // tokens)).reshape(len(x), -1)
    return split(IMAGES) @ split(TEXTS).T


@pytest.mark.parametrize("tokens", [1, 3])
def test_recalls_equal_a_plain_count(tokens):
    similarity = similarities.oblique(tokens)
    found = retrieval_recalls(
        jnp.asarray(IMAGES), jnp.asarray(TEXTS), text_groups=OWNER, similarity=similarity
    )
    expected = expected_recalls(oblique_oracle(tokens), (1, 5, 10))
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert 0 < value <= 1
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_the_similarity_decides():
    """By the distance in place of the angle: short rows are near to each other."""
    keys = jnp.array([[10.0, 0.0], [0.0, 0.5]])
    query, group = jnp.array([[1.0, 0.0]]), jnp.array([0])
    groups = jnp.array([0, 1])
    assert retrieval_ranks(query, keys, group, groups).tolist() == [0]
    by_distance = similarities.euclidean
    assert retrieval_ranks(query, keys, group, groups, similarity=by_distance).tolist() == [1]


def test_one_text_an_image_is_the_recall_of_the_metrics():
    images, texts = jnp.asarray(IMAGES), jnp.asarray(TEXTS[:30])
    found = retrieval_recalls(images, texts, ks=[3])
    np.testing.assert_allclose(
        list(found.values()),
        [metrics.recall_at_k(images, texts, k=3), metrics.recall_at_k(texts, images, k=3)],
    )


def test_ties_and_nan_count_against_the_query_and_right_keys_do_not_compete():
    collapsed = retrieval_recalls(jnp.ones((12, 4)), jnp.ones((12, 4)))
    assert set(collapsed.values()) == {0.0}
    nan = retrieval_recalls(jnp.full((12, 4), jnp.nan), jnp.ones((12, 4)))
    assert set(nan.values()) == {0.0}
    group = jnp.zeros(4, jnp.int32)
    assert retrieval_ranks(jnp.eye(4), jnp.eye(4), group, group).tolist() == [0, 0, 0, 0]
    # A query of a group that no key belongs to: all keys are before the right one.
    assert retrieval_ranks(jnp.eye(4), jnp.eye(4), group + 1, group).tolist() == [4, 4, 4, 4]


def test_chunks_change_nothing():
    arguments = (IMAGES, TEXTS, np.arange(30, dtype=np.int32), OWNER)
    ranks = [
        retrieval_ranks(*map(jnp.asarray, arguments), chunk_size=size).tolist() for size in (7, 256)
    ]
    assert ranks[0] == ranks[1]


def test_a_k_above_the_number_of_keys_is_left_out_in_its_direction():
    found = retrieval_recalls(
        jnp.asarray(IMAGES), jnp.asarray(TEXTS), text_groups=OWNER, ks=(30, 31, 71)
    )
    expected = expected_recalls(oblique_oracle(1), (30, 31))
    del expected["text_to_image_recall_at_31"]  # of 30 images
    assert found == pytest.approx(expected)
    chance = retrieval_chance(np.arange(30), OWNER, ks=(30, 31, 71))
    assert list(chance) == list(found)


def test_chance_is_the_recall_of_guessing():
    right = np.arange(30)[:, None] == OWNER
    chance = retrieval_chance(np.arange(30), OWNER, ks=(1, 5, 30))
    assert chance["image_to_text_recall_at_1"] == pytest.approx(right.mean())
    assert chance["text_to_image_recall_at_5"] == pytest.approx(5 / 30)
    assert chance["text_to_image_recall_at_30"] == 1.0
    drawn = np.random.default_rng(0).permuted(np.tile(np.arange(70), (20_000, 1)), axis=1)[:, :5]
    found = np.mean([right[i][drawn].any(axis=1).mean() for i in range(30)])
    assert chance["image_to_text_recall_at_5"] == pytest.approx(found, abs=0.003)


@pytest.mark.parametrize(
    ("texts", "groups", "ks", "message"),
    [
        (70, OWNER, (0,), "ks: found 0; allowed: 1 or more"),
        (70, OWNER[:69], (1,), "text_groups: found 69 for 70 texts"),
        (
            40,
            None,
            (1,),
            "10 of 40 texts have no image, the first text 30 of group 30",
        ),
        (70, np.r_[OWNER[:-1], -1], (1,), "1 of 70 texts have no image, the first text 69"),
        (70, np.full(70, 2), (1,), "29 of 30 images have no text, the first image 0 of group 0"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_with_the_numbers(texts, groups, ks, message):
    with pytest.raises(ValueError, match=message):
        retrieval_recalls(
            jnp.asarray(IMAGES), jnp.asarray(TEXTS[:texts]), text_groups=groups, ks=ks
        )


def test_a_text_that_several_images_have_is_right_for_each_of_them():
    """Against sets of texts, sorted by a plain matrix; equal texts lie at one place."""
    texts = ["a", "b", "c", "d", "e"]
    captions = [["a", "b"], ["c"], ["b", "d", "a"], ["e", "c"]]
    rng = np.random.default_rng(0)
    place = {text: rng.normal(size=4) for text in texts}
    images = np.stack([place[own[0]] + rng.normal(size=4) for own in captions])
    flat = [text for own in captions for text in own]
    points = np.stack([place[text] for text in flat])
    number = {text: i + 5 for i, text in enumerate(texts)}
    of_images = np.full((4, 3), -1)
    for i, own in enumerate(captions):
        of_images[i, : len(own)] = [number[text] for text in own]
    groups = {"image_groups": of_images, "text_groups": np.array([number[text] for text in flat])}
    found = retrieval_recalls(jnp.asarray(images), jnp.asarray(points), **groups, ks=(1, 2))
    s = oracles.unit(images) @ oracles.unit(points).T
    right = np.array([[text in own for text in flat] for own in captions])
    for name, scores, wanted in (
        ("image_to_text", s, right),
        ("text_to_image", s.T, right.T),
    ):
        for k in (1, 2):
            ranks = [
                sum(~wanted[i] & (row >= row[wanted[i]].max() - 1e-9))
                for i, row in enumerate(scores)
            ]
            assert found[f"{name}_recall_at_{k}"] == pytest.approx(np.mean(np.array(ranks) < k))
    chance = retrieval_chance(**groups, ks=(1,))
    assert chance["image_to_text_recall_at_1"] == pytest.approx(right.mean())
    assert chance["text_to_image_recall_at_1"] == pytest.approx(right.mean())
    alone = {**groups, "image_groups": np.where(of_images == 7, -1, of_images)}
    with pytest.raises(ValueError, match="1 of 4 images have no text, the first image 1"):
        retrieval_recalls(jnp.asarray(images), jnp.asarray(points), **alone, ks=(1,))


def test_groups_may_be_any_integers():
    images, groups = jnp.eye(2), np.array([0, 2**32])
    found = retrieval_recalls(images, images[::-1], image_groups=groups, text_groups=groups, ks=[1])
    assert set(found.values()) == {0.0}
