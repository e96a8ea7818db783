"""The whole network trained on labels: step by step as PyTorch's optimisers, and of a run."""

import dataclasses
import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import data, evaluation, methods, models, run, sharding
from dystress_jax.errors import ArgumentError
from dystress_jax.evaluation._finetune_fit import Trained, make_fit
from dystress_jax.evaluation._mixing import mixed
from dystress_jax.run import evaluations, measuring
from dystress_jax.run._splits import EvaluationError
from tests import runs

pytestmark = pytest.mark.ci

NAMES = ("red", "green", "blue")
MESH = sharding.make_mesh(jax.devices()[:1])


def source(count, seed):
    """Tiny images whose colour tells the class, more or less."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    pixels = 90 + 60 * np.eye(3)[labels][:, None, None] + rng.normal(size=(count, 2, 2, 3)) * 40
    return data.from_arrays(pixels.clip(0, 255).astype(np.uint8), labels, class_names=NAMES)


TRAIN, TEST = source(60, 0), source(90, 1)


def to_float(images):
    return images.astype(jnp.float32) / 64 - 2


def unchanged(key, images):
    del key
    return to_float(images)


def forward(params, x):
    hidden = jnp.tanh(
        x.reshape(len(x), -1) @ params["conv"]["kernel"] + params["conv"]["bias"][None]
    )
    return jnp.tanh(hidden @ params["blocks"]["block1"]["kernel"])


class Weights(NamedTuple):
    """An encoder's parameters as an object."""

    first: jax.Array


def network():
    """Two layers; it counts the batches that it was trained on."""

    def init(key):
        keys = jax.random.split(key)
        conv = {"kernel": jax.random.normal(keys[0], (12, 5)) / 4, "bias": jnp.full(5, 0.1)}
        blocks = {"block1": {"kernel": jax.random.normal(keys[1], (5, 4))}}
        return {"conv": conv, "blocks": blocks}, {"batches": jnp.zeros(())}

    def apply(params, stats, x, *, train):
        return forward(params, x), {"batches": stats["batches"] + train}

    return models.Network(init, apply, 4)


def settings(**changes):
    base = {"optimizer": "sgd", "learning_rate": 0.8, "batch_size": 20, "epochs": 2}
    return evaluation.Finetuning(**(base | changes))


def by_hand(chosen, params):
    """What PyTorch's documentation says of SGD with Nesterov and of AdamW, in float64."""
    weights = {
        "conv.kernel": params["conv"]["kernel"],
        "conv.bias": params["conv"]["bias"],
        "block1": params["blocks"]["block1"]["kernel"],
        "head": np.zeros((4, 3)),
        "head.bias": np.zeros(3),
    }
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    layers = {"conv.kernel": 0, "conv.bias": 0, "block1": 1, "head": 2, "head.bias": 2}
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}

    def loss(weights, x, targets):
        conv = {"kernel": weights["conv.kernel"], "bias": weights["conv.bias"]}
        z = forward({"conv": conv, "blocks": {"block1": {"kernel": weights["block1"]}}}, x)
        logits = z @ weights["head"] + weights["head.bias"][None]
        return -(targets * jax.nn.log_softmax(logits)).sum(axis=1).mean()

    batches = data.batches(TRAIN, batch_size=20, seed=3)
    total = chosen.epochs * 3
    warmup = round(chosen.warmup_epochs * 3)
    for step in range(total):
        batch = next(batches)
        x = batch["image"].astype(np.float64) / 64 - 2
        smooth = chosen.label_smoothing
        targets = np.eye(3)[batch["label"]] * (1 - smooth) + smooth / 3
        grads = jax.grad(loss)(jax.tree.map(jnp.asarray, weights), x, targets)
        peak = chosen.learning_rate * 20 / 256
        rate = peak * step / max(warmup, 1)
        if step >= warmup:
            turn = np.cos(np.pi * (step - warmup) / (total - warmup))
            rate = chosen.final_rate + (peak - chosen.final_rate) * (1 + turn) / 2
        for name, w in weights.items():
            g = np.asarray(grads[name], np.float64)
            decay = chosen.weight_decay if w.ndim > 1 else 0.0
            eta = rate * chosen.layer_decay ** (2 - layers[name])
            if chosen.optimizer == "sgd":
                g = g + decay * w
                first[name] = 0.9 * first[name] + g
                weights[name] = w - eta * (g + 0.9 * first[name])
            else:
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g**2
                m = first[name] / (1 - 0.9 ** (step + 1))
                v = second[name] / (1 - 0.999 ** (step + 1))
                weights[name] = w - eta * decay * w - eta * m / (np.sqrt(v) + 1e-8)
    return weights


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.1, "layer_decay": 0.5},
        {"optimizer": "adamw", "weight_decay": 0.3, "layer_decay": 0.65, "warmup_epochs": 1},
        {"optimizer": "adamw", "label_smoothing": 0.2, "final_rate": 0.01},
    ],
)
def test_every_step_is_that_of_the_optimiser_by_hand(changes):
    chosen, encoder = settings(**changes), network()
    params, stats = encoder.init(jax.random.key(7))
    head = {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}
    start = Trained({"encoder": params, "head": head}, stats)
    fit = make_fit(encoder, start, 60, view=unchanged, settings=chosen, mesh=MESH)
    trained = fit(start, TRAIN, 3, iter)
    with jax.enable_x64(True):
        expected = by_hand(chosen, jax.device_get(params))
    found = trained.params
    for name, value in (
        ("conv.kernel", found["encoder"]["conv"]["kernel"]),
        ("conv.bias", found["encoder"]["conv"]["bias"]),
        ("block1", found["encoder"]["blocks"]["block1"]["kernel"]),
        ("head", found["head"]["kernel"]),
        ("head.bias", found["head"]["bias"]),
    ):
        np.testing.assert_allclose(value, expected[name], atol=2e-5, err_msg=name)
    assert trained.stats["batches"] == 6
    assert np.isfinite(params["conv"]["kernel"]).all()  # not given away with the first step


