import dataclasses
import functools
import importlib
import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

import dystress_jax
from dystress_jax import augment, data, losses, models, optim, run, sharding
from dystress_jax.errors import ArgumentError
from dystress_jax.run import Config, ConfigError, checks, cli, config, from_config_dict, values
from dystress_jax.run import _build as build
from dystress_jax.run.evaluations import CLOSING, EVALUATIONS
from dystress_jax.run.fields import (
    as_fields,
    differences,
    fields,
    get,
    groups,
    may_change_on_resume,
)
from dystress_jax.run.methods import LOSSES, METHODS, TOPOLOGIES, Parts
from dystress_jax.run.overrides import check_overrides, take_from_absl, take_options
from dystress_jax.run.tables import find
from dystress_jax.run.temperature import TEMPERATURES
from tests.command_lines import parsed, reading


def test_the_defaults_are_a_valid_config():
    assert from_config_dict(run.defaults()) == Config()


def test_a_config_survives_the_trip_through_a_config_dict():
    changed = dataclasses.replace(
        Config(), seed=3, temperature=config.Temperature(name="constant", tau=0.5)
    )
    assert from_config_dict(run.to_config_dict(changed)) == changed


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("settings", [{"steps": 2}, run.defaults()])
def test_loose_settings_are_refused_where_checked_ones_are_needed(settings, tmp_path):
    kind = type(settings).__name__
    for call in (run.train, run.build):
        with pytest.raises(ConfigError, match=f"found a {kind}; allowed: .* run.from_config_dict"):
            call(settings, tmp_path / "run")
    assert not [*tmp_path.iterdir()]


def test_one_number_is_a_tuple_of_one():
    built = from_config_dict({"augment": {"std": 0.5}, "labels": {"shots": 3}})
    assert (built.augment.std, built.labels.shots) == ((0.5,), (3,))


