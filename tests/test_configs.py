"""Every file in dystress_jax/configs is one that the trainer accepts, and keeps its promises."""

import argparse
import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import alignment, cifar10
from dystress_jax import augment, data, optim, run
from dystress_jax.run import config_files
from dystress_jax.run.fields import put
from dystress_jax.run.inputs import make_inputs, make_recipe
from dystress_jax.training import make_train_step

NAMES = config_files.names()


def load(name):
    settings = importlib.import_module(f"dystress_jax.configs.{name}").get_config()
    if settings.data.source == "folder":
        settings.data.path = "images"  # the user's to give
    return run.from_config_dict(settings)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_accepted(name):
    load(name)


@pytest.mark.ci
@pytest.mark.parametrize(
    "name", ["simclr_imagenet", "moco_v2_cifar10", "moco_v3_vit_imagenet", "clip_oblique_vit_b16"]
)
def test_its_step_lowers_for_accelerators(name, monkeypatch, tmp_path):
    """On eight devices, for both at once; nothing is compiled and no image is read from a disk."""
    c = dataclasses.replace(load(name), dtype="bfloat16")
    side = c.data.image_size or 32
    source = data.Source(
        read=lambda rows: (np.zeros((len(rows), side, side, 3), np.uint8), np.int32(rows % 10)),
        index=np.arange(40_000, dtype=np.int32),
        image_shape=(side, side, 3),
        class_names=tuple(map(str, range(10))),
        stored_labels=np.arange(40_000, dtype=np.int32) % 10,
        captions=data.Captions.of([["a drawing"]] * 40_000) if c.method == "clip" else None,
    )
    monkeypatch.setattr(data, "open_splits", lambda *_, **__: {"train": source})
    experiment = run.build(c, tmp_path)
    step = make_train_step(
        experiment.method,
        experiment.optimizer,
        experiment.schedule.learning_rate,
        scheme=experiment.scheme,
        mesh=experiment.mesh,
    )
    batch = {
        key: jax.ShapeDtypeStruct((c.batch_size, *value.shape[1:]), value.dtype)
        for key, value in experiment.train.gather(np.arange(1)).items()
    }
    traced = step.trace(experiment.abstract_state(), batch)
    traced.lower(lowering_platforms=("cuda", "tpu"))


def test_a_folder_without_a_path_is_asked_for():
    settings = importlib.import_module("dystress_jax.configs.simclr_imagenet").get_config()
    with pytest.raises(run.ConfigError, match=r"config\.data\.path: found ''"):
        run.from_config_dict(settings)


def test_cifar10_has_the_settings_of_the_papers_code():
    c = load("simclr_cifar10")
    assert (c.batch_size, c.epochs) == (128, 200)
    assert (c.model.name, c.model.stem, c.projector.name) == ("resnet18", "cifar", "dystress_cifar")
    assert (c.temperature.name, c.temperature.tau_min, c.temperature.tau_max) == (
        "dystress",
        0.07,
        0.2,
    )
    o = c.optimizer
    assert (o.name, o.learning_rate, o.momentum, o.weight_decay) == ("sgd", 0.2, 0.0, 5e-4)
    assert (o.warmup_epochs, o.interval, o.decay_vectors) == (0, "epoch", True)
    assert not c.model.zero_residual
    assert (c.augment.mean[0], c.augment.std[0]) == (0.4914, 0.2023)
    assert (c.knn.k, c.knn.temperature) == (200, 0.1)


def test_moco_v2_has_the_settings_of_the_authors_demo():
    c = load("moco_v2_cifar10")
    assert (c.method, c.batch_size, c.epochs) == ("moco_v2", 512, 200)
    assert (c.model.name, c.model.stem) == ("resnet18", "cifar")
    assert (c.projector.name, c.projector.out) == ("moco_v2", 128)
    assert (c.moco.queue_size, c.moco.momentum, c.moco.bn_groups) == (4096, 0.99, 8)
    assert (c.temperature.name, c.temperature.tau) == ("constant", 0.1)
    o = c.optimizer
    assert (o.name, o.learning_rate, o.momentum, o.weight_decay) == ("sgd", 0.06, 0.9, 5e-4)
    assert (o.interval, c.model.zero_residual) == ("epoch", False)


def test_moco_v3_has_the_published_heads_momentum_and_factor():
    c = load("moco_v3_cifar10")
    assert (c.method, c.projector.hidden, c.projector.out) == ("moco_v3", 4096, 256)
    assert (c.moco.momentum, c.moco.scale_by_tau) == (0.99, True)
    assert (c.temperature.name, c.temperature.tau) == ("constant", 0.2)


def test_moco_v3_trains_a_transformer_as_its_authors_do():
    c = load("moco_v3_vit_imagenet")
    assert (c.method, c.batch_size, c.epochs, c.augment.recipe) == (
        "moco_v3",
        4096,
        300,
        "moco_v3",
    )
    assert (c.model.name, c.model.patch, c.model.heads) == ("vit_small", 16, 12)
    assert c.model.freeze_patches
    assert (c.projector.hidden, c.projector.out, c.moco.momentum) == (4096, 256, 0.99)
    assert (c.temperature.name, c.temperature.tau) == ("constant", 0.2)
    o = c.optimizer
    assert (o.name, o.weight_decay, o.warmup_epochs) == ("adamw", 0.1, 40)
    assert optim.learning_rate(o.rule, o.learning_rate, c.batch_size) == pytest.approx(2.4e-3)