def finetuned(encoder=None, train=TRAIN, **options):
    encoder = encoder or network()
    params, stats = encoder.init(jax.random.key(7))
    options = {"settings": settings(epochs=20), "mesh": MESH, **options}
    return evaluation.evaluate_finetune(
        encoder, params, stats, train, TEST, view=unchanged, centre=to_float, **options
    )


def test_images_whose_labels_are_not_known_before_are_those_with_a_label():
    labels = np.where(np.arange(60) < 24, TRAIN.labels(), -1)
    images = TRAIN.gather(np.arange(60))["image"]
    read = {"length": 60, "image_shape": (2, 2, 3), "class_names": NAMES}

    def of(labels):
        return data.from_reader(lambda row: (images[row], int(labels[row])), **read)

    known = data.from_arrays(images, labels, class_names=NAMES)
    assert finetuned(train=of(labels)) == finetuned(train=known)
    assert finetuned(train=of(labels)).protocol["train_images"] == 24
    view = jax.jit(lambda key, images: to_float(images).reshape(len(images), -1))
    probe = functools.partial(
        evaluation.evaluate_linear_probe,
        evaluation.raw_pixels,
        candidates=(1.0,),
        epochs=2,
        encode_view=view,
        batch_size=8,
        mesh=MESH,
    )
    assert probe(of(labels), TEST) == probe(known, TEST)
    for measure in (lambda train: finetuned(train=train), lambda train: probe(train, TEST)):
        with pytest.raises(ArgumentError, match="none of them with a label"):
            measure(of(np.full(60, -1)))


@pytest.mark.parametrize("kind", [list, Weights])
def test_parameters_of_any_kind_are_fine_tuned(kind):
    weights = jax.random.normal(jax.random.key(0), (12, 5)) / 4
    params = kind([weights]) if kind is list else kind(weights)
    apply = lambda params, stats, x, *, train: (x.reshape(len(x), -1) @ params[0], stats)
    encoder = models.Network(lambda key: (params, {}), apply, 5)
    assert finetuned(encoder).value("top1") > 0.6


def test_it_learns_and_says_how():
    steps = []

    def progress(numbers):
        for number in numbers:
            steps.append(number)
            yield number

    result = finetuned(progress=progress)
    assert result.value("top1") > 0.85
    assert len(steps) == 60
    assert result.confusion.counts.sum() == 90
    expected = {"optimizer": "sgd", "epochs": 20, "batch_size": 20, "train_images": 60}
    assert expected.items() <= result.protocol.items()
    assert finetuned() == result
    many = finetuned(mesh=sharding.make_mesh())
    assert many.protocol["batch_size"] == 16
    assert many.value("top1") > 0.85