def test_a_whole_number_is_a_good_real_number():
    built = from_config_dict({"optimizer": {"learning_rate": 1}})
    assert built.optimizer.learning_rate == 1.0
    assert isinstance(built.optimizer.learning_rate, float)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"temprature": {}},
            r"config\.temprature: no such field\. Did you mean config\.temperature",
        ),
        (
            {"temperature": {"tau_mn": 0.1}},
            r"config\.temperature\.tau_mn: .*Did you mean config\.temperature\.tau_min",
        ),
        (
            {"temperature": {"x": 1}},
            r"temperature\.x: no such field\. Allowed: config\.temperature\.name, .*options\.$",
        ),
        ({"seed": 1.5}, r"config\.seed: found 1\.5; allowed: a whole number"),
        ({"method": "SimCLR"}, r"config\.method: found 'SimCLR'; .* Did you mean simclr\?"),
        ({"augment": {"mean": (123.7,)}}, r"config\.augment\.mean: found 123\.7; allowed: .*1"),
        ({"seed": True}, r"config\.seed: found True; allowed: a whole number"),
        ({"seed": -1}, r"config\.seed: found -1; allowed: >= 0"),
        ({"dtype": 16}, r"config\.dtype: found 16; allowed: a text"),
        ({"data": "cifar"}, r"config\.data: found 'cifar'; allowed: a group of fields"),
        (
            {"model": {"name": "resnet55"}},
            r"config\.model\.name: found 'resnet55'; allowed: small, .*Did you mean resnet50",
        ),
        ({"temperature": {"tau": 0.0}}, r"config\.temperature\.tau: found 0\.0; allowed: above 0"),
        (
            {"optimizer": {"learning_rate": float("nan")}},
            r"config\.optimizer\.learning_rate: found nan; allowed: a finite number",
        ),
        (
            {"temperature": {"tau_min": 0.3}},
            r"temperature\.tau_min: found 0\.3; allowed: <= config\.temperature\.tau_max = 0\.2\.$",
        ),
        ({"data": {"source": "folder"}}, r"config\.data\.path: found '' .*directory or the file"),
        (
            {"data": {"source": "npz"}},
            r"config\.data\.path: found '' with .*source npz",
        ),
        ({"data": {"holdout": 0.0}}, r"config\.data\.holdout: found 0 with config\.knn_every"),
        ({"loss": {"options": 3}}, r"config\.loss\.options: found 3; allowed: names and values"),
        ({"temperature": {"rho": "x"}}, r"temperature\.rho: found 'x'; allowed: a number or None"),
        (
            {"temperature": {"name": "free"}},
            r"config\.temperature\.name: free is now called temperature_free",
        ),
        (
            {"data": {"wrong_pairs": 0.5}},
            r"config\.data\.wrong_pairs: is now called config\.data\.caption_noise\.",
        ),
        ({"data": {"holdout": 0.6}}, r"config\.data\.holdout: found 0\.6; allowed: <= 0\.5"),
        ({"augment": {"mean": (0.1, 0.2)}}, r"config\.augment\.mean: .*1 or 3 numbers"),
        ({"augment": {"mean": (float("nan"),)}}, r"augment\.mean: found nan; .* a finite number"),
        ({"augment": {"std": (float("inf"),)}}, r"augment\.std: found inf; .* a finite number"),
        ({"augment": {"std": (0.2, 0.0, 0.1)}}, r"augment\.std: found 0\.0; allowed: above 0"),
        ({"temperature": {"tau_max": 10**400}}, r"tau_max: found inf; allowed: a finite number"),
        ({"probe": {"learning_rates": (0.1, 10**400)}}, r"learning_rates: found inf; allowed: a f"),
        ({"probe": {"l2": (-1.0,), "solver": "lbfgs", "features": "cached"}}, r"found -1\.0; al"),
        ({"probe": {"learning_rates": ()}}, r"learning_rates: found none; allowed: numbers above"),
        ({"labels": {"fractions": (0.1, 2.0)}}, r"labels\.fractions: found 2\.0; allowed: <= 1"),
        ({"labels": {"shots": (0, 5)}}, r"labels\.shots: found 0; allowed: >= 1"),
        ({"labels": {"shots": (1, float("inf"))}}, r"labels\.shots: found \(1, inf\); allowed: "),
        ({"init_prefix": "module."}, r"init_prefix: found 'module\.' .* with config\.init_from"),
        ({"augment": {"std": (0.0,)}}, r"config\.augment\.std: .*above 0"),
        ({"augment": {"std": "0.5"}}, r"config\.augment\.std: .*a tuple of numbers"),
        ({"labels": {"shots": (1, 1.5)}}, r"config\.labels\.shots: .*\(1, 1\.5\); .*whole numbers"),
        ({"labels": {"shots": (float("inf"),)}}, r"config\.labels\.shots: .*of whole numbers"),
        (
            {"method": "moco_v2", "moco": {"queue_size": 1000}},
            r"config\.moco\.queue_size: found 1000 with config\.batch_size 256; .*: 768 or 1024",
        ),
        (
            {"method": "moco_v2", "moco": {"queue_size": 128}},
            r"config\.moco\.queue_size: found 128 with config\.batch_size 256; .* nearest: 256\.",
        ),
        (
            {"method": "moco_v2", "moco": {"bn_groups": 7}},
            r"config\.moco\.bn_groups: found 7 with config\.batch_size 256; .*divides the batch",
        ),
        (
            {"method": "moco_v2", "moco": {"bn_groups": 256}},
            r"config\.moco\.bn_groups: found 256 .*at least 2 images in each",
        ),
        (
            {"method": "moco_v2", "loss": {"strategy": "ring"}},
            r"config\.loss\.strategy: found ring with config\.method moco_v2, whose queue .*; "
            r"allowed: auto, dense, tiled, fused; or ring with config\.method simclr, moco_v3, ",
        ),
        (
            {"model": {"heads": 3}},
            r"config\.model\.heads: found 3 with config\.model\.name small, .* with .* vit_micro,",
        ),
        ({"model": {"freeze_patches": True}}, r"config\.model\.freeze_patches: found True with"),
        (
            {"batch": {"micro_batches": 3}},
            r"config\.batch\.micro_batches: found 3 with config\.batch_size 256; .* nearest: 2\.",
        ),
        (
            {"batch": {"micro_batches": 256}},
            r"config\.batch\.micro_batches: found 256 .* at least 2 images a piece, .*: 128\.",
        ),
        (
            {"method": "moco_v2", "batch": {"micro_batches": 32}, "moco": {"bn_groups": 16}},
            r"config\.moco\.bn_groups: found 16 with .* in 32 micro-batches; .* each of them",
        ),
        (
            {"method": "moco_v3", "loss": {"name": "supcon"}},
            r"config\.loss\.name: found supcon with config\.method moco_v3; allowed: auto, "
            r"softmax; or supcon with config\.method simclr, MODULE:OBJECT\.$",
        ),
        (
            {"loss": {"name": "dcl"}, "temperature": {"name": "macl"}},
            r"config\.temperature\.name: found macl with config\.loss\.name dcl, which has no "
            r"probability of the positive to weigh by; .*; or macl with config\.loss\.name auto, ",
        ),
        (
            {"method": "clip", "temperature": {"name": "macl"}},
            r"config\.temperature\.name: found macl .*the mean of two directions",
        ),
        (
            {"temperature": {"name": "macl"}, "loss": {"options": {"decoupled": True}}},
            r"config\.loss\.options\.decoupled: found True with config\.temperature\.name macl",
        ),
        (
            {
                "method": "clip",
                "temperature": {"name": "isogclr"},
                "data": {"prompts": "photos"},
            },
            r"config\.temperature\.name: found isogclr with config\.data\.prompts photos, .*; or "
            r"isogclr with config\.data\.prompts ''\.",
        ),
        (
            {
                "data": {"source": "folder", "path": "images", "on_error": "skip"},
                "temperature": {"name": "isogclr"},
            },
            r"config\.temperature\.name: found isogclr .*their numbers would shift",
        ),
        (
            {"method": "clip", "loss": {"name": "siglip"}},
            r"config\.temperature\.name: found dystress with config\.loss\.name siglip, which "
            r"learns its scale and its bias; allowed: learned; or dystress with config\.loss\.name "
            r"auto, softmax, MODULE:OBJECT\.$",
        ),
        (
            {"loss": {"name": "rgcl"}},
            r"config\.loss\.name: found rgcl with config\.temperature\.name dystress, .* "
            r"multiplied by it; .* config\.temperature\.name constant, .*, isogclr, tempnet, "
            r"MODULE:OBJECT\.$",
        ),
        (
            {"method": "moco_v3", "loss": {"name": "rgcl"}},
            r"config\.loss\.name: found rgcl with config\.method moco_v3; .*with "
            r"config\.method simclr",
        ),
        (
            {"temperature": {"name": "isogclr", "tau": 0.3}},
            r"config\.temperature\.tau: found 0\.3; allowed for isogclr: from tau_min 0\.1",
        ),
        (
            {"temperature": {"name": "learned", "tau": 0.001}},
            r"config\.temperature\.tau: found 0\.001, a scale of 1000, .* from 0\.01 to 1",
        ),
        (
            {"method": "clip", "topology": {"tokens": 4}},
            r"config\.topology\.tokens: found 4 with config\.topology\.name sphere, .*oblique",
        ),
        (
            {"method": "clip", "topology": {"match_range": True}},
            r"config\.topology\.match_range: found True with config\.topology\.name sphere",
        ),
        (
            {"method": "clip", "data": {"prompts": "a photo"}},
            r"config\.data\.prompts: found 'a photo'; allowed: name, photos, drawings",
        ),
        ({"method": "moco_v4"}, r"config\.method: found 'moco_v4'; .* Did you mean moco_v[23]\?"),
        (
            {"probe": {"solver": "lbfgs"}},
            r"config\.probe\.solver: found lbfgs .* differ in every pass; allowed: sgd; or lbfgs "
            r"with config\.probe\.features cached\.$",
        ),
        (
            {"method": "clip", "topology": {"name": "euclidean"}},
            r"found dystress .* have no limits, .*; allowed: .*learned.*; or "
            r"dystress with config\.topology\.name sphere, oblique, geodesic, oblique_geodesic\.$",
        ),
        (
            {
                **{"method": "clip", "topology": {"name": "geodesic"}},
                "temperature": {"name": "temperature_free"},
            },
            r"temperature_free .* not from -x to x, .*config\.topology\.name sphere, oblique\.$",
        ),
    ],
)
def test_a_bad_setting_is_refused_by_its_full_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_config_dict(settings)


