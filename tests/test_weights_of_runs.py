"""A run goes out as a file and comes in from one, and a new run starts from old weights."""

import dataclasses
import json
import logging
import shlex
import sys
import types

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import tokenizers
from absl import flags

import dystress_jax
from dystress_jax import run, weights
from dystress_jax.run._begin_from import begin_from
from dystress_jax.run._export import _in_torch
from tests import runs
from tests.command_lines import parsed
from tests.processes import finish, start

pytestmark = [pytest.mark.ci, pytest.mark.slow, pytest.mark.usefixtures("one_device")]

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return runs.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A run of a narrow ResNet, and its last state."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    _, state = runs.saved(runs.settings(folder), workdir)
    return workdir, state


def imported_settings(**changes):
    return run.override(run.defaults(), {"augment.size": 12, "projector.out": 8, **changes})


def test_a_run_goes_out_and_comes_in_with_the_same_features(trained, tmp_path):
    workdir, _ = trained
    out = tmp_path / "small.safetensors"
    shapes = run.export_weights(workdir, out, format="torchvision")
    assert shapes["layer2.0.conv2.weight"] == (64, 64, 3, 3)
    said = run.import_weights(imported_settings(), out, tmp_path / "new")
    assert said[0].endswith(f"(the names of torchvision): {len(shapes) - 6} arrays taken")
    assert said[1].startswith("not in it, so as new: params.projector.")
    assert said[2] == (
        "heads of other libraries are not taken: features are those of the file, embeddings those "
        "of a new head until it is trained"
    )
    assert said[3] == (
        "assumed of the images: brought to 12 x 12, then (x - 0.5) / 0.25 of x in [0, 1], 12 x 12, "
        "3 channels, stem patch (config.data.image_size, config.augment.size, config.augment.mean, "
        "config.augment.std)"
    )
    old, new = dystress_jax.load(workdir), dystress_jax.load(tmp_path / "new")
    np.testing.assert_array_equal(old(IMAGES), new(IMAGES))
    with pytest.raises(run.ConfigError, match=r"^--on\.source and --on\.path: found none, and the"):
        run.evaluate(tmp_path / "new", "knn")
    with pytest.raises(run.ConfigError, match=r"^--on\.source and --on\.path: found none"):
        run.embed(tmp_path / "new", tmp_path / "z.npz")
    assert not list(tmp_path.glob("z.npz*"))
    with pytest.raises(run.ConfigError, match="holds a run already"):
        run.import_weights(imported_settings(), out, tmp_path / "new")
    with pytest.raises(
        run.ConfigError, match=r"new holds imported weights.* with --init_from=.*new"
    ):
        run.train(run.read_config(tmp_path / "new"), tmp_path / "new")
    with pytest.raises(weights.WeightsError, match="is there already"):
        run.export_weights(workdir, out, format="torchvision")
    with pytest.raises(
        run.ConfigError, match=r"--format: found safetensors for x\.onnx; allowed: -"
    ):
        run.export_weights(workdir, tmp_path / "x.onnx")


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_a_vit_goes_out_for_timm_and_comes_in(positions, folder, tmp_path):
    model = {"model.name": "vit_micro", "model.positions": positions}
    runs.saved(runs.settings(folder, **model), tmp_path / "run", steps=(1,))
    out, told = tmp_path / "vit.safetensors", []
    shapes = run.export_weights(tmp_path / "run", out, format="timm", tell=told.append)
    assert shapes["pos_embed"] == (1, 10, 64)
    assert told[0].endswith("12 x 12, 3 channels")
    assert told[1:] == [f"back here: dystress import {out}"]
    with parsed("import", out) as (_, read):
        run.import_weights(read.settings(flags.FLAGS.config), out, tmp_path / "new")
    old, new = dystress_jax.load(tmp_path / "run"), dystress_jax.load(tmp_path / "new")
    np.testing.assert_array_equal(old(IMAGES), new(IMAGES))