def test_shares_and_seeds_are_each_measured():
    few = settings(epochs=2, few_epochs=3)
    result = finetuned(fractions=(0.01, 0.5), seeds=(1, 4), settings=few)
    found = json.loads(json.dumps(result.to_json()))
    for name in ("1_percent_top1", "50_percent_top1"):
        each = [of[name] for of in found["by_seed"].values()]
        assert found[name] == pytest.approx(np.mean(each))
        assert found[f"{name}_std"] == pytest.approx(np.std(each, ddof=1))
    measured = found["protocol"]["measured"]
    assert [of["epochs"] for of in measured] == [3, 2]
    assert measured[0]["train_images"] == 3  # one a class
    alone = finetuned(fractions=(0.01, 0.5), seeds=(4,), settings=few)
    assert alone.rows == result.by_seed[4]
    # So many are trained, not only told: one epoch leaves another network.
    long, longer = (settings(epochs=epochs, few_epochs=40) for epochs in (1, 40))
    accuracy = lambda of: finetuned(fractions=(0.01,), settings=of).value("1_percent_top1")
    assert accuracy(long) == accuracy(longer) != accuracy(settings(epochs=1))
    more_devices_than_images = finetuned(fractions=(0.01,), mesh=sharding.make_mesh())
    assert more_devices_than_images.protocol["train_images"] == 3


def test_images_and_targets_are_mixed_by_the_same_share():
    n, side = 6, 8
    images = jnp.arange(n, dtype=jnp.float32)[:, None, None, None] * jnp.ones((n, side, side, 1))
    targets = jnp.eye(n)
    mix = jax.jit(mixed, static_argnums=(3, 4))
    boxes = 0
    for seed in range(8):
        key = jax.random.key(seed)
        for mixup, cutmix in ((0.8, 0.0), (0.0, 1.0), (0.8, 1.0)):
            x, y = map(np.asarray, mix(key, images, targets, mixup, cutmix))
            share = y[0, 0]
            np.testing.assert_allclose(y, share * np.eye(n) + (1 - share) * np.eye(n)[::-1])
            np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), y @ np.arange(n), atol=1e-5)
            is_box = np.isin(x[0], (0, n - 1)).all()
            if not cutmix:
                assert len(np.unique(x[0])) == 1
            elif not mixup:
                assert is_box
            boxes += bool(is_box and mixup and cutmix)
            if is_box and 0 < share < 1:  # one rectangle
                rows, columns = (
                    np.nonzero((x[0] == n - 1).any(axis=(1, 2)))[0],
                    np.nonzero((x[0] == n - 1).any(axis=(0, 2)))[0],
                )
                assert (x[0] == n - 1).sum() == len(rows) * len(columns)
    assert 0 < boxes < 8
    x, y = mixed(jax.random.key(0), images, targets, 0.0, 0.0)
    assert x is images
    assert y is targets


@pytest.mark.parametrize(
    ("name", "options", "last", "some"),
    [
        ("resnet18", {}, 9, {("conv", "kernel"): 0, ("norm", "scale"): 0}),
        ("vit_tiny", {"patch": 8}, 13, {("class_token",): 0, ("norm", "scale"): 13}),
        (
            *("vit_tiny", {"patch": 8, "pooling": "attention"}, 13),
            {("patches", "bias"): 0, ("norm", "bias"): 13, ("pool", "token"): 13},
        ),
        ("convnext_tiny", {}, 22, {("layers", "stem", "conv", "kernel"): 0}),
    ],
)
def test_layers_are_counted_from_the_images(name, options, last, some):
    encoder = models.ENCODERS[name](**options)
    params, _ = jax.eval_shape(encoder.init, jax.random.key(0))
    layers, found = models.depths(params)
    assert found == last
    flat = {tuple(k.key for k in path): n for path, n in jax.tree.leaves_with_path(layers)}
    assert some.items() <= flat.items()
    blocks = {path[1]: n for path, n in flat.items() if path[0] in ("blocks", "layers")}
    assert sorted(set(blocks.values()) - {0}) == list(range(1, last))
    if name == "vit_tiny":
        assert blocks["block10"] == 10
    if name == "resnet18":
        assert blocks["stage2_block1"] == 3
    if name == "convnext_tiny":  # a downsampling comes before the blocks of its stage
        assert (blocks["stage1_block3"], blocks["stage2_downsampling"]) == (3, 4)


