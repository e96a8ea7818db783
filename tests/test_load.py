"""The encoder of a run comes back from its directory alone, and is the one that was trained."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import dystress_jax
from dystress_jax import data, run
from dystress_jax.errors import ArgumentError
from dystress_jax.run import evaluations, measuring
from tests import runs

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was moved after its images were deleted, and what its encoder made of them."""
    place = tmp_path_factory.mktemp("run")
    folder = runs.write_images(place / "images")
    experiment, state = runs.saved(runs.settings(folder), place / "first")
    images = experiment.sources["test"].gather(np.arange(16))["image"]
    known = tuple(
        np.asarray(array) for array in experiment.embed(state.params, state.stats, images)
    )
    (folder / "test").rename(place / "test")
    files = sorted(map(str, (place / "test").rglob("*.png")))
    shutil.rmtree(folder)
    (place / "first").rename(place / "moved")
    return place / "moved", images, known, files


@pytest.fixture(scope="module")
def encoder(finished):
    return dystress_jax.load(finished[0])


def test_it_is_the_trained_one_without_its_images(finished, encoder):
    _, images, (features, embeddings), _ = finished
    np.testing.assert_allclose(encoder(images), features, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(encoder.embeddings(images), embeddings, rtol=1e-5, atol=1e-5)
    assert encoder.features(images).shape == (16, encoder.num_features)
    assert encoder.class_names == ("green", "red")
    assert encoder.image_shape == (12, 12, 3)
    assert "images 12 x 12 x 3 -> " in repr(encoder)
    assert "step 2 of" in repr(encoder)


def test_files_and_arrays_of_any_size_and_batch_are_the_same_images(finished, encoder):
    _, images, (features, _), files = finished
    found = encoder(files, batch_size=3)
    places = [np.flatnonzero((images == np.asarray(Image.open(f))).all((1, 2, 3))) for f in files]
    np.testing.assert_allclose(found, features[np.concatenate(places)], rtol=1e-4, atol=1e-5)
    large = np.asarray(Image.fromarray(images[0]).resize((40, 30)))
    mixed = encoder([images[0], large, files[0]])
    alone = encoder(np.asarray(large)[None])
    np.testing.assert_allclose(mixed[1], alone[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mixed[0], features[0], rtol=1e-4, atol=1e-5)
    assert encoder([]).shape == (0, encoder.num_features)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 12, 12, 3)), r"images: found float64\[2, 12, 12, 3\]; allowed: uint8"),
        (np.zeros((12, 12, 3), np.uint8), r"found uint8\[12, 12, 3\]; allowed: uint8\[n h w c\]"),
        (np.zeros((2, 12, 12, 4), np.uint8), "found 4 channels .* allowed: 3"),
        ([np.zeros((9, 9, 1), np.uint8)], "found 1 channel in .* allowed: 3"),
        ("a.png", r"found 'a\.png'; allowed: a list of paths"),
        (5, "allowed: uint8"),
    ],
)
def test_what_is_no_image_is_refused(encoder, given, message):
    with pytest.raises(ArgumentError, match=message):
        encoder(given)


def test_a_file_that_is_no_image_is_named(encoder, tmp_path):
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(data.UnreadableError, match=r"note\.png"):
        encoder([tmp_path / "note.png"])


def test_a_loop_of_ones_own_trains_its_parameters(finished, encoder):
    _, images, (features, _), _ = finished
    optimizer = optax.sgd(0.01)

    @jax.jit
    def step(params, state):
        loss = lambda params: jnp.mean(encoder.apply(params, images) ** 2)
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    np.testing.assert_allclose(
        encoder.apply(encoder.params, images), features, rtol=1e-4, atol=1e-5
    )
    params, state, first = step(encoder.params, optimizer.init(encoder.params))
    _, _, second = step(params, state)
    assert second < first


def test_it_is_a_pytree(finished, encoder):
    images = finished[1]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, encoder)
    assert isinstance(doubled, run.Encoder)
    apply = jax.jit(lambda encoder, images: encoder.apply(encoder.params, images))
    np.testing.assert_allclose(apply(encoder, images), encoder(images), rtol=1e-4, atol=1e-4)
    assert not np.allclose(apply(doubled, images), encoder(images))


def test_views_of_ones_own_are_floats(finished, encoder):
    images = finished[1]
    views = jnp.asarray(images) / 255
    np.testing.assert_allclose(
        encoder.apply(encoder.params, views), encoder(images), rtol=1e-4, atol=1e-4
    )


def test_views_that_go_to_255_and_traced_images_are_refused(finished, encoder):
    images = jnp.asarray(finished[1])
    with pytest.raises(ArgumentError, match=r"images: found numbers up to .*; allowed: views in "):
        encoder.apply(encoder.params, images.astype(jnp.float32))
    with pytest.raises(ArgumentError, match=r"images: found a traced array; .*apply\(params, im"):
        jax.jit(encoder.features)(images)


