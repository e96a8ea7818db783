"""What the arrays of a network are called elsewhere: one table a family, read both ways.

A row says what an array is called here, what there, and how it lies there. `{block}` and the like
stand for numbers, which count from 1 here; there `{block}` counts from 0, `{Stage}` from 1.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..models import sincos_positions

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How an array lies in a file.

    Attributes:
        read: from theirs to ours.
        write: from ours to theirs, given the channels of the images.
    """

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray, int], np.ndarray]


def _write_patches(kernel: np.ndarray, channels: int) -> np.ndarray:
    side = round((kernel.shape[0] / channels) ** 0.5)
    return kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)


SAME = Layout(lambda theirs: theirs, lambda ours, channels: ours)
LINEAR = Layout(lambda theirs: theirs.T, lambda ours, channels: ours.T)
CONV = Layout(
    lambda theirs: theirs.transpose(2, 3, 1, 0), lambda ours, channels: ours.transpose(3, 2, 0, 1)
)
PATCHES = Layout(
    lambda theirs: theirs.transpose(2, 3, 1, 0).reshape(-1, theirs.shape[0]), _write_patches
)
ONE_TOKEN = Layout(lambda theirs: theirs[0, 0], lambda ours, channels: ours[None, None])
TOKENS = Layout(lambda theirs: theirs[0], lambda ours, channels: ours[None])
FIRST_TOKEN = Layout(lambda theirs: theirs[None], lambda ours, channels: ours[0])


WORDS = "text.encoder.words.embedding"


def _words(shift: int) -> Layout:
    """One row a word; ours before the first of theirs are for padding."""
    return Layout(
        lambda theirs: np.pad(theirs, ((shift, 0), (0, 0))), lambda ours, channels: ours[shift:]
    )


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        ours: the name here, under `params` or `stats`.
        theirs: the names there; several are parts of ours, one after another.
        layout: how each lies there.
        shares: how large each part is beside the others; (): all alike.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = SAME
    shares: tuple[int, ...] = ()


class Family(NamedTuple):
    """What a library calls the arrays of a kind of network.

    Attributes:
        name: of the library.
        rows: the table.
        heads: what may stand beside it: a classifier and counters, which are not taken.
        texts: what may stand beside the encoder of the images alone.
    """

    name: str
    rows: Sequence[Row]
    heads: Sequence[str] = ()
    texts: Sequence[str] = ()


def _norm(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}.scale", (f"{theirs}.weight",)), Row(f"{ours}.bias", (f"{theirs}.bias",))]


def _batch_norm(ours: str, theirs: str) -> list[Row]:
    mean, var = f"{theirs}.running_mean", f"{theirs}.running_var"
    return [*_norm(ours, theirs), Row(f"{ours}.mean", (mean,)), Row(f"{ours}.var", (var,))]