CLIP = {"text.pooling": "eot", "model.quick_gelu": True}
SIGLIP = {"text.pooling": "last", "model.pooling": "attention", "loss.name": "siglip"}
SIGLIP |= {"topology.dims": 64}


@pytest.mark.parametrize(
    ("settings", "formats"),
    [(CLIP, ("open_clip",)), (SIGLIP, ("open_clip", "huggingface"))],
    ids=["CLIP", "SigLIP"],
)
def test_towers_go_out_with_their_scale(settings, formats, folder, tmp_path):
    settings = {"model.name": "vit_micro", **settings}
    runs.saved(runs.clip_settings(folder, **settings), tmp_path / "run", steps=(1,))
    for name in formats:
        out, told = tmp_path / f"{name}.safetensors", []
        run.export_weights(tmp_path / "run", out, format=name, tell=told.append)
        vocabulary = f"--config.text.vocabulary={tmp_path}/run/tokenizer.json"
        assert told[-1] == f"back here: dystress import {out} {vocabulary}"
        library = "open_clip" if name == "open_clip" else "Hugging Face"
        ours = settings["text.pooling"] == "eot"
        assert [line.split()[0] for line in told[1:-1]] == (["the", "texts"] if ours else [])
        if ours:  # a vocabulary of the run's own words
            assert told[2].startswith("texts end with id 3, and features are read there; ")
            assert library in told[2]
        file = safetensors.numpy.load_file(out)
        assert np.exp(file["logit_scale"]) == pytest.approx(1 / 0.2)
        assert ("logit_bias" in file) == ("loss.name" in settings)
        shape = (1,) if name == "huggingface" and "loss.name" in settings else ()
        assert all(x.shape == shape for n, x in file.items() if n.startswith("logit_"))
        with parsed("import", out, vocabulary) as (_, read):
            into = read.settings(flags.FLAGS.config)
        said = run.import_weights(into, out, tmp_path / f"run_{name}")
        assert any(s.startswith("its temperature was 0.2: config.temperature.tau") for s in said)
        biased = any(s.startswith("its bias was -10: config.temperature.bias") for s in said)
        assert biased == ("loss.name" in settings)
        old, new = (dystress_jax.load(tmp_path / part) for part in ("run", f"run_{name}"))
        np.testing.assert_array_equal(old.encode_images(IMAGES), new.encode_images(IMAGES))
        texts = ["a red drawing", "a green drawing"]
        np.testing.assert_array_equal(old.encode_texts(texts), new.encode_texts(texts))


@pytest.mark.parametrize(
    ("temperature", "scale"),
    [
        ({"name": "constant", "tau": 0.05}, {"logit_scale": pytest.approx(np.log(20), rel=1e-6)}),
        ({"name": "dystress", "tau_min": 0.02, "tau_max": 0.04}, {}),
    ],
    ids=lambda x: x.get("name"),
)
def test_towers_go_out_with_a_scale_only_where_the_run_has_one(
    temperature, scale, folder, tmp_path
):
    of_run = {f"temperature.{name}": value for name, value in temperature.items()}
    plain = {"model.name": "vit_micro", "text.pooling": "eot", "temperature.tau": 0.1}
    config = runs.clip_settings(folder, **plain | of_run)
    runs.saved(config, tmp_path / "run", steps=(1,))
    out = tmp_path / "open_clip.safetensors"
    run.export_weights(tmp_path / "run", out, format="open_clip")
    file = safetensors.numpy.load_file(out)
    assert {name: x.item() for name, x in file.items() if name.startswith("logit")} == scale


