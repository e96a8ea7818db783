"""Zero-shot classification of hand-made embeddings, on each manifold."""

import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import data, sharding, similarities
from dystress_jax.evaluation import (
    TEMPLATES,
    DualEncoder,
    class_embeddings,
    embed_images,
    evaluate_zero_shot,
    prompts,
    templates,
    top_accuracy,
    zero_shot_scores,
)
from tests import oracles

RNG = np.random.default_rng(0)


def test_prompts_stand_class_after_class():
    assert prompts(["cat", "{dog}"], ["{}", "{}, {a} {}"]) == [
        "cat",
        "cat, {a} cat",
        "{dog}",
        "{dog}, {a} {dog}",
    ]
    assert prompts([], ["{}"]) == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_set_of_templates_makes_distinct_prompts(name):
    made = prompts(["cat", "dog"], TEMPLATES[name])
    assert len(set(made)) == 2 * len(TEMPLATES[name])


def test_templates_without_a_place_for_the_name_are_refused():
    with pytest.raises(ValueError, match="templates: found none; allowed: at least one"):
        prompts(["cat"], [])
    with pytest.raises(ValueError, match=r"templates: found 'a photo'; allowed: texts with \{\}"):
        prompts(["cat"], ["{}", "a photo"])


def test_a_set_of_templates_is_found_by_its_name():
    assert templates("drawings") == TEMPLATES["drawings"]
    with pytest.raises(ValueError, match=r"found 'photo'; allowed: name, .* Did you mean photos\?"):
        templates("photo")


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_the_ensemble_is_the_mean_on_the_manifold_token_by_token(tokens):
    """Long prompts weigh as much as short ones, and every token of the mean has length 1."""
    embedded = RNG.normal(size=(4, 5, 6)) * RNG.uniform(0.1, 10, (4, 5, 1))
    found = class_embeddings(jnp.float32(embedded), similarity=similarities.oblique(tokens))
    split = oracles.unit(embedded.reshape(-1, 6 // tokens)).reshape(4, 5, tokens, -1)
    expected = oracles.unit(split.mean(axis=1).reshape(4 * tokens, -1)).reshape(4, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_flat_space_takes_the_plain_mean():
    embedded = RNG.normal(size=(4, 5, 6)).astype(np.float32)
    found = class_embeddings(jnp.asarray(embedded), similarity=similarities.squared_euclidean)
    np.testing.assert_allclose(found, embedded.mean(axis=1), rtol=1e-5, atol=1e-6)


def test_one_template_is_its_own_ensemble_and_opposite_ones_leave_nothing():
    embedded = jnp.array([[[3.0, 4.0]]])
    np.testing.assert_allclose(class_embeddings(embedded), [[0.6, 0.8]], rtol=1e-6)
    opposite = jnp.array([[[3.0, 4.0], [-6.0, -8.0]]])
    np.testing.assert_array_equal(class_embeddings(opposite), [[0.0, 0.0]])


def test_top_1_and_top_5_of_hand_made_embeddings():
    """Class k is the k-th axis; image i lies in between its class and another, 4 to 1 or 1 to 4."""
    axes = np.eye(8, dtype=np.float32)
    labels = np.arange(8)
    near = 4 * axes[labels[:6]] + axes[(labels[:6] + 1) % 8]
    far = axes[labels[6:]] + 4 * axes[(labels[6:] + 1) % 8]
    # The last image is on the far side of its own class: the least similar of all.
    lost = 4 * axes[:1] - axes[3:4]
    images = jnp.asarray(np.concatenate([near, far, lost]))
    labels = jnp.asarray(np.r_[labels, 3])
    classes = class_embeddings(jnp.asarray(np.stack([axes, 2 * axes], axis=1)))
    scores = zero_shot_scores(images, classes)
    np.testing.assert_allclose(top_accuracy(scores, labels, top=1), 6 / 9, rtol=1e-6)
    np.testing.assert_allclose(top_accuracy(scores, labels, top=5), 8 / 9, rtol=1e-6)


def test_tokens_can_outvote_a_long_one():
    """On the sphere the one large token decides, on the oblique manifold two of three do."""
    image = jnp.array([[9.0, 0.0, 1.0, 0.0, 1.0, 0.0]])
    classes = jnp.array([[1.0, 0.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]])
    winner = lambda similarity: int(
        zero_shot_scores(image, classes, similarity=similarity).argmax()
    )
    assert winner(similarities.sphere) == 0
    assert winner(similarities.oblique(3)) == 1


def test_half_precision_is_widened():
    images = jnp.array([[1.0, 0.01]], jnp.bfloat16)
    scores = zero_shot_scores(images, class_embeddings(images[None]))
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, 1.0, rtol=1e-6)


def test_classes_of_equal_names_are_told():
    """Their descriptions are the same, so all their images are taken for the first."""
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[0, ..., 0] = images[1, ..., 1] = images[2, ..., 0] = 200
    texts = ("crane", "dog")
    source = data.from_arrays(
        images,
        np.arange(3),
        class_names=(*texts, "crane"),
        captions=data.Captions.of([["crane"], ["dog"], ["crane"]]),
    )
    encoder = DualEncoder(
        encode_images=lambda images: images.mean(axis=(1, 2)),
        encode_tokens=lambda tokens: jnp.eye(3)[tokens[:, 0]],
        tokenize=lambda found: np.array([[texts.index(text)] for text in found]),
        similarity=similarities.sphere,
    )
    embedded = embed_images(encoder, source, mesh=sharding.make_mesh())
    result = evaluate_zero_shot(embedded, templates=["{}"])
    [note] = result.notes
    assert note.startswith("2 of the 3 classes share their name with another (crane)")
    assert result.to_json()["per_class_accuracy"] == {"crane": 1.0, "dog": 1.0, "crane (2)": 0.0}
    apart = evaluate_zero_shot(embedded, templates=["{}"], class_names=["crane", "dog", "dog"])
    assert "(dog)" in apart.notes[0]
