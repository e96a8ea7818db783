"""The settings of one experiment: the fields, what each may hold, the checks between them.

A file in ``configs/`` starts from :func:`defaults`, changes what it needs and returns the
``ConfigDict``; ``--config.FIELD=VALUE`` overrides it; :func:`from_config_dict` turns the result
into the frozen dataclasses below, once, before anything compiles. Only the trainer, ``train.py``
and ``eval.py`` read them: below that line functions take plain arguments.
"""

import dataclasses
import difflib
import json
import math
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the field and what to do."""


def _field(
    default: Any,
    doc: str,
    *,
    among: Sequence[str] = (),
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field that knows its meaning (the README's table) and its range."""
    return dataclasses.field(
        default=default,
        metadata={
            "doc": doc,
            "among": among,
            "above": above,
            "at_least": at_least,
            "at_most": at_most,
            "below": below,
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where the images come from."""

    source: str = _field(
        "embedded", "where the images come from", among=("embedded", "tfds", "folder", "npz")
    )
    name: str = _field("", "tfds: the data set's name, for example `cifar10`")
    path: str = _field("", "folder: the directory; npz: the file; tfds: the data directory")
    image_size: int = _field(0, "side that the images are brought to; 0 = as stored", at_least=0)
    holdout: float = _field(
        0.1, "share of the training images kept out for selection", at_least=0.0, at_most=0.5
    )
    limit: int = _field(0, "train on so many images, of every class its share; 0 = all", at_least=0)
    imbalance_ratio: float = _field(
        1.0,
        "long tail: images of the rarest class over those of the most frequent one; 1 = as it is",
        above=0.0,
        at_most=1.0,
    )
    captions: str = _field(
        "", "clip: folder: .csv, .tsv or .jsonl of path and caption; tfds: the text feature"
    )
    prompts: str = _field(
        "",
        "clip: caption images with their class through templates: name, photos, drawings, or a "
        "text with {}; '' = the data's own captions",
    )
    on_error: str = _field(
        "raise",
        "folder: stop at what cannot be read, or leave it out and list it",
        among=("raise", "skip"),
    )
    wrong_pairs: float = _field(
        0.0,
        "clip: share of captions dealt out wrongly in every batch, to study noise",
        at_least=0.0,
        below=1.0,
    )
    threads: int = _field(2, "threads that read ahead; 0 = read in the loop", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """How a batch goes through the networks."""

    micro_batches: int = _field(
        1,
        "pieces of a batch that are encoded one after another: the exact gradient of the whole "
        "batch's loss for the memory of a piece; BatchNorm sees a piece",
        at_least=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """How the two views of an image are made, on the device."""

    recipe: str = _field(
        "simclr_cifar",
        "how the two views are made",
        among=("simclr", "simclr_cifar", "moco_v3", "captioned", "weak", "whole"),
    )
    size: int = _field(0, "side of the views; 0 = the image's", at_least=0)
    mean: tuple[float, ...] = _field(
        (0.5,), "subtracted from the views, one value or one a channel"
    )
    std: tuple[float, ...] = _field((0.25,), "divides the views, one value or one a channel")


METHODS = ("simclr", "moco_v2", "moco_v3", "clip")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
VITS = ("vit_micro", "vit_mini", "vit_tiny", "vit_small", "vit_base")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The encoder."""

    name: str = _field("small", "encoder", among=("small", *RESNETS, *VITS))
    stem: str = _field(
        "patch",
        "ResNets: patch: 4x4 pixels, fast on CPUs; cifar: 3x3, no max-pool; imagenet: 7x7 and "
        "max-pool",
        among=("patch", "cifar", "imagenet"),
    )
    patch: int = _field(4, "ViTs: side of a patch in pixels; 16 for ImageNet", at_least=1)
    heads: int = _field(0, "ViTs: attention heads; 0 = by size", at_least=0)
    freeze_patches: bool = _field(False, "ViTs: keep the random patch embedding, as MoCo v3 does")
    remat: bool = _field(
        False, "compute the insides of blocks again for the gradient: less memory, more time"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """The text tower of clip and its vocabulary."""

    name: str = _field(
        "text_micro",
        "transformer: 64, 128, 384 or 512 wide",
        among=("text_micro", "text_mini", "text_small", "text_base"),
    )
    pooling: str = _field(
        "cls", "cls: BERT's class tokens; eot: CLIP's causal end of text", among=("cls", "eot")
    )
    context: int = _field(77, "tokens of a caption; longer ones are cut off", at_least=3)
    vocabulary: str = _field("", "vocab.txt or tokenizer.json; '' = made of the training captions")
    vocab_size: int = _field(4096, "tokens of a vocabulary that is made, at most", at_least=8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Where images and texts are compared, for clip."""

    name: str = _field(
        "sphere",
        "similarity of an image and a text",
        among=(
            "sphere",
            "oblique",
            "geodesic",
            "oblique_geodesic",
            "euclidean",
            "squared_euclidean",
            "inner_product",
        ),
    )
    dims: int = _field(64, "numbers of a token", at_least=1)
    tokens: int = _field(1, "tokens of an embedding; above 1: oblique", at_least=1)
    mode: str = _field(
        "multi",
        "multi: a class token for each token; reshape: one class token, cut up",
        among=("multi", "reshape"),
    )
    match_range: bool = _field(
        False,
        "oblique: divide by the tokens, so that logits start and are clamped as on the sphere",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projector:
    """The projection head between the encoder and the loss."""

    name: str = _field(
        "auto",
        "projection head; auto: the method's own",
        among=("auto", "simclr", "simclr3", "dystress_cifar", "moco_v2", "moco_v3", "moco_v3_vit"),
    )
    hidden: int = _field(0, "its hidden width; 0 = the encoder's", at_least=0)
    out: int = _field(128, "its output width", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """The contrastive loss."""

    name: str = _field(
        "nt_xent",
        "nt_xent: the softmax loss of the method; dcl, supcon: simclr; siglip: clip",
        among=("nt_xent", "dcl", "supcon", "siglip"),
    )
    strategy: str = _field(
        "auto",
        "how it is computed: by size and number of devices, or as named",
        among=("auto", "dense", "tiled", "gathered", "ring"),
    )
    tile_size: int = _field(
        0, "rows and columns of a tile, where there are tiles; 0 = the strategy's own", at_least=0
    )


TEMPERATURES = (
    "constant",
    "dystress",
    "shifted_dystress",
    "cosine_schedule",
    "linear_schedule",
    "learned",
    "macl",
    "per_sample",
    "tempnet",
    "free",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature:
    """The temperature of the loss."""

    name: str = _field("dystress", "temperature", among=TEMPERATURES)
    tau: float = _field(
        0.1, "constant, macl: its value; learned, per_sample: its first value", above=0.0
    )
    tau_min: float = _field(0.1, "smallest temperature of all that have a range", above=0.0)
    tau_max: float = _field(0.2, "largest temperature", above=0.0)
    shift: float = _field(
        -0.4, "shifted_dystress: minus the similarity where the maximum begins", at_most=0.0
    )
    width: float = _field(0.7, "shifted_dystress: from the maximum down to the minimum", above=0.0)
    stop_gradient: bool = _field(
        True, "no gradient through the temperature, as in the paper's code"
    )
    half_period: float = _field(200.0, "cosine_schedule: epochs from tau_max to tau_min", above=0.0)
    min_scale: float = _field(1.0, "learned: smallest 1 / tau", above=0.0)
    max_scale: float = _field(100.0, "learned: largest 1 / tau", above=0.0)
    bias: float = _field(-10.0, "learned, with siglip: first bias")
    alpha: float = _field(
        0.5, "macl: how strongly tau follows the positives", at_least=0.0, at_most=1.0
    )
    threshold: float = _field(
        0.0,
        "macl: similarity of the positives at which tau is its value",
        at_least=0.0,
        at_most=1.0,
    )
    rho: float = _field(0.0, "per_sample, tempnet: radius; 0 = 0.4 and 7, as published", at_least=0)
    learning_rate: float = _field(
        0.0, "per_sample, tempnet: its own; 0 = 0.03 and 3e-5, as published", at_least=0.0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moco:
    """The momentum encoder of MoCo, and what goes with it."""

    momentum: float = _field(
        0.99,
        "the momentum encoder keeps this share of itself a step; moco_v3: at the start, then to 1 "
        "by a cosine",
        at_least=0.0,
        at_most=1.0,
    )
    queue_size: int = _field(
        4096, "moco_v2: keys in the queue, a multiple of the batch size", at_least=1
    )
    bn_groups: int = _field(
        8, "moco_v2: parts of the batch with BatchNorm statistics of their own", at_least=1
    )
    scale_by_tau: bool = _field(
        True, "moco_v3: the published factor 2 tau on the loss, tau of each positive pair"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimiser and its learning rate."""

    name: str = _field("sgd", "optimiser", among=("sgd", "adamw", "lars"))
    learning_rate: float = _field(0.2, "base learning rate", above=0.0)
    rule: str = _field(
        "constant",
        "peak = base; linear: base x batch / 256; sqrt: base x sqrt(batch)",
        among=("constant", "linear", "sqrt"),
    )
    momentum: float = _field(0.9, "sgd and lars", at_least=0.0, below=1.0)
    weight_decay: float = _field(5e-4, "weight decay", at_least=0.0)
    decay_vectors: bool = _field(True, "sgd and adamw decay biases and norms too; lars never does")
    warmup_epochs: float = _field(0.0, "linear warm-up, then a cosine to 0", at_least=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knn:
    """Nearest-neighbour evaluation, during training and after."""

    k: int = _field(200, "neighbours; at most as many as there are", at_least=1)
    temperature: float = _field(0.1, "a neighbour's weight is exp(similarity / this)", above=0.0)
    bank: int = _field(
        50_000,
        "compare with so many training images, evenly chosen; 0 = all (eval.py: always all)",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Linear evaluation, during training and after."""

    online: bool = _field(True, "train a linear probe beside the encoder where labels exist")
    features: str = _field(
        "augmented",
        "augmented: encode new weak views every epoch; cached: encode once",
        among=("augmented", "cached"),
    )
    solver: str = _field("sgd", "sgd, or lbfgs (cached features only)", among=("sgd", "lbfgs"))
    epochs: int = _field(90, "sgd: epochs", at_least=1)
    learning_rates: tuple[float, ...] = _field(
        (0.1,), "sgd: base rates, x batch / 256; of several the best on the held-out images"
    )
    l2: tuple[float, ...] = _field(
        (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        "lbfgs: strengths of L2; of several the best on the held-out images",
    )
    batch_size: int = _field(256, "sgd: batch size", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Zero-shot classification and retrieval of clip."""

    prompts: str = _field(
        "photos", "templates of a class: name, photos, drawings, or a text with {}"
    )
    classes: str = _field(
        "labels",
        "classes that images are told apart by: the data's labels, or all distinct captions",
        among=("labels", "captions"),
    )
    class_names: str = _field("", "file with one name a line; '' = the data's own")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one run."""

    seed: int = _field(0, "initial weights, order of the data, augmentation", at_least=0)
    method: str = _field("simclr", "how the encoder learns", among=METHODS)
    batch_size: int = _field(256, "images a step, over all devices", at_least=2)
    epochs: int = _field(100, "passes over the training images", at_least=1)
    steps: int = _field(0, "if above 0: steps, in place of epochs", at_least=0)
    log_every: int = _field(10, "steps between two logged lines; 0 = never", at_least=0)
    checkpoint_every: int = _field(500, "steps between two checkpoints; 0 = never", at_least=0)
    checkpoint_keep: int = _field(2, "newest checkpoints kept, beside the best by kNN", at_least=1)
    knn_every: int = _field(500, "steps between two kNN evaluations; 0 = never", at_least=0)
    dtype: str = _field(
        "float32",
        "arithmetic of the encoder and head; parameters, statistics and loss stay float32",
        among=("float32", "bfloat16"),
    )
    data: Data = dataclasses.field(default_factory=Data)
    batch: Batch = dataclasses.field(default_factory=Batch)
    augment: Augment = dataclasses.field(default_factory=Augment)
    model: Model = dataclasses.field(default_factory=Model)
    projector: Projector = dataclasses.field(default_factory=Projector)
    text: Text = dataclasses.field(default_factory=Text)
    topology: Topology = dataclasses.field(default_factory=Topology)
    loss: Loss = dataclasses.field(default_factory=Loss)
    temperature: Temperature = dataclasses.field(default_factory=Temperature)
    moco: Moco = dataclasses.field(default_factory=Moco)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    knn: Knn = dataclasses.field(default_factory=Knn)
    probe: Probe = dataclasses.field(default_factory=Probe)
    zero_shot: ZeroShot = dataclasses.field(default_factory=ZeroShot)


# Changing these between two parts of a run changes neither the model nor the data: what lies at a
# path is compared with what the run began with, by its content. Another length changes the
# learning rates that are still to come; another strategy only the rounding.
RESUMABLE_CHANGES = (
    "epochs",
    "steps",
    "log_every",
    "checkpoint_every",
    "checkpoint_keep",
    "knn_every",
    "data.path",
    "data.captions",
    "data.threads",
    "text.vocabulary",
    "loss.strategy",
    "loss.tile_size",
    "knn",
    "probe.features",
    "probe.solver",
    "probe.epochs",
    "probe.learning_rates",
    "probe.l2",
    "probe.batch_size",
    "zero_shot",
)


def defaults() -> ConfigDict:
    """Every field at its default, as the ``ConfigDict`` that a config file starts from.

    Example:
        >>> defaults().temperature.name
        'dystress'
    """
    return to_config_dict(Config())


def to_config_dict(config: Config) -> ConfigDict:
    """The same settings as a ``ConfigDict``."""
    return ConfigDict(dataclasses.asdict(config))


def from_config_dict(settings: Mapping[str, Any] | ConfigDict) -> Config:
    """Turn loose settings into a checked :class:`Config`.

    Args:
        settings: nested mapping, for example a ``ConfigDict``; missing fields take their default.

    Raises:
        ConfigError: an unknown field, a wrong type, a value out of range, or values that
            contradict each other.

    Example:
        >>> from_config_dict({"temperature": {"tau_min": 0.07}}).temperature.tau_min
        0.07
    """
    plain = settings.to_dict() if isinstance(settings, ConfigDict) else settings
    if not isinstance(plain, Mapping):
        raise ConfigError(f"config: found {type(plain).__name__}; allowed: a ConfigDict.")
    config = _build(Config, plain, "config")
    _check_relations(config)
    return config


def read_json(path: pathlib.Path) -> Config:
    """The settings of a run, from its config.json.

    Raises:
        ConfigError: the file is damaged, or holds what is no setting of this version.
    """
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: found no settings that can be read ({error})") from error
    return from_config_dict(settings)


def check_overrides(arguments: Iterable[str]) -> None:
    """Refuse ``--config.NAME=VALUE`` where no field has that name, or it takes no such value.

    Args:
        arguments: of the command line; all others are passed over.

    Raises:
        ConfigError: naming the nearest field, or what the field takes.

    Example:
        >>> check_overrides(["train.py", "--config.temperature.tau_min=0.07"])
    """
    known = {f"config.{name}": kind for name, kind in _fields()}
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        if name not in known:
            raise ConfigError(_unknown(name, list(known)))
        if equals and dataclasses.is_dataclass(known[name]):
            raise ConfigError(
                f"{name}: found {value!r} for a group of fields; allowed: one of them, such as "
                f"{name}.{dataclasses.fields(known[name])[0].name}."
            )
        if equals and not _reads_as(value, known[name]):
            raise ConfigError(f"{name}: found {value!r}; allowed: {_TAKES[known[name]]}.")


_TAKES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


def _reads_as(text: str, kind: Any) -> bool:
    """Whether the text of a flag is of the type; tuples and groups are looked at later."""
    if kind is bool:
        return text.lower() in ("true", "t", "1", "false", "f", "0")
    try:
        return kind not in (int, float) or kind(text) is not None
    except ValueError:
        return False


def field_names() -> list[str]:
    """The dotted names of all fields and groups.

    Example:
        >>> "temperature.tau_min" in field_names()
        True
    """
    return [name for name, _ in _fields()]


def _fields(cls: type = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All fields and groups: dotted name and type."""
    for field in dataclasses.fields(cls):
        yield prefix + field.name, field.type
        if dataclasses.is_dataclass(field.type):
            yield from _fields(typing.cast(type, field.type), f"{prefix}{field.name}.")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields in which two nested settings differ: name to (old, new).

    Example:
        >>> differences({"data": {"name": "a"}}, {"data": {"name": "b"}})
        {'data.name': ('a', 'b')}
    """
    before, after = _flatten(old), _flatten(new)
    names = list(dict.fromkeys([*before, *after]))
    missing = "(not there)"
    pairs = {n: (before.get(n, missing), after.get(n, missing)) for n in names}
    return {n: (a, b) for n, (a, b) in pairs.items() if _plain(a) != _plain(b)}


def may_change_on_resume(name: str) -> bool:
    """Whether a run may go on after the field ``name`` changed."""
    return any(name == field or name.startswith(field + ".") for field in RESUMABLE_CHANGES)


def _build(cls: type, settings: Mapping[str, Any], where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for name, value in settings.items():
        full = f"{where}.{name}"
        if name not in fields:
            raise ConfigError(_unknown(full, [f"{where}.{known}" for known in fields]))
        field = fields[name]
        if dataclasses.is_dataclass(field.type):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{full}: found {value!r}; allowed: a group of fields.")
            values[name] = _build(typing.cast(type, field.type), value, full)
        else:
            values[name] = _checked(value, field, full)
    return cls(**values)


def _checked(value: Any, field: dataclasses.Field, full: str) -> Any:
    kind = field.type
    if isinstance(kind, types.GenericAlias):  # tuple[float, ...]
        if not isinstance(value, tuple | list) or not all(_is_number(v) for v in value):
            raise ConfigError(f"{full}: found {value!r}; allowed: a tuple of numbers.")
        return tuple(float(v) for v in value)
    if kind is float and _is_number(value):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{full}: found {value!r}; allowed: {_TAKES[typing.cast(type, kind)]}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{full}: found {value}; allowed: a finite number.")
    limits = field.metadata
    if limits["among"] and value not in limits["among"]:
        near = difflib.get_close_matches(str(value), limits["among"], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{full}: found {value!r}; allowed: {', '.join(limits['among'])}.{hint}")
    for holds, limit in (
        (limits["above"] is None or value > limits["above"], f"above {limits['above']}"),
        (limits["at_least"] is None or value >= limits["at_least"], f">= {limits['at_least']}"),
        (limits["at_most"] is None or value <= limits["at_most"], f"<= {limits['at_most']}"),
        (limits["below"] is None or value < limits["below"], f"below {limits['below']}"),
    ):
        if not holds:
            raise ConfigError(f"{full}: found {value}; allowed: {limit}.")
    return value


def _check_relations(config: Config) -> None:
    """Every check that needs more than one field."""
    d = config.data
    if d.path and d.source == "embedded":
        raise ConfigError(
            f"config.data.path: found {d.path!r} with config.data.source embedded, which has no "
            "path; allowed: config.data.source folder, npz or tfds."
        )
    if d.name and d.source != "tfds":
        raise ConfigError(
            f"config.data.name: found {d.name!r} with config.data.source {d.source}; allowed: "
            "config.data.source tfds."
        )
    t = config.temperature
    if t.tau_min > t.tau_max:
        raise ConfigError(
            f"config.temperature.tau_min: found {t.tau_min} with config.temperature.tau_max "
            f"{t.tau_max}; allowed: tau_min <= tau_max. Lower tau_min or raise tau_max."
        )
    if config.model.name not in VITS:
        for name in ("heads", "freeze_patches"):
            found = getattr(config.model, name)
            if found:
                raise ConfigError(
                    f"config.model.{name}: found {found} with config.model.name "
                    f"{config.model.name}; allowed: with a ViT only, a ResNet has none."
                )
    _check_batch(config)
    _check_objective(config)
    if config.method == "moco_v2":
        _check_moco_v2(config)
    if config.method == "clip":
        _check_clip(config)
    if config.data.source == "tfds" and not config.data.name:
        raise ConfigError(
            "config.data.name: found '' with config.data.source tfds; allowed: the name of a "
            "prepared data set, for example cifar10."
        )
    if config.data.source in ("folder", "npz") and not config.data.path:
        raise ConfigError(
            f"config.data.path: found '' with config.data.source {config.data.source}; allowed: "
            "the path of the " + ("directory." if config.data.source == "folder" else ".npz file.")
        )
    for name in ("mean", "std"):
        found = getattr(config.augment, name)
        if len(found) not in (1, 3) or (name == "std" and min(found) <= 0):
            raise ConfigError(
                f"config.augment.{name}: found {found}; allowed: 1 or 3 numbers"
                + (" above 0." if name == "std" else ".")
            )
    for name in ("learning_rates", "l2"):
        found = getattr(config.probe, name)
        if not found or min(found) <= 0:
            raise ConfigError(f"config.probe.{name}: found {found}; allowed: numbers above 0.")
    if config.probe.solver == "lbfgs" and config.probe.features == "augmented":
        raise ConfigError(
            "config.probe.solver: found lbfgs with config.probe.features augmented; allowed: "
            "lbfgs with config.probe.features=cached, since it needs the same features every pass."
        )
    if config.knn_every and not config.data.holdout:
        raise ConfigError(
            f"config.data.holdout: found 0 with config.knn_every {config.knn_every}; allowed: a "
            "share above 0, on which kNN is measured during training, or config.knn_every=0."
        )


def _check_batch(config: Config) -> None:
    parts, batch = config.batch.micro_batches, config.batch_size
    if batch % parts or batch // parts < 2:
        divisors = [d for d in range(1, batch // 2 + 1) if batch % d == 0]
        near = min(divisors, key=lambda d: abs(d - parts))
        raise ConfigError(
            f"config.batch.micro_batches: found {parts} with config.batch_size {batch}; allowed: a "
            f"divisor of the batch that leaves at least 2 images a piece, the nearest: {near}."
        )


# What each loss goes with.
_METHODS_OF_LOSS = {
    "nt_xent": METHODS,
    "dcl": ("simclr",),
    "supcon": ("simclr",),
    "siglip": ("clip",),
}


def _check_objective(config: Config) -> None:
    """Refuse a loss or a temperature that means nothing where it is asked for."""
    loss, t, method = config.loss.name, config.temperature, config.method
    if method not in _METHODS_OF_LOSS[loss]:
        raise ConfigError(
            f"config.loss.name: found {loss} with config.method {method}; allowed: {loss} with "
            f"{', '.join(_METHODS_OF_LOSS[loss])}."
        )
    reason = ""
    if t.name == "macl" and loss != "nt_xent":
        reason = f"it weighs by the probability of the positive, which {loss} does not have"
    if loss == "siglip" and t.name != "learned":
        reason = "siglip learns its scale and its bias; allowed: learned"
    if t.name in ("per_sample", "tempnet"):
        if method == "clip":
            reason = "an image and its text would need one each; allowed: any other name"
        elif config.data.on_error == "skip":
            reason = (
                "config.data.on_error skip may leave out other images when the run goes on, and "
                "their numbers would shift; allowed: raise"
            )
    if reason:
        raise ConfigError(
            f"config.temperature.name: found {t.name} with config.method {method} and "
            f"config.loss.name {loss}; {reason}."
        )
    if t.name == "per_sample" and not t.tau_min <= t.tau <= t.tau_max:
        raise ConfigError(
            f"config.temperature.tau: found {t.tau}; allowed for per_sample: from tau_min "
            f"{t.tau_min} to tau_max {t.tau_max}."
        )
    if t.min_scale >= t.max_scale:
        raise ConfigError(
            f"config.temperature.min_scale: found {t.min_scale} with config.temperature.max_scale "
            f"{t.max_scale}; allowed: below it."
        )
    low, high = 1 / t.max_scale, 1 / t.min_scale
    if t.name == "learned" and not low / (1 + 1e-6) <= t.tau <= high * (1 + 1e-6):
        raise ConfigError(
            f"config.temperature.tau: found {t.tau}, a scale of {1 / t.tau:.4g}, with "
            f"config.temperature.min_scale {t.min_scale} and max_scale {t.max_scale}; allowed: "
            f"from {low:.4g} to {high:.4g}."
        )


def _check_clip(config: Config) -> None:
    g = config.topology
    many = g.name in ("oblique", "oblique_geodesic")
    if g.tokens > 1 and not many:
        raise ConfigError(
            f"config.topology.tokens: found {g.tokens} with config.topology.name {g.name}; "
            "allowed: 1, or several with oblique or oblique_geodesic."
        )
    if g.match_range and g.name != "oblique":
        raise ConfigError(
            f"config.topology.match_range: found True with config.topology.name {g.name}; allowed: "
            "with oblique, whose range grows with the tokens."
        )
    if g.mode == "multi" and g.tokens > 1:
        if config.model.name not in VITS:
            raise ConfigError(
                f"config.topology.mode: found multi with config.model.name {config.model.name}, "
                "which has no class tokens; allowed: reshape, or a ViT."
            )
        if config.text.pooling == "eot":
            raise ConfigError(
                "config.topology.mode: found multi with config.text.pooling eot, which has one "
                "output; allowed: reshape, or config.text.pooling=cls."
            )
    t = config.temperature.name
    unbounded = g.name in ("inner_product", "euclidean", "squared_euclidean")
    if (t == "free" and g.name not in ("sphere", "oblique")) or (
        t in ("dystress", "shifted_dystress") and unbounded
    ):
        raise ConfigError(
            f"config.temperature.name: found {t} with config.topology.name {g.name}, which is no "
            "cosine; allowed: another temperature, such as learned, or "
            + ("sphere or oblique." if t == "free" else "a topology with a bounded similarity.")
        )
    if config.model.name in VITS and (config.model.heads or config.model.freeze_patches):
        raise ConfigError(
            "config.model: found heads or freeze_patches with config.method clip; allowed: neither."
        )
    for field, name, none in (
        ("data", config.data.prompts, [""]),
        ("zero_shot", config.zero_shot.prompts, []),
    ):
        if name not in ("name", "photos", "drawings", *none) and name.count("{}") != 1:
            raise ConfigError(
                f"config.{field}.prompts: found {name!r}; allowed: name, photos, drawings, or a "
                "text with one {} for the name of the class."
            )


def _check_moco_v2(config: Config) -> None:
    batch, queue, groups = config.batch_size, config.moco.queue_size, config.moco.bn_groups
    if queue % batch:
        lower = queue - queue % batch
        nearest = " or ".join(str(size) for size in (lower, lower + batch) if size)
        raise ConfigError(
            f"config.moco.queue_size: found {queue} with config.batch_size {batch}; allowed: a "
            f"multiple of the batch, which replaces the oldest keys, the nearest: {nearest}."
        )
    if config.model.name in VITS:
        if groups > 1:
            raise ConfigError(
                f"config.moco.bn_groups: found {groups} with config.model.name {config.model.name}"
                "; allowed: 1, since a ViT has no BatchNorm whose statistics could be split."
            )
    elif (batch // config.batch.micro_batches) % groups or (
        batch // config.batch.micro_batches // groups < 2
    ):
        parts = config.batch.micro_batches
        raise ConfigError(
            f"config.moco.bn_groups: found {groups} with config.batch_size {batch}"
            + (f" in {parts} micro-batches" if parts > 1 else "")
            + "; allowed: a number of groups that divides "
            + ("each of them" if parts > 1 else "the batch")
            + ", with at least 2 images in each."
        )
    if config.loss.strategy in ("gathered", "ring"):
        raise ConfigError(
            f"config.loss.strategy: found {config.loss.strategy} with config.method moco_v2; "
            "allowed: auto, dense or tiled, since every device holds the whole queue and there is "
            "nothing to fetch from the others."
        )


def _unknown(name: str, known: Sequence[str]) -> str:
    group, _, last = name.rpartition(".")
    parts = {other: other.rpartition(".") for other in known}
    beside = {own: other for other, (around, _, own) in parts.items() if around == group}
    if beside:  # within a group the group's own name says nothing of how alike two names are
        near = [beside[other] for other in difflib.get_close_matches(last, beside, n=1)]
    else:
        near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    shown = beside.values() or [other for other in known if other.count(".") == 1]
    return f"{name}: no such field.{hint} Allowed: {', '.join(shown)}."


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