def test_the_oblique_pair_has_the_settings_of_the_paper():
    c = load("clip_oblique_vit_b16")
    g = c.topology
    assert (c.method, c.model.name, c.model.patch) == ("clip", "vit_base", 16)
    assert (g.name, g.dims, g.tokens, g.mode) == ("oblique", 32, 16, "multi")
    assert (c.temperature.name, c.temperature.max_scale) == ("learned", 3.95)
    assert 1 / c.temperature.tau == pytest.approx(3.95)


@pytest.mark.parametrize(
    ("name", "epochs"), [("simclr_imagenet", 100), ("simclr_imagenet100", 200)]
)
def test_imagenet_has_the_settings_of_the_papers_code(name, epochs):
    c = load(name)
    assert (c.batch_size, c.epochs, c.augment.size) == (256, epochs, 224)
    assert (c.model.name, c.model.stem, c.augment.recipe) == ("resnet50", "imagenet", "simclr")
    assert (c.temperature.name, c.temperature.tau_min, c.temperature.tau_max) == (
        "dystress",
        0.1,
        0.2,
    )
    o = c.optimizer
    assert (o.name, o.momentum, o.weight_decay, o.warmup_epochs) == ("lars", 0.9, 1e-6, 10)
    assert (o.form, o.interval) == ("lightly", "step")
    assert (c.projector.name, c.model.zero_residual) == ("dystress_cifar", False)
    assert optim.learning_rate(o.rule, o.learning_rate, c.batch_size) == pytest.approx(0.075 * 16)
    assert (c.probe.epochs, c.probe.learning_rates, c.probe.batch_size) == (90, (0.1,), 256)
    assert c.knn.k == 20


@pytest.mark.parametrize(
    ("name", "filtered"),
    [
        *((name, True) for name in NAMES if name.startswith(("simclr", "moco"))),
        *((name, False) for name in ("quickstart", "cifar10_small", "clip_quickstart")),
    ],
)
def test_crops_are_filtered_where_the_source_resizes_with_pillow(name, filtered):
    config = load(name)
    assert config.augment.antialias == filtered
    for recipe in augment.RECIPES:
        made = make_recipe(put(config, "augment.recipe", recipe))
        assert made.first.antialias == made.second.antialias == filtered


def test_the_settings_change_the_numbers_of_the_recipe_that_they_name():
    assert make_recipe(run.Config()) == augment.simclr_cifar()
    numbers = {"crop_min": 0.5, "flip": 0.0, "strength": 0.25, "grayscale": 0.0, "blur": 0.125}
    config = run.from_config_dict({"augment": {"recipe": "simclr", **numbers}})
    assert make_recipe(config) == augment.simclr(**numbers)
    # The views of a run are those of this recipe.
    pixels = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), np.uint8)
    inputs, key = make_inputs(config, data.from_arrays(pixels)), jax.random.key(0)
    found = inputs.views(key, jnp.asarray(pixels), jnp.arange(4))
    drawn = augment.two_views(key, jnp.asarray(pixels), augment.simclr(**numbers), size=24)
    for view, expected in zip(found, drawn, strict=True):
        np.testing.assert_array_equal(view, inputs.normalize(expected))


@pytest.mark.parametrize(
    ("numbers", "shape", "message"),
    [
        ({"strength": 5.5}, (8, 8, 3), r"strength: found 5\.5; allowed: a factor in \[0, 5\]"),
        ({"blur": 0.5}, (19, 24, 3), r"blur: found 0\.5 with views of 19 pixels, .* least 20 pix"),
        ({"blur": 0.5, "size": 16}, (24, 24, 3), r"blur: found 0\.5 with views of 16 pixels"),
        ({"grayscale": 0.5}, (8, 8, 1), r"grayscale: found 0\.5 with images of 1 channel"),
    ],
)
def test_a_change_that_no_view_could_show_is_refused(numbers, shape, message):
    config = run.from_config_dict({"augment": numbers})
    with pytest.raises(run.ConfigError, match=rf"^config\.augment\.{message}"):
        make_inputs(config, data.from_arrays(np.zeros((4, *shape), np.uint8)))


def test_every_run_of_the_benchmarks_has_settings_that_fit(tmp_path):
    for method in cifar10.METHODS:
        for temperature in cifar10.TEMPERATURES.values():
            assert cifar10.settings(method, temperature, 1, "images.npz").data.path == "images.npz"
    arguments = argparse.Namespace(
        out=tmp_path, seeds=[0], steps=600, noise_steps=9, emoji="emoji.npz", cifar10="cifar10.npz"
    )
    for study in alignment.STUDIES.values():
        assert len(list(study(arguments))) > 1
