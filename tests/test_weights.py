"""Weights of other libraries: the same features, and nothing taken in silence."""

import gzip
import io
import json
import os
import pathlib
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from dystress_jax import models, weights
from dystress_jax.models._clip_vit import ClipVisionTransformer
from dystress_jax.models._functional import functional
from dystress_jax.models._norm import BatchNorm
from dystress_jax.models._resnet import BasicBlock, BottleneckBlock, ResNet
from dystress_jax.models._text import CausalTransformer, PaddedTransformer
from dystress_jax.models._vit import VisionTransformer
from dystress_jax.weights import _files

FILES = pathlib.Path(__file__).parent / "fixtures" / "weights"
OUTPUTS = np.load(FILES / "outputs.npz")
OPTIONS = {"remat": False, "dtype": jnp.float32}


def resnet(block):
    return functional(
        lambda rngs: ResNet(
            *(block, (1, 1, 1, 1)),
            **{"width": 4, "stem": "imagenet", "channels": 3, "norm": BatchNorm},
            **OPTIONS,
            rngs=rngs,
        ),
        out_features=32 * block.expansion,
    )


def vit(side=32, pool=False):
    shape = {"patch": 8, "channels": 3, "freeze_patches": False, "side": side, "pool": pool}
    return functional(
        lambda rngs: VisionTransformer(16, 2, 2, **shape, **OPTIONS, rngs=rngs), out_features=16
    )


def towers(quick_gelu, words=20):
    image = {"image_size": 32, "patch": 8, "class_tokens": 1, "channels": 3}
    text, options = {"vocab_size": words, "context": 7}, {**OPTIONS, "quick_gelu": quick_gelu}
    encoders = (
        functional(
            lambda rngs: ClipVisionTransformer(16, 2, 2, **image, **options, rngs=rngs),
            out_features=16,
        ),
        functional(
            lambda rngs: CausalTransformer(16, 2, 2, **text, **options, rngs=rngs), out_features=16
        ),
    )
    return [(encoder, models.token_projection(width=16, dims=8)) for encoder in encoders]


def siglip_towers():
    text = {"vocab_size": 20, "context": 7, "padding": 19}
    encoder = functional(
        lambda rngs: PaddedTransformer(16, 2, 2, **text, **OPTIONS, rngs=rngs), out_features=16
    )
    same = models.Network(lambda key: ({}, {}), lambda p, s, x, *, train: (x, s), 16)
    return [
        (vit(pool=True), same),
        (encoder, models.token_projection(width=16, dims=16, use_bias=True)),
    ]


def initial(network):
    params, stats = jax.jit(network.init)(jax.random.key(0))
    return jax.device_get({"params": {"encoder": params}, "stats": {"encoder": stats}})


def initial_towers(made):
    trees = []
    for encoder, projection in made:
        tree = initial(encoder)
        tree["params"]["projector"], _ = jax.device_get(projection.init(jax.random.key(1)))
        trees.append(tree)
    image, text = trees
    return {
        "params": {**image["params"], "text": text["params"]},
        "stats": {**image["stats"], "text": text["stats"]},
    }


def features_of(network, tree):
    apply = jax.jit(
        lambda tree, images: network.apply(
            tree["params"]["encoder"], tree["stats"]["encoder"], images, train=False
        )[0]
    )
    return apply(tree, OUTPUTS["images"])