def test_towers_come_in_with_a_vocabulary_whose_first_number_is_a_word(folder, tmp_path):
    """As CLIP's own, in which 0 is "!"."""
    words = ["a", "red", "drawing", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    pipeline = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    pipeline.save(str(tmp_path / "tokenizer.json"))
    config = runs.clip_settings(
        folder,
        **{"model.name": "vit_micro", "text.pooling": "eot", "augment.size": 12},
        **{"text.vocabulary": str(tmp_path / "tokenizer.json")},
        **{"text.vocab_size": run.Config().text.vocab_size},
    )
    runs.saved(config, tmp_path / "run", steps=(1,))
    out = tmp_path / "open_clip.safetensors"
    assert run.export_weights(tmp_path / "run", out, format="open_clip")[
        "token_embedding.weight"
    ] == (len(words), 64)
    run.import_weights(config, out, tmp_path / "new")
    old, new = (dystress_jax.load(tmp_path / name) for name in ("run", "new"))
    texts = ["a red drawing", "a drawing"]
    np.testing.assert_array_equal(old.encode_texts(texts), new.encode_texts(texts))


@pytest.mark.parametrize("method", ["simclr", "moco_v3", "moco_v2", "byol"])
def test_a_new_run_starts_from_old_weights(method, trained, folder, tmp_path):
    workdir, old = trained
    settings = runs.settings(folder, method=method)
    experiment = run.build(settings, tmp_path)
    begun = begin_from(experiment, str(workdir))
    jax.tree.map(
        np.testing.assert_array_equal, begun.state.params["encoder"], old.params["encoder"]
    )
    jax.tree.map(np.testing.assert_array_equal, begun.state.stats["encoder"], old.stats["encoder"])
    follows = method in ("moco_v2", "moco_v3", "byol")
    assert len(experiment.method.followers) == follows
    for name in experiment.method.followers:
        followed = {part: begun.state.params[part] for part in begun.state.memory[name]}
        jax.tree.map(np.testing.assert_array_equal, begun.state.memory[name], followed)
    # A step gives every array back to the device once: no two may be the same one.
    place = lambda x: x.addressable_shards[0].data.unsafe_buffer_pointer()
    places = [place(x) for x in jax.tree.leaves(begun.state.memory) if x.size]
    places += [place(x) for x in jax.tree.leaves(begun.state.params)]
    assert len(places) == len(set(places))
    # A head of the same shape goes with it, the probe begins anew.
    same = begun.state.params["projector"]
    if method == "simclr":
        jax.tree.map(np.testing.assert_array_equal, same, old.params["projector"])
    assert not np.any(begun.state.params["probe"]["kernel"])
    assert int(begun.state.step) == 0


def test_training_starts_from_them_once(trained, folder, tmp_path, capsys):
    workdir, _ = trained
    config = runs.settings(
        folder, **{"init_from": str(workdir), "temperature.tau_max": 0.5, "steps": 1}
    )
    run.train(config, tmp_path / "new")
    assert f"started from {workdir} (this library): " in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "config.json").read_text())["init_from"] == str(workdir)
    run.train(dataclasses.replace(config, steps=2), tmp_path / "new")
    told = capsys.readouterr().out
    assert "going on from the checkpoint at step 1" in told
    assert "started from" not in told


@pytest.mark.parametrize(
    ("changes", "source", "message"),
    [
        (
            {"model.stem": "cifar"},
            "run",
            r"params\.encoder\.conv\.kernel: found \[4, 4, 3, 32\].* That run has "
            r"--config\.model\.stem=patch\.$",
        ),
        (
            {"model.name": "resnet18", "model.stem": "cifar"},
            "run",
            r"missing params\.encoder\.blocks\..* That run has --config\.model\.name=small "
            r"--config\.model\.stem=patch\.$",
        ),
        ({}, "nothing", r"nothing: cannot be read"),
        ({}, "empty", r"empty: found no run"),
        ({}, "unsaved", r"unsaved: found a run without a checkpoint; allowed"),
    ],
)
def test_weights_of_another_model_start_no_run(changes, source, message, trained, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "unsaved").mkdir()
    (tmp_path / "unsaved" / "config.json").write_text("{}")
    place = trained[0] if source == "run" else tmp_path / source
    config = runs.settings(folder, **{"init_from": str(place), **changes})
    with pytest.raises((weights.WeightsError, run.ConfigError), match=message):
        run.train(config, tmp_path / "new")
    assert not (tmp_path / "new" / "config.json").exists()


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_a_file_of_another_stem_names_the_stem(stem, trained, tmp_path):
    for name in ("torchvision", "safetensors"):
        out = tmp_path / f"{name}.safetensors"
        run.export_weights(trained[0], out, format=name)
        with pytest.raises(weights.WeightsError, match=r"4 x 4: --config\.model\.stem=patch\.$"):
            run.import_weights(imported_settings(**{"model.stem": stem}), out, tmp_path / "new")
    with pytest.raises(weights.WeightsError) as told:  # it is no stem that differs
        run.import_weights(imported_settings(**{"model.name": "vit_micro"}), out, tmp_path / "new")
    assert "--config.model.stem" not in str(told.value)


