"""Our encoders beside live models of PyTorch, in both directions.

Where torch, torchvision, timm, open_clip and transformers are installed, as .ci/run installs them.
Elsewhere tests/test_weights.py compares with golden values, which tests/fixtures/make_weights.py
has made of the same models.
"""

import collections
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dystress_jax
from dystress_jax import models, run, weights
from tests import runs
from tests.test_weights import PADDED, initial, initial_towers, siglip_towers, towers

NEEDED = ("torch", "torchvision", "timm", "open_clip", "transformers")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.ci,
    pytest.mark.filterwarnings("default"),  # of their imports
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"{', '.join(MISSING)} not installed: only the golden values of test_weights.py",
    ),
]
if not MISSING:
    import torch

    try:
        import torchvision
    except RuntimeError:
        # Its operators, which no model here has, were compiled for another build of PyTorch (one
        # with CUDA, say), and it does not load without a declaration of these.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        import torchvision
    import open_clip
    import safetensors.torch
    import timm
    import transformers

ATOL = 1e-4


def shaken(module, seed=0):
    """The module as it is drawn, but no scale at 1, no bias and no mean at 0; for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                noise = torch.randn(tensor.shape, generator=generator) * 0.1
                tensor += noise.abs() if name.endswith("running_var") else noise
    return module.eval()


def images(side, count=2):
    return np.random.default_rng(0).random((count, side, side, 3), dtype=np.float32)


def theirs(module, x):
    with torch.no_grad():
        return module(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()


def ours(network, tree, x):
    apply = jax.jit(network.apply, static_argnames="train")
    params, stats = (tree[part]["encoder"] for part in ("params", "stats"))
    return np.asarray(apply(params, stats, x, train=False)[0])


SIGLIP = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 64, "num_heads": 2}


def without_classifier(name):
    if name == "siglip":  # smaller, and with the GELU of its own code
        return timm.create_model(
            "vit_base_patch16_siglip_224", num_classes=0, act_layer="gelu_tanh", **SIGLIP
        )
    if name.startswith("vit"):
        return timm.create_model(name, num_classes=0)
    module = torchvision.models.get_model(name)
    module.fc = torch.nn.Identity()
    return module


def pooled_vit():
    options = {"positions": "learned", "pooling": "attention", "image_size": 32}
    return models.vit("vit_micro", patch=8, **options)


CASES = {  # theirs, our encoder, its side, whose names
    "resnet18": (lambda: models.resnet("resnet18"), 48, "torchvision"),
    "resnet50": (lambda: models.resnet("resnet50"), 32, "torchvision"),
    "vit_tiny_patch16_224": (
        lambda: models.vit("vit_tiny", positions="learned", image_size=224),
        224,
        "timm",
    ),
    "siglip": (pooled_vit, 32, "timm"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_theirs_has_their_features_here(name, tmp_path):
    make, side, family = CASES[name]
    module, network = shaken(without_classifier(name)), make()
    torch.save({"state_dict": module.state_dict()}, tmp_path / "theirs.pth")
    tensors = weights.read(tmp_path / "theirs.pth")
    found = weights.take(initial(network), tensors)
    assert (found.family, found.kept) == (family, ())
    x = images(side)
    np.testing.assert_allclose(ours(network, found.tree, x), theirs(module, x), atol=ATOL)
    some = next(key for key in tensors if key.endswith("weight"))
    for other in (
        {key: array for key, array in tensors.items() if key != some},
        {**tensors, some.replace("weight", "weights"): tensors[some]},
    ):
        with pytest.raises(weights.WeightsError, match=r"missing|which the encoder does not have"):
            weights.take(initial(network), other)


@pytest.mark.parametrize("name", CASES)
def test_weights_of_ours_load_there_key_for_key_and_have_our_features(name, tmp_path):
    make, side, family = CASES[name]
    network = make()
    wave = lambda x: np.float32(x + 0.1 * np.abs(np.sin(np.arange(x.size))))
    tree = jax.tree.map(lambda x: wave(x) if x.ndim == 1 else x, initial(network))
    weights.write(tmp_path / "ours.safetensors", weights.give(tree, family))
    module = without_classifier(name).eval()
    state = safetensors.torch.load_file(tmp_path / "ours.safetensors")
    module.load_state_dict(state, strict=True)  # no key is missing, none is too many
    x = images(side)
    expected = ours(network, tree, x)
    np.testing.assert_allclose(theirs(module, x), expected, atol=ATOL)
    del state[next(name for name in state if name.endswith("weight"))]
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict(state, strict=True)


VISION = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32}
TEXT = {"context_length": 7, "vocab_size": 20, "width": 16, "heads": 2, "layers": 2}


def open_clips_clip():
    return open_clip.model.CLIP(embed_dim=8, vision_cfg=VISION, text_cfg=TEXT)


def open_clips_siglip():
    text = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    text |= {"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}
    options = {"vision_cfg": VISION, "text_cfg": text, "init_logit_bias": -10}
    model = open_clip.model.CustomTextCLIP(embed_dim=16, **options)
    sizes = {**SIGLIP, "embed_dim": 16}  # its own image tower is timm's, in published sizes only
    trunk = timm.create_model(
        "vit_base_patch16_siglip_224", num_classes=0, act_layer="gelu_tanh", **sizes
    )
    model.visual = torch.nn.Sequential(collections.OrderedDict(trunk=trunk))
    return model


SHARED = {"hidden_size": 16, "intermediate_size": 64}
SHARED |= {"num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = {"vocab_size": 20, "max_position_embeddings": 7}


def hugging_faces_clip():
    shared = {**SHARED, "hidden_act": "quick_gelu"}
    tokens = {**TOKENS, "eos_token_id": 19, "pad_token_id": 0, "bos_token_id": 18}
    config = transformers.CLIPConfig(
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        text_config={**shared, **tokens},
        projection_dim=8,
    )
    return transformers.CLIPModel(config)


def hugging_faces_siglip():
    vision, text = {**SHARED, "image_size": 32, "patch_size": 8}, {**SHARED, **TOKENS}
    config = transformers.SiglipConfig(vision_config=vision, text_config=text)
    return transformers.SiglipModel(config)


IDS = np.array([[18, 5, 7, 19, 0, 0, 0], [18, 4, 9, 8, 3, 11, 19]], np.int32)
SCALE, SCALE_AND_BIAS = {"logit_scale"}, {"logit_scale", "logit_bias"}


@pytest.mark.parametrize(
    ("library", "make", "make_ours", "ids", "beside"),
    [
        ("open_clip", open_clips_clip, lambda: towers(quick_gelu=False), IDS, SCALE),
        ("huggingface", hugging_faces_clip, lambda: towers(quick_gelu=True), IDS, SCALE),
        ("open_clip", open_clips_siglip, siglip_towers, PADDED, SCALE_AND_BIAS),
        ("huggingface", hugging_faces_siglip, siglip_towers, PADDED, SCALE_AND_BIAS),
    ],
)
def test_towers_come_in_and_go_out_with_the_same_embeddings(
    library, make, make_ours, ids, beside, tmp_path
):
    module, made = shaken(make()), make_ours()
    torch.save(module.state_dict(), tmp_path / "theirs.pth")
    found = weights.take(initial_towers(made), weights.read(tmp_path / "theirs.pth"))
    assert (found.family, found.kept) == (library, ())
    x, given = images(32), weights.give(found.tree, library)
    again = make().eval()
    state = {name: torch.from_numpy(np.array(array)) for name, array in given.items()}
    missing, surplus = again.load_state_dict(state, strict=False)
    assert set(missing) == beside
    assert not surplus
    pixels = torch.from_numpy(x.transpose(0, 3, 1, 2))
    # SigLIP's texts are padded with their end.
    seen = torch.from_numpy(np.where(ids == 0, 19, ids) if ids is PADDED else ids).long()
    params = found.tree["params"]
    for model in (module, again):
        with torch.no_grad():
            if library == "open_clip":
                expected = model.encode_image(pixels), model.encode_text(seen)
            else:
                both = model(input_ids=seen, pixel_values=pixels)
                expected = both.image_embeds, both.text_embeds
        for part, inputs, of_theirs, (encoder, projection) in (
            (params, x, expected[0], made[0]),
            (params["text"], ids, expected[1], made[1]),
        ):
            features, _ = encoder.apply(part["encoder"], {}, jnp.asarray(inputs), train=False)
            embeddings, _ = projection.apply(part["projector"], {}, features, train=False)
            if library == "huggingface":  # which gives them with length 1
                embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
            np.testing.assert_allclose(embeddings, of_theirs.numpy(), atol=ATOL)


def test_a_run_goes_to_torchvision_and_a_file_of_torchvision_is_a_run(tmp_path):
    folder = runs.write_images(tmp_path / "images", side=40)
    model = {"model.name": "resnet18", "model.stem": "imagenet"}
    runs.saved(runs.settings(folder, **model), tmp_path / "run", steps=(1,))
    run.export_weights(tmp_path / "run", tmp_path / "out.safetensors", format="torchvision")
    module = without_classifier("resnet18").eval()
    state = safetensors.torch.load_file(tmp_path / "out.safetensors")
    module.load_state_dict(state, strict=True)
    encoder = dystress_jax.load(tmp_path / "run")
    x = images(40)
    seen = (x - np.float32(0.5)) / np.float32(0.25)
    features = np.asarray(encoder.apply(encoder.params, x))
    np.testing.assert_allclose(features, theirs(module, seen), atol=ATOL)
    module = shaken(torchvision.models.resnet18(), seed=1)
    torch.save(module.state_dict(), tmp_path / "theirs.pth")
    config = run.override(run.defaults(), {**model, "augment.size": 40})
    run.import_weights(config, tmp_path / "theirs.pth", tmp_path / "new")
    encoder = dystress_jax.load(tmp_path / "new")
    module.fc = torch.nn.Identity()
    features = np.asarray(encoder.apply(encoder.params, x))
    np.testing.assert_allclose(features, theirs(module, seen), atol=ATOL)