RESNET = resnet(BasicBlock)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("file", "output", "network", "family", "prefix"),
    [
        ("torchvision_basic.safetensors", "torchvision_basic", RESNET, "torchvision", ""),
        (
            *("torchvision_bottleneck.safetensors", "torchvision_bottleneck"),
            *(resnet(BottleneckBlock), "torchvision", ""),
        ),
        ("moco_v2.pth.tar", "torchvision_basic", RESNET, "torchvision", "module.encoder_q."),
        ("moco_v2_legacy.pth.tar", "torchvision_basic", RESNET, "torchvision", "module.encoder_q."),
        ("lightly.ckpt", "torchvision_basic", RESNET, "lightly", "backbone."),
        ("timm.safetensors", "timm", vit(), "timm", ""),
        ("timm_attention.safetensors", "timm_attention", vit(pool=True), "timm", ""),
    ],
)
def test_an_encoder_makes_the_features_that_it_makes_in_pytorch(
    file, output, network, family, prefix
):
    tensors = weights.read(FILES / file)
    found = weights.take(initial(network), tensors)
    assert (found.family, found.prefix) == (family, prefix)
    assert not found.kept
    np.testing.assert_allclose(features_of(network, found.tree), OUTPUTS[output], atol=1e-4)
    # And back: the same names, shapes and numbers.
    given = weights.give(found.tree, family)
    under = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    assert set(given) == {name for name in under if not name.startswith(("fc.", "head."))}
    for name, array in given.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(array, under[name].astype(np.float32))


PADDED = np.array([[5, 7, 19, 0, 0, 0, 0], [4, 9, 8, 3, 11, 2, 19]], np.int32)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("file", "make", "ids", "left"),
    [
        ("open_clip", lambda: towers(quick_gelu=False), OUTPUTS["ids"], {"logit_scale"}),
        ("huggingface", lambda: towers(quick_gelu=True), OUTPUTS["ids"], {"logit_scale"}),
        ("open_clip_siglip", siglip_towers, PADDED, {"logit_scale", "logit_bias"}),
        ("huggingface_siglip", siglip_towers, PADDED, {"logit_scale", "logit_bias"}),
    ],
)
def test_towers_make_the_embeddings_that_they_make_in_pytorch(file, make, ids, left):
    made, library = make(), file.removesuffix("_siglip")
    tensors = weights.read(FILES / f"{file}.safetensors")
    found = weights.take(initial_towers(made), tensors)
    assert (found.family, found.prefix, found.kept) == (library, "", ())
    assert set(found.left) == left
    params = found.tree["params"]
    parts = (
        ("images", params, OUTPUTS["images"], *made[0]),
        ("texts", params["text"], ids, *made[1]),
    )
    for name, params, inputs, encoder, projection in parts:
        features, _ = encoder.apply(params["encoder"], {}, jnp.asarray(inputs), train=False)
        embeddings, _ = projection.apply(params["projector"], {}, features, train=False)
        if library == "huggingface":  # which gives them with length 1
            embeddings /= jnp.linalg.norm(embeddings, axis=1, keepdims=True)
        np.testing.assert_allclose(embeddings, OUTPUTS[f"{file}/{name}"], atol=1e-4)
    given = weights.give(found.tree, library)
    assert set(given) == set(tensors) - left
    for name, array in given.items():
        np.testing.assert_array_equal(array, tensors[name].astype(np.float32))


@pytest.mark.parametrize("file", ["open_clip", "huggingface"])
def test_words_that_have_larger_numbers_here_keep_their_rows(file):
    """As with CLIP's own vocabulary, whose 0 is a word, and here padding."""
    made = towers(False, words=21)
    tensors = weights.read(FILES / f"{file}.safetensors")
    [key] = (name for name in tensors if name.endswith("token_embedding.weight"))
    with pytest.raises(weights.WeightsError, match=r"token_embedding\.weight: found \[20, 16\]"):
        weights.take(initial_towers(made), tensors)
    found = weights.take(initial_towers(made), tensors, shift=1)
    rows = found.tree["params"]["text"]["encoder"]["words"]["embedding"]
    np.testing.assert_array_equal(rows[1:], tensors[key])
    assert not rows[0].any()
    given = weights.give(found.tree, file, shift=1)
    np.testing.assert_array_equal(given[key], tensors[key])