def test_a_vit_of_another_patch_or_with_learned_positions_names_the_flags(folder, tmp_path):
    model = {"model.name": "vit_micro", "model.positions": "learned"}
    runs.saved(runs.settings(folder, **model), tmp_path / "run", steps=(1,))
    out = tmp_path / "vit.safetensors"
    run.export_weights(tmp_path / "run", out, format="timm")
    for changes in ({"model.patch": 6, "model.positions": "learned"}, {}):
        settings = imported_settings(**{"model.name": "vit_micro", **changes})
        side = run.defaults().model.patch
        said = rf"patches are {side} x {side}: --config\.model\.patch={side}\.$"
        said = said if changes else r"--config\.model\.positions=learned\.$"
        with pytest.raises(weights.WeightsError, match=said):
            run.import_weights(settings, out, tmp_path / "new")


@pytest.mark.parametrize("name", ["torchvision", "lightly", "safetensors"])
@pytest.mark.parametrize("colours", [True, False])
def test_what_is_exported_says_what_it_expects_and_how_it_comes_back(
    name, colours, folder, tmp_path
):
    model = {"model.stem": "cifar"}
    if colours:
        mean = {"augment.mean": (0.4, 0.5, 0.6), "augment.size": 8}
        config = runs.settings(folder, **model, **mean, **{"projector.name": "moco_v2"})
    else:
        config = runs.grey_settings(tmp_path / "grey.npz", **model)
    runs.saved(config, tmp_path / "run", steps=(1,))
    out, told = tmp_path / "my file.safetensors", []
    run.export_weights(tmp_path / "run", out, format=name, tell=told.append)
    expects = "(x - (0.4, 0.5, 0.6)) / 0.25 of x in [0, 1], 8 x 8, 3 channels"
    expects = expects if colours else "(x - 0.5) / 0.25 of x in [0, 1], 12 x 12, 1 channel"
    assert told[0] == f"it expects: {expects}, stem cifar"
    with safetensors.safe_open(out, "numpy") as file:
        about = file.metadata()
    assert about["mean"] == ("(0.4, 0.5, 0.6)" if colours else "0.5")
    assert (about["std"], about["stem"]) == ("0.25", "cifar")
    assert (about["image_size"], about["channels"]) == (("8", "3") if colours else ("12", "1"))
    no_class = "in torch: torchvision has no class for the network small, which has two stages"
    assert told[1:-1] == ([no_class] if name == "torchvision" else [])
    back, command = told[-1].split(": ", 1)
    assert back == "back here"
    dystress, to_import, file = shlex.split(command)
    assert (dystress, to_import, file) == ("dystress", "import", str(out))
    with parsed("import", file) as (_, read):
        settings = read.settings(flags.FLAGS.config)
    said = run.import_weights(settings, file, tmp_path / "new")
    assert any(line.startswith("not in it") for line in said) == (name != "safetensors")
    images = IMAGES if colours else IMAGES[..., :1]
    old, new = (dystress_jax.load(tmp_path / of) for of in ("run", "new"))
    np.testing.assert_array_equal(old(images), new(images))
    if name == "safetensors":
        np.testing.assert_array_equal(old.embeddings(images), new.embeddings(images))