def test_images_of_which_no_whole_centre_can_be_seen_are_refused(encoder):
    side = encoder.size - 1
    for images in (
        np.zeros((2, side, side, 3), np.uint8),
        np.zeros((2, 2 * side, side, 3), np.uint8),
        np.zeros((2, side, side, 3), np.float32),
        np.zeros((2, 2 * side, 2 * side, 3), np.float32),
    ):
        with pytest.raises(ArgumentError, match=rf"images: found .*allowed: .*{encoder.size} x"):
            encoder.apply(encoder.params, images)


def test_other_checkpoints_are_found(finished):
    workdir, images, _, _ = finished
    first = dystress_jax.load(workdir, checkpoint=1)
    assert first.origin.step == 1
    best = dystress_jax.load(workdir, checkpoint="best")
    assert best.origin.step == 1
    np.testing.assert_array_equal(first(images), best(images))
    assert dystress_jax.load(workdir).origin.step == 2
    with pytest.raises(run.ConfigError, match="found '7'; allowed: newest, best, 1, 2"):
        dystress_jax.load(workdir, checkpoint=7)


def test_a_step_is_meant_alike_as_a_number_and_as_a_text(tmp_path):
    runs.saved(runs.grey_settings(tmp_path / "grey.npz"), tmp_path / "run", steps=(1, 2))
    for step in (1, "1"):
        _, state = run.restore(tmp_path / "run", step)
        _, numbers = run.evaluate(tmp_path / "run", "knn", step)
        assert int(state.step) == numbers["checkpoint_step"] == 1
    out = tmp_path / "weights.safetensors"
    assert run.export_weights(tmp_path / "run", out, checkpoint=1)


def test_a_run_without_what_is_needed_is_told(finished, tmp_path):
    with pytest.raises(run.ConfigError, match=r"found no run \(no config\.json\)"):
        dystress_jax.load(tmp_path)
    near = finished[0].with_name(finished[0].name + "x")
    with pytest.raises(run.ConfigError, match=f"Did you mean {finished[0]}\\?"):
        dystress_jax.load(near)
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "images.json").write_text("{}")
    with pytest.raises(run.ConfigError, match=r"images\.json: found nothing that says"):
        dystress_jax.load(tmp_path / "run")
    shutil.copy(finished[0] / "images.json", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(run.ConfigError, match="found no checkpoint"):
        dystress_jax.load(tmp_path / "run")


@pytest.mark.ci
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "moco_v2", "moco.queue_size": 32, "moco.bn_groups": 2, "probe.online": True},
        {"temperature.name": "isogclr"},
    ],
    ids=["moco_v2", "isogclr"],
)
def test_every_state_fits_without_the_images(tmp_path, changes):
    """It depends on the number of images, of classes and on the method."""
    folder = runs.write_images(tmp_path / "images")
    config = runs.settings(folder, **changes)
    _, state = runs.saved(config, tmp_path / "run", steps=(1,))
    shutil.rmtree(folder)
    loaded = dystress_jax.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.params)


@pytest.fixture(scope="module")
def image_text(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip")
    folder = runs.write_images(place / "images")
    experiment, state = runs.saved(runs.clip_settings(folder), place / "run", steps=(1,))
    measured = measuring.measure(evaluations.zero_shot, experiment, state, name="zero_shot")
    source = experiment.sources["test"]
    images, labels = source.gather(np.arange(16))["image"], source.labels()
    shutil.rmtree(folder)
    return dystress_jax.load(place / "run"), images, labels, measured


@pytest.mark.ci
def test_texts_and_images_are_compared(image_text):
    encoder, images, labels, measured = image_text
    assert isinstance(encoder, run.ImageTextEncoder)
    x, y = encoder.encode_images(images), encoder.encode_texts(["a red drawing", "blue", "red"])
    assert x.shape == (16, 8)
    assert y.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(encoder.similarity(x, y), x @ y.T, atol=1e-5)
    assert encoder.encode_texts([]).shape == (0, 8)
    classify = encoder.zero_shot(["green", "red"])
    names = np.array(["green", "red"])[labels]
    accuracy = np.mean(np.array(classify.names(images)) == names)
    assert accuracy == pytest.approx(measured.value("top1"))
    np.testing.assert_array_equal(np.argmax(classify(images), 1), classify(images).argmax(1))
    one = encoder.zero_shot(["red", "green"], templates=["{}", "a {} drawing"])
    assert one(images).shape == (16, 2)


@pytest.mark.ci
def test_texts_are_lists(image_text):
    encoder = image_text[0]
    with pytest.raises(ArgumentError, match="texts: found 'red'; allowed: a list of texts"):
        encoder.encode_texts("red")
    with pytest.raises(ArgumentError, match="class_names: found "):
        encoder.zero_shot([])


def test_what_a_run_remembers_of_its_images_is_plain(finished):
    known = json.loads((finished[0] / "images.json").read_text())
    assert known.pop("described")["images"].startswith("36 of [12, 12, 3] in 2 classes, ")
    assert known == {
        "height": 12,
        "width": 12,
        "channels": 3,
        "images": 36,
        "stored": 40,
        "class_names": ["green", "red"],
    }