@pytest.mark.ci
def test_published_sizes_have_the_published_names_and_shapes():
    with gzip.open(FILES / "shapes.json.gz") as file:
        published = json.load(file)
    ours = {name: models.resnet(name) for name in ("resnet18", "resnet34", "resnet50", "resnet101")}
    for name in ("tiny", "small", "base"):
        ours[f"vit_{name}_patch16_224"] = models.vit(f"vit_{name}", positions="learned")
    for name, network in ours.items():
        params, stats = jax.eval_shape(network.init, jax.random.key(0))
        tree = {"params": {"encoder": params}, "stats": {"encoder": stats}}
        zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), tree)
        given = weights.give(zeros, "timm" if "vit" in name else "torchvision")
        assert {n: list(array.shape) for n, array in given.items()} == {
            n: shape for n, shape in published[name].items() if not n.startswith(("fc.", "head."))
        }
    clip = (
        models.image_tower("vit_base", dims=512),
        models.text_tower("text_base", vocab_size=49_408, dims=512, pooling="eot"),
    )
    siglip = (
        models.image_tower("vit_base", dims=768, pooling="attention"),
        models.text_tower("text_large", vocab_size=32_000, context=64, dims=768, pooling="last"),
    )
    for name, made, left in (
        ("ViT-B-16", clip, {"logit_scale": []}),
        ("ViT-B-16-SigLIP", siglip, {"logit_scale": [], "logit_bias": []}),
    ):
        trees = []
        for parts in made:
            shapes = [jax.eval_shape(part.init, jax.random.key(0))[0] for part in parts]
            trees.append(dict(zip(("encoder", "projector"), shapes, strict=True)))
        tree = {"params": {**trees[0], "text": trees[1]}, "stats": {}}
        zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), tree)
        given = {n: list(array.shape) for n, array in weights.give(zeros, "open_clip").items()}
        assert given | left == published[name]


@pytest.mark.parametrize(
    ("pool", "family", "shape"),
    [
        (False, "timm", {"pos_embed": (1, 17, 16)}),
        (True, "timm", {"pos_embed": (1, 16, 16)}),
        (True, "huggingface", {"vision_model.embeddings.position_embedding.weight": (16, 16)}),
    ],
)
def test_fixed_positions_go_out_and_come_back(pool, family, shape):
    tree = initial(vit(side=None, pool=pool))
    given = weights.give(tree, family, side=4)
    assert shape.items() <= {name: array.shape for name, array in given.items()}.items()
    back = weights.take(jax.tree.map(np.zeros_like, tree), given).tree
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    [name] = shape
    with pytest.raises(weights.WeightsError, match=rf"{name}: found learned positions"):
        weights.take(tree, {**given, name: given[name] + 1})
    with pytest.raises(weights.WeightsError, match=rf"{name}: found \[\]; allowed: positions 16"):
        weights.take(tree, {**given, name: np.ones(())})


def test_what_stands_beside_the_weights_of_a_checkpoint_is_not_taken_for_them():
    inside = {"module.conv1.weight": np.ones((2, 2))}
    content = {"best_acc1": np.float32(76.1).reshape(()), "epoch": 3, "state_dict": inside}
    assert _files._tensors_of(pathlib.Path("x.pth"), content) == inside
    assert _files._tensors_of(pathlib.Path("x.pth"), inside | {"epoch": 3}) == inside


def test_what_openai_keeps_beside_its_towers_is_no_surplus():
    network, name = vit(pool=True), "open_clip_siglip.safetensors"
    beside = {n: np.array(16) for n in ("input_resolution", "context_length", "vocab_size")}
    found = weights.take(initial(network), {**weights.read(FILES / name), **beside})
    assert {*beside} <= {*found.left}


@pytest.mark.parametrize("library", ["open_clip", "huggingface"])
def test_the_image_tower_of_a_file_with_texts_is_taken_alone(library):
    network = vit(pool=True)
    found = weights.take(initial(network), weights.read(FILES / f"{library}_siglip.safetensors"))
    assert found.family == library
    assert "logit_scale" in found.left
    features = features_of(network, found.tree)
    if library == "huggingface":
        features /= jnp.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(features, OUTPUTS[f"{library}_siglip/images"], atol=1e-4)