def test_a_vit_of_grey_images_comes_back_from_its_file_and_from_its_run(tmp_path):
    model = {"model.name": "vit_micro", "model.heads": 4, "model.freeze_patches": True}
    config = runs.grey_settings(tmp_path / "grey.npz", **model)
    runs.saved(config, tmp_path / "run", steps=(1,))
    told: list[str] = []
    for name in ("safetensors", "timm"):
        out = tmp_path / f"{name}.safetensors"
        run.export_weights(tmp_path / "run", out, format=name, tell=told.append)
        for source in (out, tmp_path / "run") if name == "safetensors" else (out,):
            place = tmp_path / f"{name} {source.name}"
            with parsed("import", f"--workdir={place}", str(source)) as (_, read):
                run.import_weights(read.settings(flags.FLAGS.config), source, place)
            old, new = (dystress_jax.load(of) for of in (tmp_path / "run", place))
            np.testing.assert_array_equal(old(IMAGES[..., :1]), new(IMAGES[..., :1]))
    assert any(line.startswith("attention has 4 heads, which timm does not see") for line in told)
    # A run whose patches are trained starts from frozen ones too.
    trained = runs.grey_settings(tmp_path / "grey.npz", **model | {"model.freeze_patches": False})
    made = run.build(trained, tmp_path / "other")
    begun = begin_from(made, str(tmp_path / "safetensors.safetensors"))
    kernel = begun.state.params["encoder"]["patches"]["kernel"]
    frozen = safetensors.numpy.load_file(tmp_path / "safetensors.safetensors")
    np.testing.assert_array_equal(kernel, frozen["stats.encoder.patches.kernel"])


def test_settings_in_a_file_name_no_code(tmp_path):
    file, said = tmp_path / "z.safetensors", {"model.name": "os:abort", "method": "os:abort"}
    said |= {"model.patch": 8, "data.path": "/", "text.vocabulary": "/x", "none": 1}
    weights.write(file, {"x": np.ones(2, np.float32)}, {"settings": json.dumps(said)})
    assert run.imported(file) == {"model.patch": 8}
    for text in ("{", "[]", '"a"'):
        file.unlink()
        weights.write(file, {"x": np.ones(2, np.float32)}, {"settings": text})
        assert run.imported(file) == (run.IMPORTED if text == "{" else {})


def test_towers_that_compare_by_no_cosine_go_out_without_a_scale(folder, tmp_path):
    settings = CLIP | {"model.name": "vit_micro", "topology.name": "euclidean"}
    runs.saved(runs.clip_settings(folder, **settings), tmp_path / "run", steps=(1,))
    out, told = tmp_path / "z.safetensors", []
    shapes = run.export_weights(tmp_path / "run", out, format="open_clip", tell=told.append)
    assert "logit_scale" not in shapes
    assert any(line.startswith("the run compares by euclidean, open_clip by cos") for line in told)


@pytest.mark.parametrize(
    ("model", "channels", "expected"),
    [
        (
            {"name": "resnet18", "stem": "cifar"},
            3,
            "model = torchvision.models.resnet18(); "
            "model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False); "
            "model.maxpool = torch.nn.Identity(); model.fc = torch.nn.Identity()",
        ),
        (
            {"name": "resnet50", "stem": "imagenet"},
            1,
            "model = torchvision.models.resnet50(); "
            "model.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False); "
            "model.fc = torch.nn.Identity()",
        ),
        (
            {"name": "resnet50", "stem": "imagenet"},
            3,
            "model = torchvision.models.resnet50(); model.fc = torch.nn.Identity()",
        ),
        (
            {"name": "resnet50", "stem": "imagenet", "options": {"width": 8}},
            3,
            "torchvision has no class for a ResNet whose first layer has 8 channels",
        ),
    ],
)
def test_what_torchvision_must_set_is_told(model, channels, expected):
    assert _in_torch(run.from_config_dict({"model": model}), channels) == expected