# A setting, and what it applies to: the settings that would ignore it, and those that do not.
CLIP, VIT, FOLDER = {"method": "clip"}, {"model": {"name": "vit_tiny"}}, {"source": "folder"}
OBLIQUE = {**CLIP, "topology": {"name": "oblique"}}
LBFGS = {"probe": {"solver": "lbfgs", "features": "cached"}}
IGNORED = [
    ("data.prompts", "photos", {}, CLIP),
    ("data.caption_noise", 0.5, {}, CLIP),
    (
        "data.name",
        "cifar10",
        {"data": {"source": "npz", "path": "x"}},
        {"data": {"source": "tfds"}},
    ),
    ("data.path", "images", {}, {"data": FOLDER}),
    ("data.captions", "c.csv", {}, {"data": {**FOLDER, "path": "images"}}),
    ("data.on_error", "skip", {}, {"data": {**FOLDER, "path": "images"}}),
    ("data.outside", True, {}, {"data": {**FOLDER, "path": "images"}}),
    ("augment.crop_min", 0.5, {"augment": {"recipe": "whole"}}, {}),
    ("augment.flip", 0.0, {"augment": {"recipe": "captioned"}}, {}),
    ("augment.strength", 0.5, {"augment": {"recipe": "weak"}}, {}),
    ("augment.grayscale", 0.1, {"augment": {"recipe": "weak"}}, {}),
    ("augment.blur", 0.5, {"augment": {"recipe": "moco_v3"}}, {"augment": {"recipe": "moco_v2"}}),
    ("topology.dims", 8, {}, CLIP),
    ("text.context", 8, {}, CLIP),
    ("text.vocab_size", 99, {**CLIP, "text": {"vocabulary": "vocab.txt"}}, CLIP),
    (
        "topology.mode",
        "reshape",
        OBLIQUE,
        {**CLIP, "topology": {"name": "oblique", "tokens": 2}},
    ),
    ("zero_shot.prompts", "name", {}, CLIP),
    ("projector.out", 64, CLIP, {}),
    ("projector.out", 64, {"projector": {"name": "none"}}, {"projector": {"name": "simclr"}}),
    ("projector.hidden", 64, {"projector": {"name": "none"}}, {"method": "moco_v3"}),
    ("projector.name", "simclr3", CLIP, {}),
    ("checkpoint_keep", 3, {"checkpoint_every": 0}, {}),
    ("init_prefix", "module.", {}, {"init_from": "weights.pth"}),
    ("model.stem", "cifar", VIT, {"model": {"name": "resnet18"}}),
    ("model.patch", 8, {}, VIT),
    ("model.heads", 2, {**CLIP, **VIT}, VIT),
    ("temperature.tau", 0.5, {}, {"temperature": {"name": "constant"}}),
    ("temperature.tau_max", 0.5, {"temperature": {"name": "constant"}}, {}),
    ("temperature.shift", -0.2, {}, {"temperature": {"name": "shifted_dystress"}}),
    ("temperature.rho", 0.0, {}, {"temperature": {"name": "isogclr"}}),
    (
        "temperature.bias",
        -5.0,
        {**CLIP, "temperature": {"name": "learned"}},
        {**CLIP, "loss": {"name": "siglip"}, "temperature": {"name": "learned"}},
    ),
    ("moco.momentum", 0.5, {}, {"method": "moco_v3"}),
    ("moco.queue_size", 512, {"method": "moco_v3"}, {"method": "moco_v2"}),
    ("moco.bn_groups", 1, {**VIT, "method": "moco_v2"}, {"method": "moco_v2"}),
    ("moco.scale_by_tau", False, {"method": "moco_v2"}, {"method": "moco_v3"}),
    ("optimizer.momentum", 0.5, {"optimizer": {"name": "adamw"}}, {"optimizer": {"name": "lars"}}),
    ("optimizer.beta2", 0.98, {}, {"optimizer": {"name": "adamw"}}),
    ("optimizer.eps", 1e-6, {"optimizer": {"name": "lars"}}, {"optimizer": {"name": "adamw"}}),
    ("optimizer.decay_vectors", False, {"optimizer": {"name": "lars"}}, {}),
    ("optimizer.decay_vectors", False, {"optimizer": {"weight_decay": 0}}, {}),
    ("loss.tile_size", 64, {"loss": {"strategy": "dense"}}, {"loss": {"strategy": "tiled"}}),
    ("probe.l2", (0.1,), {}, LBFGS),
    ("probe.epochs", 3, LBFGS, {}),
]


def with_setting(settings, name, value):
    group, _, last = name.rpartition(".")
    return {
        **settings,
        **({group: {**settings.get(group, {}), last: value}} if group else {last: value}),
    }


@pytest.mark.parametrize(("name", "value", "ignores", "uses"), IGNORED)
def test_a_setting_that_the_run_would_ignore_is_refused(name, value, ignores, uses):
    message = rf"config\.{name}: found .* which would ignore it; allowed: with .* Delete it"
    with pytest.raises(ConfigError, match=message):
        from_config_dict(with_setting(ignores, name, value))
    found = from_config_dict(with_setting(uses, name, value))
    assert get(found, name) == value