def test_an_own_file_has_everything(tmp_path):
    tree = initial(RESNET)
    tree["params"]["projector"] = {"kernel": np.ones((2, 3), np.float32)}
    weights.write(tmp_path / "own.safetensors", weights.give(tree, weights.NATIVE), {"by": "me"})
    read = weights.read(tmp_path / "own.safetensors")
    found = weights.take(jax.tree.map(np.zeros_like, tree), read)
    jax.tree.map(np.testing.assert_array_equal, found.tree, tree)
    assert found.family == "safetensors"
    assert not found.kept
    del read["params.encoder.norm.scale"]
    with pytest.raises(weights.WeightsError, match=r"missing params\.encoder\.norm\.scale"):
        weights.take(tree, read)


def test_an_own_file_has_no_keys_and_keeps_whole_numbers_whole(tmp_path):
    stats = {"dropout": {"key": jax.random.key(3), "count": np.int32(16_777_217)}}
    tree = {"params": {"encoder": {"w": np.ones(2, np.float32)}}, "stats": {"encoder": stats}}
    given = weights.give(tree, weights.NATIVE)
    weights.write(tmp_path / "own.safetensors", given, {"by": "me"})
    new = {"dropout": {"key": jax.random.key(4), "count": np.int32(0)}}
    found = weights.take(
        {"params": {"encoder": {"w": np.zeros(2, np.float32)}}, "stats": {"encoder": new}},
        weights.read(tmp_path / "own.safetensors"),
    )
    taken = found.tree["stats"]["encoder"]["dropout"]
    assert taken["count"] == 16_777_217
    assert taken["count"].dtype == np.int32
    assert taken["key"] is new["dropout"]["key"]
    np.testing.assert_array_equal(found.tree["params"]["encoder"]["w"], 1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: {n: a for n, a in t.items() if n != "layer1.0.bn1.bias"},
            r"found \d+ of the encoder's arrays under the names of torchvision, missing layer1\.",
        ),
        (
            lambda t: {**t, "layer1.1.conv1.weight": np.zeros((4, 4, 3, 3))},
            r"found layer1\.1\.conv1\.weight, which the encoder does not have",
        ),
        (
            lambda t: {**t, "conv1.weight": np.zeros((4, 3, 3, 3))},
            r"conv1\.weight: found \[4, 3, 3, 3\], and the encoder has \[7, 7, 3, 4\]",
        ),
        (lambda t: {"x": np.zeros(3)}, r"found 0 of the encoder's arrays"),
        (
            lambda t: {"vision_model.head.attention.in_proj_weight": np.zeros(3)},
            r"an encoder that pools by attention, as SigLIP's",
        ),
    ],
)
def test_weights_of_another_model_are_refused(edit, message):
    tensors = weights.read(FILES / "torchvision_basic.safetensors")
    with pytest.raises(weights.WeightsError, match=message):
        weights.take(initial(RESNET), edit(tensors))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("module.encoder_q.", "module.encoder_k."),
        ("module.base_encoder.", "module.momentum_encoder."),
        ("backbone.", "momentum_backbone."),
        ("encoder.", "other."),
        ("model.encoder_q.", "model.encoder_k."),  # Lightning
        ("_orig_mod.encoder_q.", "_orig_mod.encoder_k."),  # torch.compile
        ("query_encoder.", "key_encoder."),
        ("module.", None),
    ],
)
def test_of_several_networks_the_one_that_is_evaluated_is_taken(first, second):
    tensors = weights.read(FILES / "torchvision_basic.safetensors")
    both = {f"{first}{name}": array for name, array in tensors.items()}
    if second:
        both = {f"{second}{n}": np.asarray(array + 1) for n, array in tensors.items()} | both
    found = weights.take(initial(RESNET), both)
    assert found.prefix == first
    expected = weights.take(initial(RESNET), tensors).tree
    jax.tree.map(np.testing.assert_array_equal, found.tree, expected)
    if second:
        for given in (second, second.removesuffix(".")):
            asked = weights.take(initial(RESNET), both, prefix=given)
            assert asked.prefix == second
        assert (
            asked.tree["params"]["encoder"]["norm"]["bias"][0]
            != (expected["params"]["encoder"]["norm"]["bias"][0])
        )