def test_an_encoder_of_grey_images_goes_out_and_comes_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 1), dtype=np.uint8)
    arrays = {"images": pixels, "labels": np.arange(40) % 2}
    splits = {f"{split}_{n}": x for split in ("train", "test") for n, x in arrays.items()}
    np.savez(tmp_path / "grey.npz", **splits)
    config, again = (
        runs.settings(
            path, **{"data.source": source, "augment.mean": (0.5,), "augment.std": (0.25,)}
        )
        for source, path in (("npz", tmp_path / "grey.npz"), ("embedded", ""))
    )
    again = dataclasses.replace(again, augment=dataclasses.replace(again.augment, size=12))
    runs.saved(config, tmp_path / "run", steps=(1,))
    for name in ("torchvision", "safetensors"):
        out = tmp_path / f"{name}.safetensors"
        run.export_weights(tmp_path / "run", out, format=name)
        run.import_weights(again, out, tmp_path / name)
        old, new = (dystress_jax.load(tmp_path / of) for of in ("run", name))
        np.testing.assert_array_equal(old(pixels[:3]), new(pixels[:3]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnx", r"ends in \.safetensors; allowed: \.onnx\.$"),
        ("jax", r"--format: found 'jax'; allowed: safetensors, torchvision, .*, onnx"),
        ("timm", r"timm has no names for this network; allowed: torchvision, lightly, safetensors"),
    ],
)
def test_a_format_that_does_not_fit_writes_nothing(name, message, trained, tmp_path):
    with pytest.raises((weights.WeightsError, run.ConfigError), match=message):
        run.export_weights(trained[0], tmp_path / "x.safetensors", format=name)
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_says_what_to_install(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    message = (
        r"--format: found onnx, and no package jax2onnx; "
        r".*pip install .*\[onnx\]', then pip install --no-deps jax2onnx"
    )
    with pytest.raises(run.ConfigError, match=message):
        run.export_weights(trained[0], tmp_path / "x.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_is_converted_without_undoing_how_the_user_logs(trained, tmp_path, monkeypatch):
    def convert(*arguments, **keywords):
        assert not logging.getLogger("jax2onnx").isEnabledFor(logging.WARNING)
        raise ValueError("no")

    monkeypatch.setitem(sys.modules, "jax2onnx", types.SimpleNamespace(to_onnx=convert))
    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace())
    logging.disable(logging.ERROR)
    try:
        with pytest.raises(weights.WeightsError, match=r"cannot convert the encoder \(ValueError"):
            run.export_weights(trained[0], tmp_path / "x.onnx", format="onnx")
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)


def test_an_import_that_fails_leaves_nothing(tmp_path):
    weights.write(tmp_path / "x.safetensors", {"a": np.ones(3, np.float32)})
    with pytest.raises(weights.WeightsError, match="found 0 of the encoder's arrays"):
        run.import_weights(imported_settings(), tmp_path / "x.safetensors", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_import_for_which_there_is_no_room_leaves_nothing(trained, tmp_path):
    out = tmp_path / "small.safetensors"
    run.export_weights(trained[0], out)
    # In a process of its own: what Orbax still writes after the first failure ends with it.
    new = tmp_path / "around" / "new"
    limited = (
        "import resource; from tests.test_weights_of_runs import imported_settings, run; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        f"run.import_weights(imported_settings(), {str(out)!r}, {str(new)!r})"
    )
    assert "cannot be written" in finish(start([sys.executable, "-c", limited]), code=1)
    assert list(tmp_path.iterdir()) == [out]


def test_the_command_prints_what_the_network_expects(trained, tmp_path, capsys):
    arguments = (f"--workdir={trained[0]}", f"--out={tmp_path / 'x.safetensors'}")
    with parsed("export", *arguments) as (module, command):
        module.export(command)
    counted, expects, back = capsys.readouterr().out.splitlines()
    assert counted.endswith("numbers, as safetensors")
    assert expects.startswith("it expects: (x - 0.5) / 0.25 of x in [0, 1], 12 x 12, 3 channels")
    assert back.startswith(f"back here: dystress import {tmp_path}")