def test_every_field_that_does_not_apply_always_is_tried_above():
    conditional = {f.name for f in fields() if f.only_for and f.name != "loss.name"}
    alike = {  # in the same group, under the same kind of condition as one that is tried
        *("text.name", "text.pooling", "text.vocabulary"),
        *("topology.name", "topology.tokens", "topology.match_range"),
        *("zero_shot.classes", "zero_shot.class_names"),
        *("probe.learning_rates", "probe.batch_size", "model.freeze_patches"),
        *("model.positions", "model.pooling", "model.quick_gelu", "data.whole"),
        *("model.zero_residual", "optimizer.form", "checkpoint_on_error"),
        *(f"temperature.{n}" for n in ("name", "tau_min", "width", "stop_gradient", "half_period")),
        "temperature.interval",
        *(f"temperature.{n}" for n in ("min_scale", "max_scale", "alpha", "threshold", "options")),
        *("temperature.learning_rate", "loss.strategy", "loss.options", "loss.precision"),
    }
    assert conditional == {name for name, *_ in IGNORED} | alike


def test_a_flag_puts_back_what_the_file_has_set_for_another_name():
    """A file for one temperature goes with every other that the command line names."""
    file = {"temperature": {"name": "constant", "tau": 0.5}}
    settings = with_setting(file, "temperature.name", "dystress")
    found = from_config_dict(settings, overridden={"temperature.name": "constant"})
    assert found.temperature.tau == Config().temperature.tau
    # What the command line itself has set is never dropped in silence.
    both = {"temperature.name": "constant", "temperature.tau": 0.1}
    for overridden in (both, {"seed": 0}):
        with pytest.raises(ConfigError, match=r"config\.temperature\.tau: found 0\.5 with"):
            from_config_dict(settings, overridden=overridden)


def test_a_flag_for_the_default_of_what_the_run_ignores_is_refused(on_the_command_line):
    """Whoever types it means it, though nothing of the settings differs."""
    given = ("--config.temperature.name=constant", "--config.temperature.tau_min=0.1")
    with pytest.raises(ConfigError, match=r"config\.temperature\.tau_min: found 0\.1 with .*const"):
        on_the_command_line(*given)
    assert on_the_command_line(given[0])[0].temperature.name == "constant"


@pytest.mark.parametrize(
    ("method", "temperature", "loss", "strategy"),
    [
        ("clip", "dystress", "dcl", "auto"),
        ("clip", "macl", "auto", "auto"),
        ("byol", "macl", "auto", "auto"),
        ("moco_v2", "dystress", "auto", "ring"),
        ("simclr", "learned", "siglip", "auto"),
        ("clip", "temperature_free", "rgcl", "auto"),
    ],
)
def test_what_is_allowed_instead_is_not_refused_in_turn(method, temperature, loss, strategy):
    """None of the names that a refusal lists is refused because of the same two fields."""
    names = {"method": method, "temperature.name": temperature}
    names |= {"loss.name": loss, "loss.strategy": strategy}
    names = {name: value for name, value in names.items() if value != "auto"}
    told = refusal(names)
    field, axis = re.match(r"config\.(\S+): found \S+ with config\.(\S+)", told).groups()
    offered = [
        (other or field, choice)
        for other, choices in re.findall(
            r"(?:allowed: |or )(?:\w+ )?(?:with config\.([\w.]+) )?([\w, ]+)", told
        )
        for choice in choices.split(", ")
    ]
    assert len(offered) > 1
    for other, choice in offered:
        again = refusal(names | {other: choice})
        assert {field, axis} - {*re.findall(r"config\.([\w.]+\w)", again[:90])}, (other, choice)


def refusal(names):
    """Why these settings are refused; "" where they are not."""
    settings = functools.reduce(lambda found, pair: with_setting(found, *pair), names.items(), {})
    try:
        from_config_dict(settings)
    except ConfigError as error:
        return str(error)
    return ""


def test_epochs_that_steps_would_overrule_are_refused():
    assert from_config_dict({"steps": 9, "epochs": 2}).epochs == 2  # a file may have both
    with pytest.raises(
        ConfigError, match=r"config\.epochs: found 2 with config\.steps 9, .*steps=0"
    ):
        from_config_dict({"steps": 9, "epochs": 2}, overridden={"epochs": 100})
    assert from_config_dict({"steps": 0, "epochs": 2}, overridden={"epochs": 100}).epochs == 2


def test_a_flag_puts_a_name_back_where_the_new_one_leaves_no_other():
    """And where it leaves several, says which."""
    file = {"loss": {"name": "dcl", "strategy": "dense"}, "projector": {"out": 64}}
    moco = {**file, "method": "moco_v2"}
    found = from_config_dict(moco, overridden={"method": "simclr"})
    assert (found.loss.name, found.loss.strategy) == ("auto", "dense")
    both = {"method": "simclr", "loss.name": "auto"}
    for overridden in ({}, both):  # nobody has changed it; it was asked for
        with pytest.raises(ConfigError, match=r"loss\.name: found dcl with config\.method moco_v2"):
            from_config_dict(moco, overridden=overridden)
    # What belongs to the name that is put back goes with it.
    siglip = {"loss": {"name": "siglip"}, "temperature": {"name": "learned", "bias": -5.0}}
    found = from_config_dict({**siglip, "method": "moco_v2"}, overridden={"method": "clip"})
    assert (found.loss.name, found.temperature.bias) == ("auto", -10.0)
    with pytest.raises(
        ConfigError, match=r"siglip with config\.method simclr; allowed: auto, softmax, dcl"
    ):
        from_config_dict({**siglip, "method": "simclr"}, overridden={"method": "clip"})
    # Nobody wants to train with dystress who has asked for MACL.
    weighed = {"loss": {"name": "dcl"}, "temperature": {"name": "macl"}}
    with pytest.raises(ConfigError, match=r"temperature\.name: found macl with config\.loss\.name"):
        from_config_dict(weighed, overridden={"loss.name": "softmax"})


