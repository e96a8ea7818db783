"""The settings of one experiment: their names, what each may hold and what each applies to.

A config file starts from `defaults`, changes what it needs and returns the `ConfigDict`;
`--config.FIELD=VALUE` overrides it; `checks.from_config_dict` turns the result into the frozen
dataclasses below, once, before anything compiles. Only the modules of `run` read them: below it
functions take plain arguments, and `as_fields` renames these to fields in error messages.
"""

import contextlib
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from ..augment import RECIPES
from ..data import SOURCES
from ..errors import ArgumentError, UserError
from ..losses import STRATEGIES
from ..models import ENCODERS, HEADS, MODES, POOLINGS, STEMS, TEXTS
from ..training.optim import LARS_FORMS, OPTIMIZERS, RULES
from .methods import ALL_LOSSES, LOSSES, METHODS, TOPOLOGIES
from .temperature import PER_EXAMPLE, TEMPERATURES

Table = Mapping[str, Callable[..., Any]]


class ConfigError(UserError, ValueError):
    """A setting that cannot be used; the message names the field and what to do."""


def _field(
    default: Any,
    doc: str,
    *,
    among: Collection[str] = (),
    own: bool = False,
    only_for: Mapping[str, Collection[str]] = types.MappingProxyType({}),
    may_change: bool = False,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field that knows its meaning, its range and what it applies to.

    Args:
        default: its value where nobody sets it.
        doc: what it means, for the table of settings.
        among: the names that it may hold; a table, whose keys they are.
        own: whether `MODULE:OBJECT` may stand in place of one of the names.
        only_for: what it applies to, beside what follows from its group: field to names.
        may_change: whether a run may go on with another value: neither the model nor the data
            change.
        above: its range, this limit excluded.
        at_least: its range.
        at_most: its range.
        below: its range, this limit excluded.
    """
    metadata = {
        "doc": doc,
        "among": among,
        "own": own,
        "only_for": only_for,
        "may_change": may_change,
        "above": above,
        "at_least": at_least,
        "at_most": at_most,
        "below": below,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _group(
    cls: type,
    *,
    axis: str = "",
    table: Table = types.MappingProxyType({}),
    only_for: Mapping[str, Collection[str]] = types.MappingProxyType({}),
) -> Any:
    """A group of fields.

    Args:
        cls: the group.
        axis: the field that chooses in `table` who is built with the group's fields.
        table: the builders by name. A field that only some of them have as an argument applies to
            these; one that none of them has, or all, applies always.
        only_for: what the whole group applies to: field to names.
    """
    metadata = {"axis": axis, "table": table, "only_for": only_for}
    return dataclasses.field(default_factory=cls, metadata=metadata)


OPTIONS = "extra arguments of what the group names, usually your own MODULE:OBJECT"
OWN = "MODULE:OBJECT"  # stands in `only_for` for everything of the user's own
INTERVALS = ("step", "epoch")
_CLIP = {"method": ("clip",)}
_NOT_CLIP = {"method": [*(name for name in METHODS if name != "clip"), OWN]}
_CONTRASTIVE = {"method": [*(name for name, entry in METHODS.items() if entry.losses), OWN]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where the images come from."""

    source: str = _field("embedded", "where the images come from", among=SOURCES, own=True)
    name: str = _field("", "the data set's name, for example `cifar10`")
    path: str = _field("", "the directory or the file of the data", may_change=True)
    image_size: int = _field(
        0, "side of the square that images are brought to, in pixels; 0 = as stored", at_least=0
    )
    holdout: float = _field(
        0.1, "fraction of the training images kept out for selection", at_least=0.0, at_most=0.5
    )
    limit: int = _field(0, "train on this many images, stratified by class; 0 = all", at_least=0)
    imbalance_ratio: float = _field(
        1.0,
        "long tail: images of the rarest class over those of the most frequent one; 1 = unchanged",
        above=0.0,
        at_most=1.0,
    )
    captions: str = _field(
        "",
        "folder: .csv, .tsv or .jsonl of path and caption; else the column or feature with the "
        "text; '' = none",
        may_change=True,
    )
    prompts: str = _field(
        "",
        "caption images with their class through templates: name, photos, drawings, or a text with "
        "{}; '' = the data's own captions",
        only_for=_CLIP,
    )
    on_error: str = _field(
        "raise",
        "stop at what cannot be read, or leave it out and list it",
        among=("raise", "skip"),
    )
    caption_noise: float = _field(
        0.0,
        "fraction of captions permuted within a batch, to study noise",
        at_least=0.0,
        below=1.0,
        only_for=_CLIP,
    )
    threads: int = _field(
        2, "threads that read ahead; 0 = read in the loop", at_least=0, may_change=True
    )
    options: dict = _field({}, OPTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """How a batch goes through the networks."""

    micro_batches: int = _field(
        1,
        "GradCache micro-batches; exact full-batch gradient, BatchNorm sees a micro-batch",
        at_least=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """How the two views of an image are made, on the device."""

    recipe: str = _field("simclr_cifar", "how the two views are made", among=RECIPES)
    size: int = _field(0, "side of the views in pixels; 0 = the image's", at_least=0)
    antialias: bool = _field(
        False, "filter where a crop is reduced, as Pillow does; True for papers that used Pillow"
    )
    mean: tuple[float, ...] = _field(
        (0.5,), "subtracted from the views, one value or one a channel"
    )
    std: tuple[float, ...] = _field((0.25,), "divides the views, one value or one a channel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The encoder."""

    name: str = _field("small", "encoder", among=ENCODERS, own=True)
    stem: str = _field(
        "patch",
        "patch: 4x4 pixels, fast on CPUs; cifar: 3x3, no max-pool; imagenet: 7x7 and max-pool",
        among=STEMS,
    )
    zero_residual: bool = _field(
        True, "residual blocks start as their shortcut; False as in torchvision"
    )
    patch: int = _field(4, "side of a patch in pixels; 16 for a ViT on ImageNet", at_least=1)
    heads: int = _field(0, "attention heads; 0 = by size", at_least=0, only_for=_NOT_CLIP)
    freeze_patches: bool = _field(
        False, "keep the random patch embedding, as MoCo v3 does", only_for=_NOT_CLIP
    )
    remat: bool = _field(
        False, "compute the insides of blocks again for the gradient: less memory, more time"
    )
    options: dict = _field({}, OPTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """The text tower of clip and its vocabulary."""

    name: str = _field("text_micro", "transformer: 64, 128, 384 or 512 wide", among=TEXTS)
    pooling: str = _field(
        "cls", "cls: BERT's class tokens; eot: CLIP's causal end of text", among=POOLINGS
    )
    context: int = _field(77, "tokens of a caption; longer ones are cut off", at_least=3)
    vocabulary: str = _field(
        "", "vocab.txt or tokenizer.json; '' = made of the training captions", may_change=True
    )
    vocab_size: int = _field(4096, "tokens of a vocabulary that is made, at most", at_least=8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Where images and texts are compared."""

    name: str = _field("sphere", "similarity of an image and a text", among=TOPOLOGIES)
    dims: int = _field(64, "dimensions of a token", at_least=1)
    tokens: int = _field(1, "tokens of an embedding", at_least=1)
    mode: str = _field(
        "multi",
        "multi: a class token for each token; reshape: one class token, cut up",
        among=MODES,
    )
    match_range: bool = _field(
        False, "divide by the tokens, so that logits start and are clamped as on the sphere"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projector:
    """The projection head between the encoder and the loss."""

    name: str = _field("auto", "projection head; auto: the method's own", among=("auto", *HEADS))
    hidden: int = _field(0, "its hidden width; 0 = the encoder's", at_least=0)
    out: int = _field(128, "its output width", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """The contrastive loss."""

    name: str = _field(
        "auto",
        "loss; softmax: the method's own (also as nt_xent); auto: softmax, for simclr with isogclr "
        "or tempnet rgcl",
        among=ALL_LOSSES,
        own=True,
    )
    strategy: str = _field(
        "auto",
        "how it is computed: by size and number of devices, or as named",
        among=STRATEGIES,
        may_change=True,
    )
    tile_size: int = _field(
        0,
        "rows and columns of a tile; 0 = the strategy's own",
        at_least=0,
        only_for={"loss.strategy": [name for name in STRATEGIES if name != "dense"]},
        may_change=True,
    )
    options: dict = _field({}, OPTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature:
    """The temperature of the loss."""

    name: str = _field("dystress", "temperature", among=TEMPERATURES, own=True)
    tau: float = _field(0.1, "temperature; the initial value if it changes", above=0.0)
    tau_min: float = _field(0.1, "smallest temperature", above=0.0)
    tau_max: float = _field(0.2, "largest temperature", above=0.0)
    shift: float = _field(-0.4, "minus the similarity at which the maximum starts", at_most=0.0)
    width: float = _field(0.7, "distance in similarity from the maximum to the minimum", above=0.0)
    stop_gradient: bool = _field(
        True, "no gradient through the temperature, as in the paper's code"
    )
    half_period: float = _field(200.0, "epochs from tau_max to tau_min", above=0.0)
    interval: str = _field(
        "epoch", "the cosine moves every epoch, as published, or every step", among=INTERVALS
    )
    min_scale: float = _field(1.0, "smallest 1 / tau", above=0.0)
    max_scale: float = _field(100.0, "largest 1 / tau", above=0.0)
    bias: float = _field(-10.0, "initial bias", only_for={"loss.name": ("siglip",)})
    alpha: float = _field(0.5, "how strongly tau follows the positives", at_least=0.0, at_most=1.0)
    threshold: float = _field(
        0.0, "similarity of the positives at which tau is its value", at_least=0.0, at_most=1.0
    )
    rho: float | None = _field(
        None, "radius of the robust objective; None = as published", at_least=0
    )
    learning_rate: float | None = _field(
        None, "the temperature's own learning rate; None = as published", at_least=0.0
    )
    options: dict = _field({}, OPTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moco:
    """A momentum encoder and a queue of embeddings."""

    momentum: float = _field(
        0.99,
        "EMA momentum m; the initial value if it rises to 1 over the run",
        at_least=0.0,
        at_most=1.0,
    )
    queue_size: int = _field(
        4096, "embeddings in the queue, a multiple of the batch size", at_least=1
    )
    bn_groups: int = _field(
        8, "parts of the batch with BatchNorm statistics of their own", at_least=1
    )
    scale_by_tau: bool = _field(
        True, "the published factor 2 tau on the loss, tau of each positive pair"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimiser and its learning rate."""

    name: str = _field("sgd", "optimiser", among=OPTIMIZERS)
    learning_rate: float = _field(0.2, "base learning rate", above=0.0)
    rule: str = _field(
        "constant",
        "peak = base; linear: base x batch / 256; sqrt: base x sqrt(batch)",
        among=RULES,
    )
    form: str = _field(
        "moco_v3",
        "whose LARS: rate outside the momentum (moco_v3, lightly) or inside (simclr)",
        among=LARS_FORMS,
    )
    momentum: float = _field(0.9, "momentum", at_least=0.0, below=1.0)
    weight_decay: float = _field(5e-4, "weight decay", at_least=0.0)
    decay_vectors: bool = _field(True, "biases and norms decay too; lars never decays them")
    warmup_epochs: float = _field(0.0, "linear warm-up, then a cosine to 0", at_least=0.0)
    interval: str = _field("step", "the cosine moves every step, or every epoch", among=INTERVALS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knn:
    """Nearest-neighbour evaluation, during training and after."""

    k: int = _field(200, "neighbours; at most as many as there are", at_least=1, may_change=True)
    temperature: float = _field(
        0.1, "a neighbour's weight is exp(similarity / this)", above=0.0, may_change=True
    )
    bank: int = _field(
        50_000,
        "compare with this many training images, evenly chosen; 0 = all (eval.py: all, if not set)",
        at_least=0,
        may_change=True,
    )


_SGD, _LBFGS = {"probe.solver": ("sgd",)}, {"probe.solver": ("lbfgs",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Linear evaluation, during training and after."""

    online: bool = _field(True, "train a linear probe beside the encoder where labels exist")
    features: str = _field(
        "augmented",
        "augmented: encode new weak views every epoch; cached: encode once",
        among=("augmented", "cached"),
        may_change=True,
    )
    solver: str = _field(
        "sgd", "sgd, or lbfgs (cached features only)", among=("sgd", "lbfgs"), may_change=True
    )
    epochs: int = _field(90, "epochs", at_least=1, only_for=_SGD, may_change=True)
    learning_rates: tuple[float, ...] = _field(
        (0.1,),
        "base rates, x batch / 256; of several the best on the held-out images",
        only_for=_SGD,
        may_change=True,
    )
    l2: tuple[float, ...] = _field(
        (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        "strengths of L2; of several the best on the held-out images",
        only_for=_LBFGS,
        may_change=True,
    )
    batch_size: int = _field(256, "images a step", at_least=1, only_for=_SGD, may_change=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Zero-shot classification and retrieval of clip."""

    prompts: str = _field(
        "photos",
        "templates of a class: name, photos, drawings, or a text with {}",
        may_change=True,
    )
    classes: str = _field(
        "labels",
        "classes that images are told apart by: the data's labels, or all distinct captions",
        among=("labels", "captions"),
        may_change=True,
    )
    class_names: str = _field("", "file with one name a line; '' = the data's own", may_change=True)


_BUILD = {name: entry.build for name, entry in METHODS.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one run."""

    seed: int = _field(0, "initial weights, order of the data, augmentation", at_least=0)
    method: str = _field("simclr", "how the encoder learns", among=METHODS, own=True)
    method_options: dict = _field({}, "extra arguments of the method, usually your own")
    batch_size: int = _field(256, "images a step, over all devices", at_least=2)
    epochs: int = _field(100, "passes over the training images", at_least=1, may_change=True)
    steps: int = _field(0, "if above 0: steps, in place of epochs", at_least=0, may_change=True)
    log_every: int = _field(
        10, "steps between two logged lines; 0 = never", at_least=0, may_change=True
    )
    checkpoint_every: int = _field(
        500, "steps between two checkpoints; 0 = never", at_least=0, may_change=True
    )
    checkpoint_keep: int = _field(
        2, "newest checkpoints kept, beside the best by kNN", at_least=1, may_change=True
    )
    knn_every: int = _field(
        500,
        "steps between two evaluations on the held-out images; 0 = never",
        at_least=0,
        may_change=True,
    )
    evaluation: str = _field(
        "",
        "extra evaluations after training: names or MODULE:OBJECT, comma-separated",
        may_change=True,
    )
    evaluation_options: dict = _field(
        {}, "arguments of the evaluations of your own", may_change=True
    )
    dtype: str = _field(
        "float32",
        "arithmetic of the encoder and head; parameters, statistics and loss stay float32",
        among=("float32", "bfloat16"),
    )
    data: Data = _group(Data, axis="data.source", table=SOURCES)
    batch: Batching = _group(Batching)
    augment: Augment = _group(Augment)
    model: Model = _group(Model, axis="model.name", table=ENCODERS)
    projector: Projector = _group(Projector, only_for=_NOT_CLIP)
    text: Text = _group(Text, only_for=_CLIP)
    topology: Topology = _group(Topology, axis="topology.name", table=TOPOLOGIES, only_for=_CLIP)
    loss: Loss = _group(Loss, axis="loss.name", table=ALL_LOSSES, only_for=_CONTRASTIVE)
    temperature: Temperature = _group(
        Temperature, axis="temperature.name", table=TEMPERATURES, only_for=_CONTRASTIVE
    )
    moco: Moco = _group(Moco, axis="method", table=_BUILD)
    optimizer: Optimizer = _group(Optimizer, axis="optimizer.name", table=OPTIMIZERS)
    knn: Knn = _group(Knn)
    probe: Probe = _group(Probe)
    zero_shot: ZeroShot = _group(ZeroShot, only_for=_CLIP)

    @property
    def loss_name(self) -> str:
        """The loss, where the settings leave it open: that of the temperature's authors."""
        if self.loss.name != "auto":
            return self.loss.name
        robust = self.temperature.name in PER_EXAMPLE and self.method in LOSSES["rgcl"]
        return "rgcl" if robust else "softmax"


# Names of earlier versions and what they are called now.
RENAMED_FIELDS = {"data.wrong_pairs": "data.caption_noise"}
RENAMED_VALUES = {
    "temperature.name": {"free": "temperature_free", "per_sample": "isogclr"},
}
# Second names that stay.
ALIASES = {"loss.name": {"nt_xent": "softmax"}}


def defaults() -> ConfigDict:
    """Every field at its default, as the `ConfigDict` that a config file starts from.

    Example:
        >>> defaults().temperature.name
        'dystress'
    """
    return to_config_dict(Config())


def to_config_dict(config: Config) -> ConfigDict:
    """The same settings as a `ConfigDict`."""
    settings = ConfigDict(dataclasses.asdict(config))
    for field in fields():  # so that a number can be put where None stands
        if field.takes == (float, type(None)) and field.value(config) is None:
            settings.update_from_flattened_dict({field.name: config_dict.placeholder(float)})
    return settings


class Field(NamedTuple):
    """One field of `Config` under its full name, such as `temperature.tau_min`."""

    name: str
    takes: tuple[type, ...]
    default: Any
    limits: Mapping[str, Any]
    only_for: Mapping[str, Collection[str]]
    axis: str  # the field that chooses who is built with the group's fields
    table: Table
    takers: Collection[str]  # the names in the table of those who have it as an argument

    @property
    def last(self) -> str:
        """The name within the group."""
        return self.name.rpartition(".")[2]

    def value(self, config: Config) -> Any:
        """What a config holds there."""
        return get(config, self.name)

    def is_set(self, config: Config) -> bool:
        """Whether a config holds another value than the default."""
        return self.value(config) != self.default


@functools.cache
def fields() -> tuple[Field, ...]:
    """Every field, in the order of the table of settings.

    Example:
        >>> [field.name for field in fields()][:2]
        ['seed', 'method']
    """
    return tuple(_fields())


def _fields() -> Iterator[Field]:
    for outer in dataclasses.fields(Config):
        if not dataclasses.is_dataclass(outer.type):
            yield _describe(outer, outer.name, outer.metadata["only_for"])
            continue
        axis, table = outer.metadata["axis"], outer.metadata["table"]
        for inner in dataclasses.fields(typing.cast(type, outer.type)):
            only_for = {**outer.metadata["only_for"], **inner.metadata["only_for"]}
            name = f"{outer.name}.{inner.name}"
            takers = []
            if name != axis:
                takers = [taker for taker, build in table.items() if inner.name in arguments(build)]
            if takers and len(takers) < len(table):
                only_for[axis] = takers
            yield _describe(inner, name, only_for, axis, table, takers)


def _describe(
    field: dataclasses.Field,
    name: str,
    only_for: Mapping[str, Collection[str]],
    axis: str = "",
    table: Table = types.MappingProxyType({}),
    takers: Collection[str] = (),
) -> Field:
    takes = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else ()
    default = {} if field.default is dataclasses.MISSING else field.default
    kinds: Any = takes or (field.type,)
    return Field(name, kinds, default, field.metadata, only_for, axis, table, takers)


def arguments(builder: Callable[..., Any]) -> list[str]:
    """The names of the arguments that a builder takes, through `functools.partial` too."""
    return [
        name
        for name, parameter in inspect.signature(builder).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def groups() -> list[str]:
    """The names of the groups of fields.

    Example:
        >>> groups()[0]
        'data'
    """
    return [f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)]


def get(config: Config, name: str) -> Any:
    """The value of a field by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def put(config: Config, name: str, value: Any) -> Config:
    """The config with another value of one field.

    Example:
        >>> put(Config(), "temperature.tau", 0.5).temperature.tau
        0.5
    """
    group, _, last = name.rpartition(".")
    if group:
        return dataclasses.replace(
            config, **{group: dataclasses.replace(getattr(config, group), **{last: value})}
        )
    return dataclasses.replace(config, **{last: value})


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
    """Whether a run may go on after the field `name` changed."""
    return any(field.name == name and field.limits["may_change"] for field in fields())


@contextlib.contextmanager
def as_fields(*where: str, options: str = "", **renamed: str) -> Iterator[None]:
    """Say in the names of the fields what a function below says in those of its arguments.

    Args:
        where: the groups that the arguments come from, the nearest first.
        options: the field with the arguments that are no fields; "": that of the first group.
        renamed: arguments whose field has another name: argument to field.

    Raises:
        ConfigError: in place of an `ArgumentError`.

    Example:
        >>> with as_fields("data"):
        ...     raise ArgumentError("path", "found ''; allowed: what `name` needs.")
        Traceback (most recent call last):
        dystress_jax.run.config.ConfigError: config.data.path: found ''; allowed: what
        config.data.name needs.
    """
    try:
        yield
    except ArgumentError as error:
        names = _full_names(where) | renamed
        holder = options or ".".join([*where[:1], "options"])
        if any(field.name == holder for field in fields()):
            names.setdefault(error.argument, f"{holder}.{error.argument}")
        name = f"config.{names[error.argument]}" if error.argument in names else error.argument
        in_backticks = lambda m: f"config.{names[m[1]]}" if m[1] in names else m[1]
        text = re.sub(r"`(\w+)`", in_backticks, error.text)
        raise ConfigError(f"{name}: {text}") from error


def _full_names(where: Collection[str]) -> dict[str, str]:
    """Argument to field: those of the groups before those without a group."""
    found: dict[str, str] = {}
    for group in (*where, ""):
        for field in fields():
            if field.name.rpartition(".")[0] == group:
                found.setdefault(field.last, field.name)
    return found


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