def test_recipes_are_the_published_numbers():
    """SimCLR's appendix B.5; FINETUNE.md of MAE for ViT-Base."""
    simclr, mae = evaluation.FINETUNE_RECIPES["simclr"], evaluation.FINETUNE_RECIPES["mae"]
    assert simclr.learning_rate * simclr.batch_size / 256 == pytest.approx(0.8)
    assert (simclr.weight_decay, simclr.warmup_epochs, simclr.layer_decay) == (0, 0, 1)
    assert [simclr.epochs_of(fraction) for fraction in (0.01, 0.1, 1)] == [60, 30, 30]
    assert (mae.learning_rate, mae.layer_decay, mae.weight_decay) == (5e-4, 0.65, 0.05)
    assert (mae.batch_size, mae.epochs, mae.warmup_epochs, mae.final_rate) == (1024, 100, 5, 1e-6)
    assert (mae.mixup, mae.cutmix, mae.label_smoothing) == (0.8, 1.0, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: found 'adam'; allowed: sgd, adamw"),
        ({"learning_rate": 0.0}, r"learning_rate: found 0\.0; allowed: above 0"),
        ({"layer_decay": 1.5}, r"layer_decay: found 1\.5; allowed: in \(0, 1\]"),
        ({"warmup_epochs": 20}, "warm-up of 60 steps, which leaves none of the 60 in"),
        ({"learning_rate": 1e30}, r"learning_rate: found 1e\+30, with which the network has div"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(changes, message):
    with pytest.raises(ArgumentError, match=message):
        finetuned(settings=settings(**({"epochs": 20} | changes)))


def test_an_encoder_of_unknown_layers_has_one_rate():
    with pytest.raises(ArgumentError, match="whose layers no name tells apart"):
        models.depths({"first": jnp.ones(2)})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("finetune")
    runs.write_images(place / "images")
    return place


SMALL = {"finetune.epochs": 2, "finetune.batch_size": 8}


def test_a_run_is_fine_tuned_on_its_own_images_and_on_others(place):
    experiment, state = runs.saved(runs.settings(place / "images"), place / "run", steps=(1,))
    runs.write_images(place / "other", count=30, test=12, names=NAMES, seed=1)
    config = run.override(
        run.to_config_dict(run.read_config(place / "run")),
        {**SMALL, "labels.seeds": 2, "labels.share": 0.5, "finetune.learning_rate": 0.3},
    )
    result, numbers = run.evaluate(place / "run", "finetune", config=config)
    assert numbers["protocol"]["recipe"] == "simclr"
    assert numbers["protocol"]["learning_rate"] == 0.3
    assert set(numbers["by_seed"]) == {"0", "1"}
    assert numbers["per_class_of"] == "seed 0"
    assert {"50_percent_top1", "50_percent_top1_std", "50_percent_top5_std"} <= set(numbers)
    assert result.split == "test"
    on = {"source": "folder", "path": str(place / "other")}
    result, numbers = run.evaluate(place / "run", "finetune", config=config, on=on)
    assert numbers["protocol"]["classes"] == 3
    assert result.confusion.class_names == tuple(sorted(NAMES))
    del experiment, state


def test_groups_of_batchnorm_do_not_limit_the_batch(place):
    config = runs.settings(
        place / "images",
        **SMALL,
        **{"knn_every": 0, "method": "moco_v2", "moco.queue_size": 32, "batch_size": 16},
    )
    config = dataclasses.replace(
        config, finetune=dataclasses.replace(config.finetune, batch_size=9, layer_decay=0.5)
    )
    experiment = run.build(config, place / "moco")
    experiment = experiment._replace(mesh=MESH)
    state = jax.device_put(experiment.init_state(), sharding.replicated(MESH))
    found = measuring.measure(evaluations.finetune, experiment, state, name="finetune")
    assert found.protocol["batch_size"] == 9
    without = experiment._replace(method=experiment.method._replace(encoder=None))
    with pytest.raises(EvaluationError, match="does not say what is to be fine-tuned"):
        measuring.measure(evaluations.finetune, without, state, name="finetune")


def test_fields_change_the_recipe():
    of = lambda **fields: evaluations.finetuning(
        run.override(run.defaults(), {f"finetune.{name}": value for name, value in fields.items()})
    )
    recipe = evaluation.FINETUNE_RECIPES["mae"]
    assert of(recipe="mae", batch_size=0) == recipe
    assert of(recipe="mae") == dataclasses.replace(recipe, batch_size=256)
    changed = of(epochs=5, optimizer="adamw", mixup=0.2)
    assert (changed.epochs, changed.few_epochs, changed.optimizer) == (5, 0, "adamw")
    assert (changed.mixup, changed.learning_rate) == (0.2, 0.05)


def test_every_method_says_what_can_be_fine_tuned():
    identity = models.Network(lambda key: ({}, {}), lambda p, s, x, *, train: (x, s), 4)
    made = methods.simclr(identity, identity, views=lambda key, images, rows: (images, images))
    assert made.encoder is identity