def test_what_a_flag_puts_back_is_told():
    """A setting of the file that the run will not have is never lost in silence."""
    settings = {
        "temperature": {"name": "constant", "tau_max": 0.5},
        "loss": {"name": "nt_xent"},
        "batch_size": 64,
    }
    found = from_config_dict(settings, overridden={"temperature.name": "dystress"})
    assert checks.put_back(settings, found) == [
        "config.temperature.tau_max: 0.5 of the config is not used with these flags; now 0.2"
    ]
    settings = {"temperature": {"name": "constant", "options": {"slope": 2.0}}}
    found = from_config_dict(settings, overridden={"temperature.name": "dystress"})
    assert checks.put_back(settings, found) == [
        "config.temperature.options.slope: is not used with these flags; left out"
    ]


FOLDER = """
from dystress_jax import run

def get_config():
    config = run.defaults()
    config.data.source, config.data.path = "folder", "/photos"
    config.data.captions, config.data.outside, config.data.holdout = "names.csv", True, 0.2
    config.eval_on = {"sketches": {"source": "folder", "path": "/sketches", "holdout": 0.5}}
    return config
"""


@pytest.fixture
def on_the_command_line(tmp_path):
    """What a command line makes of a config file of a folder: the settings, and what it tells."""
    (tmp_path / "mine.py").write_text(FOLDER)

    def read(*arguments, file=tmp_path / "mine.py"):
        with parsed("train", f"--config={file}", *arguments) as (_, command):
            return command.settings(flags.FLAGS.config), command.put_back

    return read


def test_a_flag_for_another_source_drops_what_the_file_says_of_the_old_one(on_the_command_line):
    found, told = on_the_command_line("--config.data.source=tfds", "--config.data.name=cifar10")
    of = found.data
    assert (of.source, of.name, of.path, of.captions) == ("tfds", "cifar10", "", "")
    assert (of.outside, of.holdout) == (False, 0.2)
    assert told == [
        f"config.data.{name} of the config is not used with these flags; now {default!r}"
        for name, default in (("path: /photos", ""), ("captions: names.csv", ""))
    ] + ["config.data.outside: True of the config is not used with these flags; now False"]


def test_what_the_command_line_says_of_another_source_stays(on_the_command_line):
    for path in ("/photos", "/other.npz"):  # that of the file too, where it is given again
        flags_given = ("--config.data.source=hf", f"--config.data.path={path}")
        found, told = on_the_command_line(*flags_given, "--config.data.captions=text")
        assert (found.data.path, found.data.captions) == (path, "text")
        assert [line.partition(":")[0] for line in told] == ["config.data.outside"]


def test_a_path_of_the_file_stays_with_its_own_source(on_the_command_line, tmp_path):
    for arguments in ((), ("--config.data.source=folder",), ("--config.seed=1",)):
        found, told = on_the_command_line(*arguments)
        assert (found.data.path, told) == ("/photos", [])
    # A file may leave the source to the command line.
    file = tmp_path / "open.py"
    file.write_text(FOLDER.replace('"folder", "/photos"', '"embedded", "/photos"'))
    arguments = ("--config.data.source=folder",)
    found, told = on_the_command_line(*arguments, file=file)
    assert (found.data.path, told) == ("/photos", [])


def test_a_source_that_needs_a_path_does_not_take_that_of_another(on_the_command_line):
    said = r"data\.path: found '/photos' of the config's data\.source folder, and none for npz; "
    with pytest.raises(ConfigError, match=said):
        on_the_command_line("--config.data.source=npz")
    settings = run.to_config_dict(on_the_command_line()[0])
    with pytest.raises(ConfigError, match=said):
        run.override(settings, {"data.source": "npz"})


def test_the_name_of_a_data_set_goes_with_its_source(on_the_command_line):
    arguments = ("--config.data.source=folder", "--config.data.path=/photos")
    for name in ("quickstart", "cifar10_small"):
        found, told = on_the_command_line(*arguments, file=name)
        assert (found.data.name, len(told)) == ("", 1)


def test_the_names_of_classes_go_with_their_data_set(on_the_command_line, tmp_path):
    file = tmp_path / "pairs.py"
    names = 'config.method, config.zero_shot.class_names = "clip", "names.txt"\n    return config'
    file.write_text(FOLDER.replace("return config", names))
    assert on_the_command_line(file=file)[0].zero_shot.class_names == "names.txt"
    found, told = on_the_command_line("--config.data.source=embedded", file=file)
    assert found.zero_shot.class_names == ""
    assert any(line.startswith("config.zero_shot.class_names: names.txt") for line in told)


def test_further_images_of_another_source_drop_what_the_file_says_of_them(on_the_command_line):
    change = "--config.eval_on.sketches.source=embedded"
    found, told = on_the_command_line(change)
    assert found.eval_on == {"sketches": {"source": "embedded", "holdout": 0.5}}
    assert told == [
        "config.eval_on.sketches.path: '/sketches' of the config is not used with these flags; "
        "left out"
    ]
    found, told = on_the_command_line(change, "--config.eval_on.sketches.path=/new")
    assert (found.eval_on["sketches"]["path"], told) == ("/new", [])


def test_settings_with_other_names_are_made_in_python_as_by_the_command_line():
    settings = run.defaults()
    settings.temperature.tau_max = 0.5
    found = run.override(settings, {"temperature.name": "constant", "temperature.tau": 0.3})
    assert found.temperature == config.Temperature(name="constant", tau=0.3)
    assert settings.temperature.name == "dystress"
    with pytest.raises(ConfigError, match=r"temperature\.nam: no such .*temperature\.name"):
        run.override(settings, {"temperature.nam": "constant"})