def test_what_a_file_lacks_is_named_where_most_is_there():
    tensors = weights.read(FILES / "torchvision_basic.safetensors")
    count = sum("running" not in name and "num_batches" not in name for name in tensors)
    without = {name: x for name, x in tensors.items() if "running" not in name}
    of = count - sum(name.startswith("fc.") for name in tensors)
    with pytest.raises(weights.WeightsError, match=rf"found {of} of the .*missing .*running_"):
        weights.take(initial(RESNET), without)


def test_of_several_networks_that_nobody_tells_apart_none_is_taken():
    tensors = weights.read(FILES / "torchvision_basic.safetensors")
    both = {f"{first}.{name}": x for first in ("one", "two") for name, x in tensors.items()}
    message = r"found the encoder's arrays 2 times, under one\., two\.; allowed: one of these as"
    with pytest.raises(weights.WeightsError, match=message):
        weights.take(initial(RESNET), both)
    assert weights.take(initial(RESNET), both, prefix="two").prefix == "two."


@pytest.mark.parametrize("dtype", [np.int8, bool, np.complex64])
@pytest.mark.parametrize("ours", [False, True])
def test_arrays_that_are_no_floats_are_no_weights(dtype, ours):
    tensors = weights.read(FILES / "torchvision_basic.safetensors")
    if ours:
        tensors = weights.give(weights.take(initial(RESNET), tensors).tree, "safetensors")
    name = next(name for name in tensors if tensors[name].ndim == 4)
    wrong = {**tensors, name: np.zeros(tensors[name].shape, dtype)}
    with pytest.raises(weights.WeightsError, match=rf"{name}: found {np.dtype(dtype)}; allowed: f"):
        weights.take(initial(RESNET), wrong)


def test_a_file_of_eight_bits_is_told(tmp_path):
    about = {"conv1.weight": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}}
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % 8)
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(weights.WeightsError, match=r"dtype that NumPy does not have .* float16"):
        weights.read(file)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile",)


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return file.getvalue()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [zipped, bytes])
def test_a_hostile_pickle_is_refused_and_not_run(wrap, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pth"
    path.write_bytes(wrap(pickle.dumps({"state_dict": Hostile()}, protocol)))
    with pytest.raises(weights.WeightsError, match=r"posix\.system|nt\.system") as refused:
        weights.read(path)
    assert "safetensors" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "hostile").exists()


def text(words):
    return b"X" + struct.pack("<I", len(words)) + words.encode()


def pickled_tensor(kind, size, shape, strides, offset=0):
    """The instructions that build a tensor of storage 0, whatever they claim of it."""
    number = lambda n: b"J" + struct.pack("<i", n)
    numbers = lambda of: b"(" + b"".join(map(number, of)) + b"t"
    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text("0")
    storage += text("cpu") + number(size) + b"tQ"
    rest = number(offset) + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"


def file_of(*tensors, stored):
    items = b"".join(text(f"w{i}") + tensor for i, tensor in enumerate(tensors))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + items + b"u.")
        archive.writestr("archive/data/0", stored)
    return file.getvalue()


ONE = pickled_tensor("FloatStorage", 1, (1,), (1,))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((ONE, pickled_tensor("FloatStorage", 10**8, (10**8,), (1,))), "of two kinds or sizes"),
        ((ONE, pickled_tensor("DoubleStorage", 1, (1,), (1,))), "of two kinds or sizes"),
        ((pickled_tensor("FloatStorage", 2, (2,), (1,)),), "1 of 2 numbers of a storage"),
        ((pickled_tensor("FloatStorage", 1, (2,), (1,)),), "a tensor larger than its storage"),
        ((pickled_tensor("FloatStorage", 1, (1,), (1,), 1),), "a tensor larger than its storage"),
    ],
)
def test_no_tensor_reads_beyond_what_the_file_has_of_it(tensors, message, tmp_path):
    path = tmp_path / "hostile.pth"
    path.write_bytes(file_of(*tensors, stored=bytes(4)))
    with pytest.raises(weights.WeightsError, match=rf"a damaged file.*{message}"):
        weights.read(path)
    path.write_bytes(file_of(ONE, ONE, stored=bytes(4)))  # two that share their numbers
    assert [array.tolist() for array in weights.read(path).values()] == [[0.0], [0.0]]


