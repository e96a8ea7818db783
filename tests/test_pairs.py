"""Retrieval, zero-shot classification and the picture of them, with encoders made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import data, sharding, similarities
from dystress_jax.evaluation import (
    DualEncoder,
    NotFiniteError,
    embed_images,
    evaluate_retrieval,
    evaluate_zero_shot,
    retrieval_grid,
)

MESH = sharding.make_mesh()


def make_source(pixels, captions=None, labels=None, class_names=()):
    """Images of 2 x 2 grey pixels, which are their own embeddings."""
    images = np.asarray(pixels, np.uint8).reshape(-1, 2, 2, 1)
    labels = np.full(len(images), -1) if labels is None else np.asarray(labels)
    return data.Source(
        read=lambda rows: (images[rows], np.int32(labels[rows])),
        index=np.arange(len(images), dtype=np.int32),
        image_shape=(2, 2, 1),
        class_names=class_names,
        captions=captions and data.Captions.of(captions),
    )


def make_encoder(embedding_of_text, similarity=similarities.sphere):
    """Texts have the embeddings of this dictionary; counts how many are embedded at once."""
    vocabulary = list(embedding_of_text)
    table = jnp.array([embedding_of_text[text] for text in vocabulary], jnp.float32)
    return DualEncoder(
        encode_images=lambda images: images.reshape(len(images), -1).astype(jnp.float32),
        encode_tokens=lambda tokens: table[tokens[:, 0]],
        tokenize=lambda texts: np.array([[vocabulary.index(text)] for text in texts], np.int32),
        similarity=similarity,
    )


def embed(encoder, source):
    return embed_images(encoder, source, mesh=MESH)


# Images 0 and 2 are said to be the same; image 1 has two captions.
SOURCE = make_source(100 * np.eye(4), captions=[["a"], ["b", "bee"], ["a"], ["c"]])
TEXTS = {
    "a": [1.0, 0.0, 0.9, 0.0],  # both images before all others
    "b": [0.0, 1.0, 0.0, 0.0],
    "bee": [0.0, 0.1, 0.0, 1.0],  # nearer to image 3 than to its own
    "c": [0.0, 0.8, 0.0, 0.6],  # nearer to image 1; image 3 is nearer to "bee"
}


def test_recalls_with_equal_captions_and_with_several_of_an_image():
    found = evaluate_retrieval(embed(make_encoder(TEXTS), SOURCE), ks=(1, 2, 5))
    chance = {row.name: row.chance for row in found.rows}
    assert {row.name: row.value for row in found.rows} == {
        "image_to_text_recall_at_1": pytest.approx(3 / 4),
        "image_to_text_recall_at_2": 1.0,
        "image_to_text_recall_at_5": 1.0,
        "text_to_image_recall_at_1": pytest.approx(3 / 5),
        "text_to_image_recall_at_2": 1.0,  # of 4 images, 5 would be all and more
    }
    # Right texts of the images: 2, 2, 2, 1 of 5; right images of the texts: 2, 1, 1, 2, 1 of 4.
    assert chance["image_to_text_recall_at_1"] == pytest.approx(7 / 4 / 5)
    assert chance["text_to_image_recall_at_1"] == pytest.approx(7 / 5 / 4)
    # None of 2 of 5 texts is one of 2 right ones in 3 of 10 draws, one of 1 in 6 of 10.
    assert chance["image_to_text_recall_at_2"] == pytest.approx((3 * 0.7 + 0.4) / 4)
    assert chance["image_to_text_recall_at_5"] == 1.0
    counts = {"images": 4, "texts": 5, "texts_of_several_images": 2}
    assert found.protocol == {"evaluation": "retrieval", **counts}


def test_a_second_caption_that_two_images_share_is_right_for_both_and_the_others_for_one():
    source = make_source(100 * np.eye(4)[:2], captions=[["a", "same"], ["b", "same"]])
    near_a = {**TEXTS, "same": [2.0, 1.0, 0.0, 0.0]}
    found = evaluate_retrieval(embed(make_encoder(near_a), source), ks=(1,))
    assert found.value("image_to_text_recall_at_1") == 1.0
    assert found.value("text_to_image_recall_at_1") == 1.0  # "same" finds a, which has it
    assert found.protocol["texts_of_several_images"] == 2
    swapped = {**near_a, "a": TEXTS["b"], "b": TEXTS["a"]}
    found = evaluate_retrieval(embed(make_encoder(swapped), source), ks=(1,))
    assert found.value("image_to_text_recall_at_1") == 0.5  # image 1 finds "a", no text of its
    assert found.value("text_to_image_recall_at_1") == 0.5


def test_the_similarity_of_the_encoders_decides():
    texts = {**TEXTS, "a": [9.0, 0.0, 0.1, 0.0], "b": [0.0, 0.1, 0.0, 9.0]}
    source = make_source([[90, 30, 1, 0], [30, 90, 0, 1]], captions=[["a"], ["b"]])
    sphere, oblique = (
        evaluate_retrieval(embed(make_encoder(texts, similarity), source), ks=(1,))
        for similarity in (similarities.sphere, similarities.oblique(2))
    )
    assert sphere.value("image_to_text_recall_at_1") == 0.5
    assert oblique.value("image_to_text_recall_at_1") == 1.0


def test_a_source_without_captions_has_nothing_to_retrieve_by():
    with pytest.raises(ValueError, match="embedded: found 4 images without captions"):
        evaluate_retrieval(embed(make_encoder(TEXTS), make_source(np.eye(4))))


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_any_number_of_texts_is_embedded_in_parts_of_one_size(count):
    sizes = []
    encoder = make_encoder({str(i): [i, 1.0, 0.0, 0.0] for i in range(count)})
    encode = encoder.encode_tokens
    encoder = encoder._replace(
        encode_tokens=lambda tokens: sizes.append(len(tokens)) or encode(tokens)
    )
    found = encoder.embed_texts([str(i) for i in range(count)])
    np.testing.assert_array_equal(found[:, 0], np.arange(count))
    assert set(sizes) == {256}
    # The same texts many times over are embedded once.
    parts = len(sizes)
    found = encoder.embed_texts([str(i) for i in range(count)] * 3)
    np.testing.assert_array_equal(found[:, 0], np.tile(np.arange(count), 3))
    assert len(sizes) == 2 * parts


CLASSES = ("axis 0", "axis 1", "axis 2", "axis 3", "none", "nobody")


def labelled(labels):
    pixels = 100 * np.eye(4)[[0, 1, 2, 3, 0, 1, 2]] + 10 * np.eye(4)[[1, 2, 3, 0, 1, 2, 3]]
    return make_source(pixels, labels=labels, class_names=CLASSES)


def described(templates, names=CLASSES):
    """Axis k for class k, in every template; the two last classes are far from everything."""
    axes = np.concatenate([np.eye(4), -np.ones((2, 4))])
    return {
        template.replace("{}", name): (1.0 + i) * axis
        for i, template in enumerate(templates)
        for name, axis in zip(names, axes, strict=True)
    }


def test_zero_shot_accuracies_of_embeddings_made_by_hand():
    templates = ["{}", "a drawing of {}"]
    encoder = make_encoder(described(templates))
    # Right; right; second; right; among the last two of six; not labelled; right.
    source = labelled([0, 1, 3, 3, 5, -1, 2])
    found = evaluate_zero_shot(embed(encoder, source), templates=templates)
    assert found.rows == (
        (
            "top1",
            pytest.approx(4 / 6),
            pytest.approx(1 / 6),
            True,
            pytest.approx(3.5 / 5),
            "",
            None,
        ),
        ("top5", pytest.approx(5 / 6), pytest.approx(5 / 6), True, None, "", None),
    )
    assert found.protocol == {
        "evaluation": "zero_shot",
        "templates": templates,
        "classes": 6,
        "test_images": 6,
        "chance": pytest.approx(1 / 6),
        "largest_class": pytest.approx(2 / 6),
    }


def test_more_images_than_are_compared_at_once_count_the_same():
    encoder = make_encoder(described(["{}"]))
    once = labelled([0, 1, 3, 3, 5, -1, 2])
    many = once.take(np.tile(np.arange(7), 100))
    found, expected = (
        evaluate_zero_shot(embed(encoder, source), templates=["{}"]) for source in (many, once)
    )
    assert found.protocol["test_images"] == 600
    for name in ("top1", "top5"):
        assert found.value(name) == pytest.approx(expected.value(name))


def test_other_names_for_the_classes_are_what_the_text_encoder_reads():
    names = tuple(f"axe {i}" for i in range(6))
    encoder = make_encoder(described(["{}"], names))
    found = evaluate_zero_shot(
        embed(encoder, labelled([0, 1, 2, 3, 0, 1, 2])), templates=["{}"], class_names=names
    )
    assert (found.value("top1"), found.value("top5")) == (1.0, 1.0)


def test_names_that_are_not_one_a_class_are_refused_with_both_counts():
    with pytest.raises(ValueError, match="class_names: found 5 names for 6 classes"):
        evaluate_zero_shot(
            embed(make_encoder(TEXTS), labelled([0] * 7)),
            templates=["{}"],
            class_names=CLASSES[:5],
        )
    with pytest.raises(ValueError, match="embedded: found 4 images without labels"):
        evaluate_zero_shot(embed(make_encoder(TEXTS), SOURCE), templates=["{}"])


def test_the_picture_frames_what_is_right_in_green():
    picture = retrieval_grid(embed(make_encoder(TEXTS), SOURCE), rows=5, columns=3)
    cell, label, gap = 64, 200, 4
    step = cell + gap
    assert picture.size == (label + 4 * step + 3 * gap, 5 * step + gap)
    green, grey, white = (0, 128, 0), (128, 128, 128), (255, 255, 255)

    def frame(row, left):
        return picture.getpixel((left - 1, gap + row * step + cell // 2))

    found = {
        "a": [green, green, white],  # image 0, its twin 2, another
        "b": [green, white, white],
        "bee": [white, green, white],  # 3, then its own
        "c": [white, green, white],  # 1, then its own
    }
    for row, text in enumerate(["a", "b", "bee", "a", "c"]):
        assert frame(row, label) == grey
        lefts = [label + step + 2 * gap + column * step for column in range(3)]
        assert [frame(row, left) for left in lefts] == found[text], text
    # Grey pixels 0 and 100 of the image itself, in the middle of its quarters.
    own = [picture.getpixel((label + x, gap + y)) for y in (4, 60) for x in (4, 60)]
    assert own[0][0] > 80
    assert max(max(pixel) for pixel in own[1:]) < 20


def test_the_picture_has_at_most_what_there_is_and_any_letters():
    captions = [["日本語 \x00 🙂"], ["long " * 60], ["x" * 200]]
    encoder = make_encoder({text: [1.0, 0.0, 0.0, 0.0] for [text] in captions})
    source = make_source(100 * np.eye(4)[:3], captions=captions)
    picture = retrieval_grid(embed(encoder, source))
    assert picture.size == (200 + 4 * 68 + 12, 3 * 68 + 4)


def test_embeddings_that_are_not_finite_are_refused():
    broken = make_encoder(TEXTS | {"c": [0.0, jnp.nan, 0.0, 0.6]})
    with pytest.raises(NotFiniteError, match="features of 1 of 4 texts are NaN or infinite"):
        evaluate_retrieval(embed(broken, SOURCE))
    nowhere = broken._replace(encode_images=lambda images: broken.encode_images(images) * jnp.nan)
    with pytest.raises(NotFiniteError, match="features of 4 of 4 images are NaN or infinite"):
        embed(nowhere, SOURCE)