@pytest.mark.parametrize("method", ["simclr", "moco_v2"])
def test_a_strategy_that_the_devices_cannot_run_is_refused_before_the_run(method, tmp_path):
    queue = {"moco.queue_size": 64} if method == "moco_v2" else {}
    changes = {"method": method, "batch_size": 32, "loss.strategy": "fused", **queue}
    found = r"config\.loss\.strategy: found fused over several CPU devices, .* allowed: one of them"
    with pytest.raises(ConfigError, match=found):
        run.train(run.override(run.defaults(), changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_devices_cannot_share_is_refused_by_its_field():
    settings = from_config_dict({"batch_size": 30})
    with pytest.raises(ConfigError, match=r"config\.batch_size: found 30, which 8 devices"):
        build._check_devices(settings, sharding.make_mesh())
    settings = from_config_dict({"batch_size": 32, "batch": {"micro_batches": 8}})
    with pytest.raises(ConfigError, match=r"config\.batch\.micro_batches: found 8 .* 8 devices"):
        build._check_devices(settings, sharding.make_mesh())


@pytest.mark.parametrize(
    ("name", "value"),
    [("text.context", 8), ("topology.dims", 8), ("zero_shot.prompts", "name")],
)
def test_a_method_of_ones_own_has_no_texts(name, value):
    with pytest.raises(ConfigError, match=rf"config\.{name}: found .*allowed: with .* clip"):
        from_config_dict(with_setting({"method": "tests.own:logging"}, name, value))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("method", METHODS),
        ("data.source", data.SOURCES),
        ("augment.recipe", augment.RECIPES),
        ("model.name", models.ENCODERS),
        ("model.stem", models.STEMS),
        ("projector.name", {"auto": None, **models.HEADS}),
        ("text.name", models.TEXTS),
        ("text.pooling", models.POOLINGS),
        ("topology.name", TOPOLOGIES),
        ("topology.mode", models.MODES),
        ("loss.name", {"auto": None, **LOSSES}),
        ("loss.strategy", losses.STRATEGIES),
        ("temperature.name", TEMPERATURES),
        ("optimizer.name", optim.OPTIMIZERS),
        ("optimizer.rule", optim.RULES),
    ],
)
def test_the_choices_of_a_field_are_the_keys_of_its_table(name, table):
    [field] = [field for field in fields() if field.name == name]
    assert list(field.meaning.among) == list(table)
    group, _, last = name.rpartition(".")
    settings = {group: {last: "nonsense"}} if group else {last: "nonsense"}
    with pytest.raises(ConfigError, match=rf"config\.{name}: found 'nonsense'; allowed: "):
        from_config_dict(settings)


def test_an_unknown_name_raises_below_the_config_too():
    for call in (
        functools.partial(data.open_splits, "zip"),
        functools.partial(models.projector, "simclr9", in_features=4),
        functools.partial(models.image_tower, "resnet55", dims=2),
        functools.partial(models.text_tower, "text_huge", vocab_size=9, dims=2),
        functools.partial(models.resnet, "small", stem="tiny"),
        functools.partial(optim.learning_rate, "cubic", 0.1, 8),
    ):
        with pytest.raises(ArgumentError, match="allowed: "):
            call()
    with pytest.raises(ConfigError, match=r"--evaluation: found 'speed'; allowed: knn, "):
        find(EVALUATIONS, "speed", field="--evaluation")
    assert set(CLOSING) <= set(EVALUATIONS)


def test_every_argument_of_a_builder_is_a_setting_or_known_to_the_run():
    known = {
        "data": set(),
        "augment": set(),
        "model": {"bn_groups", "channels", "dtype"},
        "temperature": {"facts"},
        "moco": {*Parts._fields},
        "projector": {"in_features"},
        "optimizer": {"schedule"},
        "topology": set(),
        "loss": {"view_a", "view_b", "labels", "images", "texts", "temperature"},
    }
    tried = set()
    for group in groups():
        inside = [f for f in fields() if f.name.startswith(f"{group}.")]
        names = {f.last for f in inside}
        for name, builder in inside[0].table.items():
            parameters = inspect.signature(builder).parameters.values()
            needed = {p.name for p in parameters if p.default is p.empty}
            assert needed <= names | known[group], (group, name)
            tried.add(group)
    assert tried == set(known)


def test_an_error_of_a_lower_layer_is_told_in_the_names_of_the_fields():
    def told(error, *groups, **renamed):
        with pytest.raises(ConfigError) as found, as_fields(*groups, **renamed):
            raise error
        return str(found.value)

    error = ArgumentError("image_size", "use `patch` or `x`.")
    said = told(error, "model", image_size="augment.size")
    assert said == "config.augment.size: use config.model.patch or x."
    assert told(ArgumentError("batch_size", "found 3")) == "config.batch_size: found 3"
    assert told(ArgumentError("column", "found 3"), "data") == "config.data.options.column: found 3"
    # No field that there is not.
    assert told(ArgumentError("width", "found 3"), "projector") == "width: found 3"


def test_whole_numbers_are_counts_as_earlier_runs_wrote_them():
    """Their config.json has 5.0 shots."""
    shots = from_config_dict({"labels": {"shots": [1.0, 5]}}).labels.shots
    assert shots == (1, 5)
    assert all(type(shot) is int for shot in shots)


def test_nt_xent_is_a_second_name_of_the_softmax_loss():
    assert from_config_dict({"loss": {"name": "nt_xent"}}).loss.name == "softmax"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "softmax"),
        ({"loss": {"name": "dcl"}}, "dcl"),
        ({"temperature": {"name": "isogclr", "tau": 0.1}}, "rgcl"),
        ({"temperature": {"name": "tempnet"}}, "rgcl"),
        ({"temperature": {"name": "tempnet"}, "method": "clip"}, "rgcl"),
        ({"temperature": {"name": "tempnet"}, "loss": {"name": "softmax"}}, "softmax"),
        ({"temperature": {"name": "tempnet"}, "method": "moco_v3"}, "softmax"),
        ({"method": "clip"}, "softmax"),
    ],
)
def test_a_loss_that_is_left_open_is_that_of_the_temperatures_authors(settings, expected):
    assert from_config_dict(settings).loss_name == expected


@pytest.mark.parametrize(
    ("last", "found"), [("--config.data.on_device", {}), ("--config.data.on_device=None", None)]
)
def test_of_two_flags_for_one_field_the_last_counts_where_it_has_no_value_too(last, found):
    others, several = take_from_absl(["train", "--config.data.on_device=None", last])
    assert several == ({"data.on_device": None} if found is None else {})
    assert others == (["train"] if found is None else ["train", last])