def _linear(ours: str, *theirs: str, shares: tuple[int, ...] = ()) -> list[Row]:
    weights, biases = (tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias"))
    return [
        Row(f"{ours}.kernel", weights, LINEAR, shares),
        Row(f"{ours}.bias", biases, shares=shares),
    ]


def _within(ours: str, theirs: str, rows: Sequence[Row]) -> list[Row]:
    return [
        row._replace(ours=f"{ours}{row.ours}", theirs=tuple(f"{theirs}{n}" for n in row.theirs))
        for row in rows
    ]


def _resnet(conv: str, norm: str, layer: str) -> list[Row]:
    ours, theirs = "encoder.blocks.stage{Stage}_block{block}.", f"{layer}.{{block}}."
    block = [Row("shortcut.conv.kernel", ("downsample.0.weight",), CONV)]
    block += _batch_norm("shortcut.norm", "downsample.1")
    for i in (1, 2, 3):
        block += [Row(f"conv{i}.kernel", (f"conv{i}.weight",), CONV)]
        block += _batch_norm(f"norm{i}", f"bn{i}")
    return [
        Row("encoder.conv.kernel", (f"{conv}.weight",), CONV),
        *_batch_norm("encoder.norm", norm),
        *_within(ours, theirs, block),
    ]


def _timm() -> list[Row]:
    block = [
        *_norm("norm1", "norm1"),
        *_linear("qkv", "attn.qkv"),
        *_linear("projection", "attn.proj"),
        *_norm("norm2", "norm2"),
        *_linear("mlp1", "mlp.fc1"),
        *_linear("mlp2", "mlp.fc2"),
    ]
    pool = [
        Row("token", ("latent",), ONE_TOKEN),
        *_linear("qkv", "q", "kv", shares=(1, 2)),
        *_linear("projection", "proj"),
        *_norm("norm", "norm"),
        *_linear("mlp1", "mlp.fc1"),
        *_linear("mlp2", "mlp.fc2"),
    ]
    return [
        Row("encoder.class_token", ("cls_token",), ONE_TOKEN),
        Row("encoder.positions", ("pos_embed",), TOKENS),
        Row("encoder.patches.kernel", ("patch_embed.proj.weight",), PATCHES),
        Row("encoder.patches.bias", ("patch_embed.proj.bias",)),
        *_within("encoder.blocks.block{block}.", "blocks.{block}.", block),
        *_norm("encoder.norm", "norm"),
        *_within("encoder.pool.", "attn_pool.", pool),
    ]


_HERE = "blocks.block{block}."


def _open_clip_blocks() -> list[Row]:
    block = [
        *_norm("norm1", "ln_1"),
        Row("qkv.kernel", ("attn.in_proj_weight",), LINEAR),
        Row("qkv.bias", ("attn.in_proj_bias",)),
        *_linear("projection", "attn.out_proj"),
        *_norm("norm2", "ln_2"),
        *_linear("mlp1", "mlp.c_fc"),
        *_linear("mlp2", "mlp.c_proj"),
    ]
    return _within(_HERE, "transformer.resblocks.{block}.", block)


def _open_clip_text() -> list[Row]:
    return [
        Row("words.embedding", ("token_embedding.weight",)),
        Row("positions", ("positional_embedding",)),
        *_open_clip_blocks(),
        *_norm("norm", "ln_final"),
    ]


def _open_clip() -> list[Row]:
    image = [
        Row("class_tokens", ("class_embedding",), FIRST_TOKEN),
        Row("positions", ("positional_embedding",)),
        Row("patches.kernel", ("conv1.weight",), PATCHES),
        *_norm("norm_first", "ln_pre"),
        *_open_clip_blocks(),
        *_norm("norm", "ln_post"),
    ]
    return [
        *_within("encoder.", "visual.", image),
        Row("projector.kernel", ("visual.proj",)),
        *_within("text.encoder.", "", _open_clip_text()),
        Row("text.projector.kernel", ("text_projection",)),
    ]


def _open_clip_siglip() -> list[Row]:
    return [
        *_within("", "visual.trunk.", _timm()),
        *_within("text.encoder.", "text.", _open_clip_text()),
        *_linear("text.projector", "text.text_projection"),
    ]


def _hugging_face_blocks() -> list[Row]:
    block = [
        *_norm("norm1", "layer_norm1"),
        *_linear("qkv", *(f"self_attn.{part}_proj" for part in "qkv")),
        *_linear("projection", "self_attn.out_proj"),
        *_norm("norm2", "layer_norm2"),
        *_linear("mlp1", "mlp.fc1"),
        *_linear("mlp2", "mlp.fc2"),
    ]
    return _within(_HERE, "encoder.layers.{block}.", block)


def _hugging_face_text() -> list[Row]:
    return [
        Row("words.embedding", ("embeddings.token_embedding.weight",)),
        Row("positions", ("embeddings.position_embedding.weight",)),
        *_hugging_face_blocks(),
        *_norm("norm", "final_layer_norm"),
    ]


def _hugging_face() -> list[Row]:
    image = [
        Row("class_tokens", ("embeddings.class_embedding",), FIRST_TOKEN),
        Row("positions", ("embeddings.position_embedding.weight",)),
        Row("patches.kernel", ("embeddings.patch_embedding.weight",), PATCHES),
        *_norm("norm_first", "pre_layrnorm"),  # so spelt
        *_hugging_face_blocks(),
        *_norm("norm", "post_layernorm"),
    ]
    return [
        *_within("encoder.", "vision_model.", image),
        Row("projector.kernel", ("visual_projection.weight",), LINEAR),
        *_within("text.encoder.", "text_model.", _hugging_face_text()),
        Row("text.projector.kernel", ("text_projection.weight",), LINEAR),
    ]


def _hugging_face_siglip() -> list[Row]:
    pool = [
        Row("token", ("probe",), ONE_TOKEN),
        Row("qkv.kernel", ("attention.in_proj_weight",), LINEAR),
        Row("qkv.bias", ("attention.in_proj_bias",)),
        *_linear("projection", "attention.out_proj"),
        *_norm("norm", "layernorm"),
        *_linear("mlp1", "mlp.fc1"),
        *_linear("mlp2", "mlp.fc2"),
    ]
    image = [
        Row("positions", ("embeddings.position_embedding.weight",)),
        Row("patches.kernel", ("embeddings.patch_embedding.weight",), PATCHES),
        Row("patches.bias", ("embeddings.patch_embedding.bias",)),
        *_hugging_face_blocks(),
        *_norm("norm", "post_layernorm"),
        *_within("pool.", "head.", pool),
    ]
    return [
        *_within("encoder.", "vision_model.", image),
        *_within("text.encoder.", "text_model.", _hugging_face_text()),
        *_linear("text.projector", "text_model.head"),
    ]


_CLASSIFIER = (r"fc\..*", r"head\..*", r"classifier\..*", r".*\.num_batches_tracked")
_SCALE = (r"logit_scale", r"logit_bias", r".*\.position_ids", r"attn_mask")
_SCALE += (r"input_resolution", r"context_length", r"vocab_size")  # of OpenAI's own files

FAMILIES = (
    Family("torchvision", _resnet("conv1", "bn1", "layer{Stage}"), _CLASSIFIER),
    # As nn.Sequential(*resnet.children()) counts the parts of torchvision's.
    Family("lightly", _resnet("0", "1", "{Sequential}"), _CLASSIFIER),
    Family("timm", _timm(), _CLASSIFIER),
    Family("open_clip", _open_clip(), _SCALE),
    Family("open_clip", _open_clip_siglip(), _SCALE, texts=(r"text\..*",)),
    Family("huggingface", _hugging_face(), _SCALE),
    Family("huggingface", _hugging_face_siglip(), _SCALE, texts=(r"text_model\..*",)),
)
"""The tables; a library may have several, for its CLIP and its SigLIP."""
LIBRARIES = tuple(dict.fromkeys(family.name for family in FAMILIES))
"""Whose names there are."""


class Entry(NamedTuple):
    """A row for one array of a network.

    Attributes:
        path: its names here, from `params` or `stats` on.
        keys: its names there.
        layout: how each part lies there.
        shape: of ours.
        shares: how large each part is beside the others; (): all alike.
    """

    path: tuple[str, ...]
    keys: tuple[str, ...]
    layout: Layout
    shape: Shape
    shares: tuple[int, ...] = ()


def entries(
    family: Family, leaves: Mapping[tuple[str, ...], Shape], *, shift: int = 0
) -> list[Entry]:
    """The rows of a table for the arrays of a network; those that it has no name for are left out.

    Args:
        family: the table.
        leaves: the shapes of the arrays by their names, from `params` or `stats` on.
        shift: the ids of words are larger here by this.

    Example:
        >>> leaves = {("params", "encoder", "norm", "bias"): (64,)}
        >>> [entry] = entries(FAMILIES[0], leaves)
        >>> entry.keys
        ('bn1.bias',)
    """
    rows = (row._replace(layout=_words(shift)) if row.ours == WORDS else row for row in family.rows)
    patterns = [(_pattern(row.ours), row) for row in rows]
    return list(_entries(patterns, leaves))


def _entries(
    patterns: Sequence[tuple[re.Pattern[str], Row]], leaves: Mapping[tuple[str, ...], Shape]
) -> Iterator[Entry]:
    for path, shape in leaves.items():
        for pattern, row in patterns:
            found = pattern.fullmatch(".".join(path[1:]))
            if found:
                numbers = {name: int(number) for name, number in found.groupdict().items()}
                keys = tuple(_fill(name, numbers) for name in row.theirs)
                yield Entry(path, keys, row.layout, shape, row.shares)


def _pattern(ours: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(ours)))


def _fill(theirs: str, numbers: Mapping[str, int]) -> str:
    stage = numbers.get("Stage", 0)
    return theirs.format(block=numbers.get("block", 0) - 1, Stage=stage, Sequential=stage + 3)


def from_theirs(entry: Entry, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Our array of theirs, in float32."""
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return np.ascontiguousarray(entry.layout.read(joined), dtype=np.float32)


def to_theirs(entry: Entry, ours: np.ndarray, channels: int) -> dict[str, np.ndarray]:
    """Their arrays of ours, by name."""
    whole = entry.layout.write(ours, channels)
    shares = np.cumsum(entry.shares or [1] * len(entry.keys))
    ends = len(whole) * shares[:-1] // shares[-1]
    return dict(zip(entry.keys, np.split(whole, ends), strict=True))


def positions_of(side: int, width: int, class_tokens: int) -> np.ndarray:
    """The fixed positions `[tokens width]` of square images, nothing for a class token."""
    patches = np.asarray(sincos_positions(side, side, width)).reshape(side * side, width)
    return np.concatenate([np.zeros((class_tokens, width), np.float32), patches])
