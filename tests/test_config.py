import dataclasses

import pytest

from dystress_jax import config
from dystress_jax.config import ConfigError


def test_the_defaults_are_a_valid_config():
    assert config.from_config_dict(config.defaults()) == config.Config()


def test_a_config_survives_the_trip_through_a_config_dict():
    changed = dataclasses.replace(
        config.Config(), seed=3, temperature=config.Temperature(name="constant", tau=0.5)
    )
    assert config.from_config_dict(config.to_config_dict(changed)) == changed


def test_a_whole_number_is_a_good_real_number():
    built = config.from_config_dict({"optimizer": {"learning_rate": 1}})
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
            r"temperature\.x: no such field\. Allowed: config\.temperature\.name, .*rate\.$",
        ),
        ({"seed": 1.5}, r"config\.seed: found 1\.5; allowed: a whole number"),
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
            r"config\.temperature\.tau_min: found 0\.3 with config\.temperature\.tau_max 0\.2",
        ),
        ({"data": {"source": "tfds"}}, r"config\.data\.name: found '' with .*tfds"),
        ({"data": {"source": "folder"}}, r"config\.data\.path: found '' .*directory"),
        ({"data": {"source": "npz"}}, r"config\.data\.path: found '' .*\.npz file"),
        ({"data": {"holdout": 0.0}}, r"config\.data\.holdout: found 0 with config\.knn_every"),
        ({"data": {"holdout": 0.6}}, r"config\.data\.holdout: found 0\.6; allowed: <= 0\.5"),
        ({"augment": {"mean": (0.1, 0.2)}}, r"config\.augment\.mean: .*1 or 3 numbers"),
        ({"augment": {"std": (0.0,)}}, r"config\.augment\.std: .*above 0"),
        ({"augment": {"std": 0.5}}, r"config\.augment\.std: .*a tuple of numbers"),
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
            {"method": "moco_v2", "model": {"name": "vit_tiny"}},
            r"config\.moco\.bn_groups: found 8 with .* vit_tiny; allowed: 1, .*no BatchNorm",
        ),
        (
            {"method": "moco_v2", "loss": {"strategy": "ring"}},
            r"config\.loss\.strategy: found ring with config\.method moco_v2; allowed: auto, dense",
        ),
        ({"model": {"heads": 3}}, r"config\.model\.heads: found 3 with .* small; .*a ViT only"),
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
            r"config\.loss\.name: found supcon with config\.method moco_v3; .* with simclr",
        ),
        (
            {"loss": {"name": "dcl"}, "temperature": {"name": "macl"}},
            r"config\.temperature\.name: found macl .* probability of the positive, which dcl does",
        ),
        (
            {"method": "clip", "temperature": {"name": "per_sample"}},
            r"config\.temperature\.name: found per_sample .*an image and its text would need one",
        ),
        (
            {"data": {"on_error": "skip"}, "temperature": {"name": "per_sample"}},
            r"config\.temperature\.name: found per_sample .*their numbers would shift",
        ),
        (
            {"method": "clip", "loss": {"name": "siglip"}},
            r"config\.temperature\.name: found dystress .*siglip learns its scale and its bias",
        ),
        (
            {"temperature": {"name": "per_sample", "tau": 0.3}},
            r"config\.temperature\.tau: found 0\.3; allowed for per_sample: from tau_min 0\.1",
        ),
        (
            {"temperature": {"name": "learned", "tau": 0.001}},
            r"config\.temperature\.tau: found 0\.001, a scale of 1000, .* from 0\.01 to 1",
        ),
        (
            {"method": "clip", "topology": {"tokens": 4}},
            r"config\.topology\.tokens: found 4 with config\.topology\.name sphere; allowed: 1",
        ),
        (
            {"method": "clip", "topology": {"tokens": 4, "name": "oblique"}},
            r"config\.topology\.mode: found multi with config\.model\.name small, .*reshape",
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
        ({"probe": {"solver": "lbfgs"}}, r"config\.probe\.solver: .*probe\.features=cached"),
    ],
)
def test_a_bad_setting_is_refused_by_its_full_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        config.from_config_dict(settings)


def test_an_override_of_an_unknown_field_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean config\.temperature\.tau_max\?"):
        config.check_overrides(["x.py", "--config.seed=1", "--config.temperature.taumax=2"])
    config.check_overrides(["x.py", "--workdir=config.nothing", "config.nothing=1"])


def test_differences_see_through_groups_tuples_and_missing_fields():
    old = {"seed": 0, "augment": {"mean": [0.5]}, "gone": 1}
    new = {"seed": 1, "augment": {"mean": (0.5,)}, "new": 2}
    assert config.differences(old, new) == {
        "seed": (0, 1),
        "gone": (1, "(not there)"),
        "new": ("(not there)", 2),
    }


def test_a_resumed_run_may_change_its_length_but_not_its_model():
    allowed = {n for n in config.field_names() if config.may_change_on_resume(n)}
    assert {"epochs", "steps", "knn.k", "data.threads"} <= allowed
    refused = {"seed", "batch_size", "model.name", "data.name", "temperature.tau", "probe.online"}
    assert not refused & allowed


def test_every_field_says_what_it_means():
    for group in (config.Config, config.Data, config.Temperature, config.Optimizer):
        for field in dataclasses.fields(group):
            if not dataclasses.is_dataclass(field.type):
                assert field.metadata["doc"]