def test_numbers_of_numpy_are_numbers():
    given = {"steps": np.int64(20), "optimizer": {"learning_rate": np.float32(0.5)}}
    found = run.from_config_dict(given)
    assert (found.steps, found.optimizer.learning_rate) == (20, 0.5)
    assert type(found.steps) is int


def test_an_override_of_an_unknown_field_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean config\.temperature\.tau_max\?"):
        check_overrides(["x.py", "--config.seed=1", "--config.temperature.taumax=2"])
    assert check_overrides(["x.py", "--workdir=config.nothing", "config.nothing=1"]) == []
    found = check_overrides(["x.py", "--config.seed=1", "--config.temperature.rho=0.5"])
    assert found == ["seed", "temperature.rho"]
    with pytest.raises(ConfigError, match=r"rho: found 'a'; allowed: a number or None"):
        check_overrides(["x.py", "--config.temperature.rho=a"])
    with pytest.raises(ConfigError, match=r"one option at a time, --config.loss.options.NAME="):
        check_overrides(["x.py", "--config.loss.options=3"])


def test_options_are_taken_out_of_the_command_line_as_numbers_texts_and_tuples():
    given = ["t.py", "--config.data.options.a=2", "--config.data.options.b=(1, 2)", "--x=1"]
    given += ["--config.method_options.c=true", "--config.loss.options.d=some text"]
    others, options = take_options(given)
    assert others == ["t.py", "--x=1"]
    assert options == {
        "data.options": {"a": 2, "b": (1, 2)},
        "method_options": {"c": True},
        "loss.options": {"d": "some text"},
    }


def test_an_option_that_is_a_value_is_no_group():
    given = ["train", "--config.eval_on.a=folder", "--config.eval_on.a.path=/x"]
    with pytest.raises(ConfigError, match=r"eval_on\.a\.path: found beside config\.eval_on\.a='fo"):
        take_options(given)


@pytest.mark.parametrize("values", [("None", "0.5"), ("0.5", "None")])
def test_the_last_of_two_flags_counts(values):
    given = [f"--config.augment.blur={value}" for value in values]
    with parsed("train", "--config=quickstart", *given) as (_, command):
        found = command.settings(flags.FLAGS.config).augment.blur
    assert found == (None if values[1] == "None" else 0.5)


def test_differences_see_through_groups_tuples_and_missing_fields():
    old = {"seed": 0, "augment": {"mean": [0.5]}, "gone": 1}
    new = {"seed": 1, "augment": {"mean": (0.5,)}, "new": 2}
    assert differences(old, new) == {
        "seed": (0, 1),
        "gone": (1, "(not there)"),
        "new": ("(not there)", 2),
    }


def test_a_resumed_run_may_change_its_length_but_not_its_model():
    allowed = {field.name for field in fields() if may_change_on_resume(field.name)}
    assert allowed == {
        *(
            "epochs",
            "steps",
            "log_every",
            "checkpoint_every",
            "checkpoint_keep",
            "checkpoint_on_error",
            "init_from",
            "init_prefix",
            "knn_every",
            "loggers",
            "profile_steps",
            "project",
            "run_name",
        ),
        *(
            "evaluation",
            "eval_on",
            "evaluation_options",
            "eval_on",
            "data.path",
            "data.captions",
            "data.on_device",
            "data.outside",
            "data.threads",
            "text.vocabulary",
            "text.vocab_size",
        ),
        *("loss.strategy", "loss.tile_size", "loss.precision", "microscope.every"),
        *("knn.k", "knn.temperature", "knn.bank"),
        *("probe.features", "probe.solver", "probe.epochs", "probe.learning_rates", "probe.l2"),
        *("labels.fractions", "labels.shots", "labels.share", "labels.seeds"),
        *(field.name for field in fields() if field.name.startswith("finetune.")),
        *("probe.batch_size", "zero_shot.prompts", "zero_shot.classes", "zero_shot.class_names"),
    }


def test_every_field_says_what_it_means():
    for field in fields():
        assert field.meaning.doc, field.name
        assert not field.meaning.doc.startswith(("clip:", "ViTs:", "ResNets:")), field.name


@pytest.mark.parametrize("name", ["config", "trainer", "objective", "experiment", "step"])
def test_a_module_of_an_earlier_version_is_answered_with_where_it_is_now(name):
    with pytest.raises(ImportError, match=rf"dystress_jax\.{name} is now dystress_jax\."):
        getattr(dystress_jax, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dystress_jax.nothing


def applies(field):
    """Whether the run of the defaults has a use for a field."""
    return all(get(Config(), axis) in names for axis, names in field.only_for.items())


@pytest.mark.parametrize("between", ["=", " "])
def test_every_field_that_applies_takes_its_default_on_the_command_line(between):
    given = []
    for field in filter(applies, fields()):
        value = ",".join(field.default) if field.takes_names else str(field.default).strip("()")
        if field.takes_options or (field.takes[0] is bool and between == " "):
            continue  # a switch: --config.FIELD or --noconfig.FIELD
        flag = f"--config.{field.name}"
        given += [f"{flag}={value}"] if between == "=" else [flag, value]
    with parsed("train", *given) as (_, command):
        assert command.settings(flags.FLAGS.config) == Config()


def test_a_config_file_may_stand_behind_the_flags_that_change_its_fields():
    given = ["--config.temperature.tau_max=0.7", "--config", "cifar10_small", "--config.seed=3"]
    expected = importlib.import_module("dystress_jax.configs.cifar10_small").get_config()
    with parsed("train", *given) as (_, command):
        found = command.settings(flags.FLAGS.config)
    assert found == run.override(expected, {"temperature.tau_max": 0.7, "seed": 3})


def test_a_run_goes_on_with_the_settings_that_it_has(tmp_path):
    trained = from_config_dict({"seed": 5, "steps": 7, "temperature": {"tau_max": 0.7}})
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(trained)))
    for given in (["--resume", f"--workdir={tmp_path}"], ["--workdir", str(tmp_path), "--resume"]):
        with parsed("train", *given) as (_, command):
            assert command.settings(flags.FLAGS.config) == trained
    with parsed("train", *given, "--config.steps=9") as (_, command):
        assert command.settings(flags.FLAGS.config) == dataclasses.replace(trained, steps=9)
    for wrong, told in (
        (["--resume"], "--resume: found no --workdir"),
        (["--resume", f"--workdir={tmp_path / 'none'}"], "found no run in .*none"),
        ([*given, "--config", "quickstart"], "--resume: found with --config"),
        (["--config", "quickstart", *given], "--resume: found with --config"),
    ):
        with pytest.raises(ConfigError, match=told), parsed("train", *wrong):
            pass