@pytest.mark.parametrize("wrap", [zipped, bytes])
def test_a_small_file_of_lists_in_lists_does_not_go_on_for_ever(wrap, tmp_path):
    parts = [1]
    for _ in range(40):
        parts = [parts, parts]
    content = pickle.dumps({"state_dict": parts}, 2)
    if wrap is bytes:
        start = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        content = b"".join(pickle.dumps(part, 2) for part in start) + content
    path = tmp_path / "lists.pth"
    path.write_bytes(wrap(content))
    with pytest.raises(weights.WeightsError, match="more than 1,000,000 parts"):
        weights.read(path)


@pytest.mark.parametrize("native", [True, False])
def test_weights_that_are_no_numbers_are_refused(native):
    tree = {"params": {"encoder": {"norm": {"scale": np.zeros(3)}}}}
    name = "params.encoder.norm.scale" if native else "bn1.weight"
    with pytest.raises(weights.WeightsError, match=r"2 of 3 numbers NaN .* in .*norm\.scale"):
        weights.take(tree, {name: np.array([np.nan, 1.0, np.inf], np.float32)})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("module.pth", r"module\.pth: found .*nn.*, which would have to be called"),
        ("torchscript.pt", r"found TorchScript, which is a program"),
        ("none.pth", r"none\.pth: cannot be read \(No such file"),
    ],
)
def test_files_with_more_than_tensors_are_refused(name, message):
    with pytest.raises(weights.WeightsError, match=message):
        weights.read(FILES / name)


def test_a_file_of_a_like_name_is_told():
    with pytest.raises(weights.WeightsError, match=r"Did you mean .*moco_v2\.pth\.tar\?"):
        weights.read(FILES / "moco_v2.pht.tar")


@pytest.mark.parametrize(
    "name", ["torchvision_basic.safetensors", "moco_v2.pth.tar", "moco_v2_legacy.pth.tar"]
)
def test_a_file_that_is_cut_off_is_refused_in_one_line(name, tmp_path):
    whole = (FILES / name).read_bytes()
    path = tmp_path / name
    for share in (0.001, 0.02, 0.3, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(weights.WeightsError) as refused:
            weights.read(path)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_safetensors_that_begin_like_pytorch_are_read(tmp_path, start):
    """The first eight bytes are the length of the header."""
    wanted = int.from_bytes(start, "little") % 256**2
    path, filler = tmp_path / "a.safetensors", ""
    for _ in range(2):  # the second time with what the first time was too short by
        path.unlink(missing_ok=True)
        weights.write(path, {"a": np.ones(3, np.float32)}, {"filler": filler})
        length = int.from_bytes(path.read_bytes()[:8], "little")
        filler += "x" * ((wanted - length) % 256 ** len(start))
    assert path.read_bytes().startswith(start)
    np.testing.assert_array_equal(weights.read(path)["a"], np.ones(3))


def test_what_the_parser_reads_is_what_safetensors_has():
    expected = weights.read(FILES / "torchvision_basic.safetensors")
    for name in ("moco_v2.pth.tar", "moco_v2_legacy.pth.tar"):
        found = weights.read(FILES / name)
        assert found["module.queue"].shape == (4, 5)
        for key, array in expected.items():
            np.testing.assert_array_equal(found[f"module.encoder_q.{key}"], array, err_msg=key)


def test_nothing_is_written_over(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.write(path, {"a": np.ones(2, np.float32).reshape(1, 2).T, "one": np.float32(3)})
    with pytest.raises(weights.WeightsError, match="is there already"):
        weights.write(path, {"a": np.zeros(2, np.float32)})
    written = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(written["a"], np.ones((2, 1)))
    assert written["one"].shape == ()
    with pytest.raises(weights.WeightsError, match=r"ends in \.pth; allowed: \.safetensors"):
        weights.write(tmp_path / "w.pth", {})
    assert os.listdir(tmp_path) == ["w.safetensors"]