def test_options_of_an_evaluation_may_change_and_those_of_a_loss_may_not():
    assert may_change_on_resume("evaluation_options.scale")
    assert may_change_on_resume("evaluation_options")
    assert not may_change_on_resume("loss.options.margin")
    assert not may_change_on_resume("evaluation_optionsx")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "eval",
            ["--workdir=x", "--evaluation=knn", "--checkpont=best"],
            "--checkpont: no such flag. .*--checkpoint",
        ),
        ("eval", ["--workdir=x", "--evaluaton=knn"], "--evaluaton: .*Did you mean --evaluation?"),
        ("eval", ["runs/x", "--evaluation", "knn"], "'runs/x'; .*Did you mean --workdir=runs/x?"),
        ("eval", ["--evaluation", "knn"], "--workdir: found none. The run to evaluate."),
        ("sweep", ["--seeds=abc"], "--seeds: found 'abc'; allowed: a whole number."),
        ("sweep", ["--ovr.seed=0"], "--ovr.seed: .* Did you mean --over.seed?"),
        ("train", ["--over.tau=0.1,0.2"], "It is a flag of dystress sweep."),
        ("train", ["--config=quickstart", "--config=x"], "--config: found a second one, x;"),
        ("train", ["--config=x"], "--workdir: found none with --config=.*x, which is a run;"),
        ("train", ["--confg.seed=0"], "--confg.seed: .* Did you mean --config.seed?"),
        ("train", ["--batch_size=3"], "Did you mean --config.batch_size?"),
    ],
)
def test_a_flag_that_is_meant_is_found(name, given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text(json.dumps(dataclasses.asdict(Config())))
    prefixes = {"eval": ["on", "config"], "sweep": ["config", "over"], "train": ["config"]}[name]
    with reading(name) as (read, _):
        with pytest.raises((flags.Error, ConfigError)) as raised:
            read(given)
        told = cli._said(raised.value, given, prefixes)
    assert re.search(said.replace("?", r"\?"), told), told


def test_a_run_stands_for_a_config(tmp_path, monkeypatch):
    trained = from_config_dict({"steps": 5, "method": "moco_v2", "moco": {"queue_size": 512}})
    workdir = tmp_path / "my.run"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(trained)))
    monkeypatch.chdir(tmp_path)
    for named in ("my.run", "./my.run/", str(workdir), "my.run/config.json"):
        given = ["--config.steps=7", f"--config={named}", "--workdir=new"]
        with parsed("train", *given) as (_, command):
            again = command.settings(flags.FLAGS.config)
            assert command.config_name == "my.run"
        assert again == dataclasses.replace(trained, steps=7)
    given = ["--config=my.run", "--workdir=new"]
    with parsed("train", *given, "--config.method=simclr") as (_, command):
        assert command.settings(flags.FLAGS.config).method == "simclr"
        assert command.put_back  # its queue, which simclr has none of
    (workdir / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json"), parsed("train", *given):
        pass


@pytest.mark.parametrize(
    "field",
    [field for field in fields() if not applies(field) and field.takes != (dict,)],
    ids=lambda field: field.name,
)
def test_a_flag_that_the_run_would_ignore_is_refused_at_its_default_too(field):
    """But for what unsets it."""
    if field.default in ("", None):
        assert from_config_dict({}, overridden={field.name: field.default}) == Config()
        return
    with pytest.raises(ConfigError, match=rf"config\.{field.name}: found .* would ignore it"):
        from_config_dict({}, overridden={field.name: field.default})


@pytest.mark.parametrize(
    "field", [field for field in fields() if type(None) in field.takes], ids=lambda f: f.name
)
def test_a_field_that_may_be_none_takes_a_value_on_the_command_line(field):
    text, value = {bool: ("False", False), int: ("3", 3)}.get(field.takes[0], ("0.25", 0.25))
    with parsed("train", f"--config.{field.name}={text}"):
        found = flags.FLAGS.config.to_dict()
        for name in field.name.split("."):
            found = found[name]
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.temprature.name", " Did you mean config.temperature.name?"),
        ("config.temperature.taumin", " Did you mean config.temperature.tau_min?"),
        ("config.k", " Did you mean config.knn.k?"),
        ("config.Batch_Size", " Did you mean config.batch_size?"),
        ("config.imagesize", " Did you mean config.data.image_size?"),
        ("config.optimizer.lr", " Did you mean config.optimizer.learning_rate?"),
        ("config.bs", " Did you mean config.batch_size?"),
        ("config.xyzzy", ""),
        ("config.temperature.x", ""),
    ],
)
def test_the_field_that_is_meant_is_found_in_any_group(name, said):
    assert values.meant(name, [f"config.{field.name}" for field in fields()]) == said


@pytest.mark.ci
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eval", "--workdir=x"], "--evaluation: found none. What to measure, or several: knn, "),
        (["embed", "--out=x.npz"], "--workdir: found none. The run whose encoder embeds."),
        (["embed", "--workdir=x", "--ot=x.npz"], "--ot: no such flag. Did you mean --out?"),
    ],
)
def test_a_flag_that_is_missing_or_unknown_is_told_without_a_traceback(arguments, said, tmp_path):
    command = [sys.executable, "-m", "dystress_jax", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert said in ended.stderr
