"""The settings of one experiment: their names, what each may hold and what each applies to.

A config file starts from `fields.defaults`, changes what it needs and returns the `ConfigDict`;
`--config.FIELD=VALUE` overrides it; `checks.from_config_dict` turns the result into the frozen
dataclasses below, once, before anything compiles. Only the modules of `run` read them: below it
functions take plain arguments, and `fields.as_fields` renames these to fields in error messages.
"""

import dataclasses

from ..augment import RECIPES
from ..data import ON_ERROR, SOURCES
from ..errors import UserError
from ..evaluation import FINETUNE_OPTIMIZERS, FINETUNE_RECIPES, SOLVERS
from ..losses import FOR_QUEUE, STRATEGIES
from ..models import (
    ENCODERS,
    HEADS,
    IMAGE_POOLINGS,
    MODES,
    POOLINGS,
    POSITIONS,
    STEMS,
    TEXTS,
    projector,
)
from ..optim import LARS_FORMS, OPTIMIZERS, RULES
from ..similarities import PRECISIONS
from ..training.loggers import LOGGERS
from .meaning import Above, Given, Need, Table, arguments, field, group, taking
from .methods import (
    ALL_LOSSES,
    BOUNDED,
    LOSSES,
    METHODS,
    SYMMETRIC,
    TOPOLOGIES,
    WITH_BIAS,
    WITH_QUEUE,
)
from .temperature import (
    OF_A_COSINE,
    OF_A_SYMMETRIC_COSINE,
    OF_AN_ANCHOR,
    OF_EACH_EXAMPLE,
    TEMPERATURES,
)


class ConfigError(UserError, ValueError):
    """A setting that cannot be used; the message names the field and what to do."""


OPTIONS = "further arguments of what the group names, such as your own MODULE:OBJECT"
OWN = "MODULE:OBJECT"  # stands in `only_for` for everything of the user's own
INTERVALS = ("step", "epoch")
_NO_CLASSES = "whose texts name classes, while each pair has all others as its negatives"
_RECIPES_OWN = "; None = the recipe's"
_CLIP = {"method": ("clip",)}
_NOT_CLIP = {"method": [*(name for name in METHODS if name != "clip"), OWN]}
_CONTRASTIVE = {"method": [*(name for name, entry in METHODS.items() if entry.losses), OWN]}
BATCH_NORMED = [*taking("bn_groups", ENCODERS), OWN]  # of the user's own it is assumed
PROJECTORS: Table = {"auto": projector, **HEADS}

_OF_QUEUE = Need(
    "method",
    [*(name for name in METHODS if name not in WITH_QUEUE), OWN],
    "whose queue every device holds whole, so that there is nothing to fetch from the others",
)


def _needs_of_temperatures() -> dict[str, list[Need]]:
    without_bias = [*(name for name in ALL_LOSSES if name not in WITH_BIAS), OWN]
    needs = {
        name: []
        if "bias" in arguments(build)
        else [Need("loss.name", without_bias, "which learns its scale and its bias")]
        for name, build in TEMPERATURES.items()
    }
    weighs = "which has no probability of the positive to weigh by"
    needs["macl"] += [Need("loss.name", ["auto", "softmax", OWN], weighs)]
    both = "whose loss is the mean of two directions, of no one probability"
    needs["macl"] += [Need("method", _NOT_CLIP["method"], both)]
    shift = "which may leave out other images when the run goes on: their numbers would shift"
    for name in OF_EACH_EXAMPLE:
        needs[name] += [Need("data.prompts", [""], _NO_CLASSES)]
        needs[name] += [Need("data.on_error", ["raise"], shift)]
    unbounded = "whose similarities have no limits, while this temperature is for a cosine"
    uneven = "whose similarities are not from -x to x, while this temperature is for a cosine"
    for names, topologies, why in (
        (OF_A_COSINE, BOUNDED, unbounded),
        (OF_A_SYMMETRIC_COSINE, SYMMETRIC, uneven),
    ):
        for name in names:
            needs[name] += [Need("topology.name", topologies, why)]
    return needs


def _needs_of_losses() -> dict[str, list[Need]]:
    needs = {loss: [Need("method", [*having, OWN], "")] for loss, having in LOSSES.items()}
    multiplies = (
        "whose temperature would depend on the pair or be learned from this loss, which is "
        "multiplied by it"
    )
    needs["rgcl"] += [Need("temperature.name", [*OF_AN_ANCHOR, OWN], multiplies)]
    needs["rgcl"] += [Need("data.prompts", [""], _NO_CLASSES)]
    return needs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where the images come from."""

    source: str = field("embedded", "where the images come from", among=SOURCES, own=True)
    name: str = field(
        "",
        "embedded: emoji or patches, '' = emoji; tfds: the data set's name, such as `cifar10`",
        about="data.source",
    )
    path: str = field(
        "",
        "the directory or the file of the data",
        about="data.source",
        of_a_machine=True,
        may_change=True,
    )
    image_size: int = field(
        0, "side of the square that images are brought to, in pixels; 0 = as stored", at_least=0
    )
    whole: bool = field(
        True,
        "True: crops are drawn in the whole picture, whose shorter side is data.image_size; False: "
        "in its central square",
    )
    holdout: float = field(
        0.1,
        "fraction of the training images kept out, on which kNN is measured; 0 = none: training "
        "then needs knn_every=0",
        at_least=0.0,
        at_most=0.5,
    )
    limit: int = field(0, "train on this many images, stratified by class; 0 = all", at_least=0)
    imbalance_ratio: float = field(
        1.0,
        "long tail: images of the rarest class over those of the most frequent one; 1 = unchanged",
        above=0.0,
        at_most=1.0,
    )
    captions: str = field(
        "",
        "folder: .csv, .tsv or .jsonl of path and caption; else the column or feature with the "
        "text; '' = none",
        about="data.source",
        of_a_machine=True,
        may_change=True,
    )
    outside: bool = field(
        False,
        "a caption file, or a column of paths, may name images outside data.path",
        about="data.source",
        of_a_machine=True,
        may_change=True,
    )
    prompts: str = field(
        "",
        "caption images with their class through templates: name, photos, drawings, or a text with "
        "{}; '' = the data's own captions",
        only_for=_CLIP,
    )
    on_error: str = field(
        "raise",
        "stop at what cannot be read, or leave it out and list it",
        among=ON_ERROR,
    )
    caption_noise: float = field(
        0.0,
        "fraction of captions permuted within a batch, to study noise",
        at_least=0.0,
        below=1.0,
        only_for=_CLIP,
    )
    threads: int = field(
        2,
        "threads that read ahead; 0 = read in the loop",
        at_least=0,
        of_a_machine=True,
        of_no_number=True,
        may_change=True,
    )
    on_device: bool | None = field(
        None,
        "keep the training images on every device; None = where they take at most a quarter of its "
        "memory, and on no CPU",
        of_no_number=True,
        may_change=True,
    )
    options: dict = field({}, OPTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """How a batch goes through the networks."""

    micro_batches: int = field(
        1,
        "GradCache micro-batches; exact full-batch gradient, BatchNorm sees a micro-batch",
        at_least=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """How the two views of an image are made, on the device."""

    recipe: str = field("simclr_cifar", "how the two views are made", among=RECIPES)
    crop_min: float | None = field(
        None,
        f"smallest area of a crop, as a share of the image{_RECIPES_OWN}",
        above=0.0,
        at_most=1.0,
    )
    flip: float | None = field(
        None, f"probability of a horizontal flip{_RECIPES_OWN}", at_least=0.0, at_most=1.0
    )
    strength: float | None = field(
        None, "factor on the recipe's jitter of colours; None = 1", at_least=0.0
    )
    grayscale: float | None = field(
        None, f"probability of a grey view{_RECIPES_OWN}", at_least=0.0, at_most=1.0
    )
    blur: float | None = field(
        None, f"probability of a blurred view{_RECIPES_OWN}", at_least=0.0, at_most=1.0
    )
    size: int = field(
        0, "side of the views in pixels; 0 = the shorter side of the images", at_least=0
    )
    antialias: bool = field(
        False, "filter where a crop is reduced, as Pillow does; True for papers that used Pillow"
    )
    mean: tuple[float, ...] = field(
        (0.5,),
        "subtracted from the views, which are in [0, 1]: one value or one a channel",
        at_least=0.0,
        at_most=1.0,
    )
    std: tuple[float, ...] = field(
        (0.25,), "divides the views, one value or one a channel", above=0.0, at_most=1.0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The encoder."""

    name: str = field("small", "encoder", among=ENCODERS, own=True)
    stem: str = field(
        "patch",
        "patch: 4x4 pixels, fast on CPUs; cifar: 3x3, no max-pool; imagenet: 7x7 and max-pool",
        among=STEMS,
    )
    zero_residual: bool = field(
        True, "residual blocks start as their shortcut; False as in torchvision"
    )
    patch: int = field(4, "side of a patch in pixels; 16 for a ViT on ImageNet", at_least=1)
    heads: int = field(0, "attention heads; 0 = by size", at_least=0, only_for=_NOT_CLIP)
    freeze_patches: bool = field(
        False, "keep the random patch embedding, as MoCo v3 does", only_for=_NOT_CLIP
    )
    positions: str = field(
        "sincos",
        "sincos: fixed, as in MoCo v3; learned: as in ViT and DeiT, for one size of images",
        among=POSITIONS,
        only_for=_NOT_CLIP,
    )
    pooling: str = field(
        "token",
        "what a ViT's features are: token: its class token; attention: SigLIP's pooling of patches",
        among=IMAGE_POOLINGS,
    )
    quick_gelu: bool = field(
        False, "x sigmoid(1.702 x) in place of GELU, as OpenAI's weights need", only_for=_CLIP
    )
    remat: bool = field(
        False, "compute the insides of blocks again for the gradient: less memory, more time"
    )
    options: dict = field({}, OPTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """The text tower of clip and its vocabulary."""

    name: str = field("text_micro", "transformer: 64, 128, 384, 512 or 768 wide", among=TEXTS)
    pooling: str = field(
        "cls",
        "cls: BERT's class tokens; eot: CLIP's causal end of text; last: SigLIP's last position",
        among=POOLINGS,
    )
    context: int = field(77, "tokens of a caption; longer ones are cut off", at_least=3)
    vocabulary: str = field(
        "",
        "vocab.txt or tokenizer.json; '' = made of the training captions",
        of_a_machine=True,
        may_change=True,
    )
    vocab_size: int = field(
        4096,
        "tokens of a vocabulary that is made, at most",
        at_least=8,
        only_for={"text.vocabulary": [""]},
        may_change=True,  # a run keeps its vocabulary
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Where images and texts are compared."""

    name: str = field("sphere", "similarity of an image and a text", among=TOPOLOGIES)
    dims: int = field(64, "dimensions of a token", at_least=1)
    tokens: int = field(1, "tokens of an embedding", at_least=1)
    mode: str = field(
        "multi",
        "multi: a class token for each token; reshape: one class token, cut up",
        among=MODES,
        only_for={"topology.name": taking("tokens", TOPOLOGIES), "topology.tokens": Above(1)},
    )
    match_range: bool = field(
        False, "divide by the tokens, so that logits start and are clamped as on the sphere"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projector:
    """The projection head between the encoder and the loss."""

    name: str = field("auto", "projection head; auto: the method's own", among=PROJECTORS)
    hidden: int = field(
        0, "its hidden width; 0 = the encoder's", at_least=0, parts=("projector", "head")
    )
    out: int = field(128, "its output width", at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """The contrastive loss."""

    name: str = field(
        "auto",
        "loss; auto = softmax, except rgcl for simclr and clip with isogclr or tempnet; "
        "softmax (or nt_xent) = the method's own",
        among=ALL_LOSSES,
        own=True,
        needs=_needs_of_losses(),
    )
    strategy: str = field(
        "auto",
        "how it is computed: by size and number of devices, or as named",
        among=STRATEGIES,
        needs={name: [_OF_QUEUE] for name in STRATEGIES if name not in FOR_QUEUE},
        parts=("spread",),
        may_change=True,
    )
    tile_size: int = field(
        0,
        "rows and columns of a tile; 0 = the strategy's own",
        at_least=0,
        only_for={"loss.strategy": [name for name in STRATEGIES if name != "dense"]},
        parts=("spread",),
        may_change=True,
    )
    precision: str = field(
        "float32",
        "matrix products of the loss; sums and temperatures stay in float32",
        among=PRECISIONS,
        parts=("spread",),
        may_change=True,
    )
    options: dict = field({}, OPTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature:
    """The temperature of the loss."""

    name: str = field(
        "dystress", "temperature", among=TEMPERATURES, own=True, needs=_needs_of_temperatures()
    )
    tau: float = field(0.1, "temperature; the initial value if it changes", above=0.0)
    tau_min: float = field(0.1, "smallest temperature", above=0.0)
    tau_max: float = field(0.2, "largest temperature", above=0.0)
    shift: float = field(-0.4, "minus the similarity at which the maximum starts", at_most=0.0)
    width: float = field(0.7, "distance in similarity from the maximum to the minimum", above=0.0)
    stop_gradient: bool = field(True, "no gradient through the temperature, as in the paper's code")
    half_period: float = field(200.0, "epochs from tau_max to tau_min", above=0.0)
    interval: str = field(
        "epoch", "the cosine moves every epoch, as published, or every step", among=INTERVALS
    )
    min_scale: float = field(1.0, "smallest 1 / tau", above=0.0)
    max_scale: float = field(100.0, "largest 1 / tau", above=0.0)
    bias: float = field(-10.0, "initial bias", only_for={"loss.name": WITH_BIAS})
    alpha: float = field(0.5, "how strongly tau follows the positives", at_least=0.0, at_most=1.0)
    threshold: float = field(
        0.0, "similarity of the positives at which tau is its value", at_least=0.0, at_most=1.0
    )
    rho: float | None = field(
        None, "radius of the robust objective; None = as published", at_least=0
    )
    learning_rate: float | None = field(
        None,
        "the temperature's own learning rate. None: as published; for learned: the run's, "
        "with lars 5e-4. If set, Adam's",
        at_least=0.0,
    )
    options: dict = field({}, OPTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moco:
    """A momentum encoder and a queue of embeddings."""

    momentum: float = field(
        0.99,
        "EMA momentum m; it stays with moco_v2, and rises to 1 over the run with moco_v3 and byol",
        at_least=0.0,
        at_most=1.0,
    )
    queue_size: int = field(
        4096,
        "embeddings in the queue, a multiple of the batch size, and small beside the data",
        at_least=1,
    )
    bn_groups: int = field(
        8,
        "parts of the batch with BatchNorm statistics of their own; 1 = the whole batch",
        at_least=1,
        only_for={"model.name": BATCH_NORMED},
    )
    scale_by_tau: bool = field(
        True, "the published factor 2 tau on the loss, tau of each positive pair"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimiser and its learning rate."""

    name: str = field("sgd", "optimiser", among=OPTIMIZERS)
    learning_rate: float = field(0.2, "base learning rate", above=0.0)
    rule: str = field(
        "constant",
        "peak = base; linear: base x batch / 256; sqrt: base x sqrt(batch)",
        among=RULES,
    )
    form: str = field(
        "moco_v3",
        "whose LARS: rate outside the momentum (moco_v3, lightly) or inside (simclr), or steps of "
        "at most SGD's (solo_learn)",
        among=LARS_FORMS,
    )
    momentum: float = field(0.9, "momentum", at_least=0.0, below=1.0)
    beta2: float | None = field(
        None,
        "how slowly Adam forgets squared gradients; None = 0.999; CLIP's ViTs: 0.98",
        at_least=0.0,
        below=1.0,
    )
    eps: float | None = field(
        None, "added to Adam's divisor; None = 1e-8; CLIP's ViTs: 1e-6", above=0.0
    )
    weight_decay: float = field(5e-4, "weight decay", at_least=0.0)
    decay_vectors: bool = field(
        True,
        "biases and norms decay too; lars never decays them",
        only_for={"optimizer.weight_decay": Above(0)},
    )
    clip_norm: float = field(
        0.0,
        "gradients of the encoder and its heads with a larger norm are scaled down to this norm; "
        "0 = no clipping",
        at_least=0.0,
    )
    warmup_epochs: float = field(0.0, "linear warm-up, then a cosine to 0", at_least=0.0)
    interval: str = field("step", "the cosine moves every step, or every epoch", among=INTERVALS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knn:
    """Nearest-neighbour evaluation, during training and after."""

    k: int | tuple[int, ...] = field(
        200,
        "neighbours, at most as many as there are; 20,200 measures with each",
        at_least=1,
        may_change=True,
    )
    temperature: float | tuple[float, ...] = field(
        0.1,
        "a neighbour's weight is exp(similarity / this); several: with each",
        above=0.0,
        may_change=True,
    )
    bank: int = field(
        50_000,
        "compare with this many labelled training images, evenly chosen; 0 = all (dystress eval: "
        "all, if not set)",
        at_least=0,
        may_change=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Microscope:
    """What is recorded of the pairs that the loss compares."""

    every: int | None = field(
        None,
        "steps between two records of similarities, temperatures and weights, beside the first and "
        "the last step and every knn_every steps; None = about 60 records a run, at most every "
        "tenth step; 0 = none at all",
        at_least=0,
        of_no_number=True,
        may_change=True,
    )


_SGD, _LBFGS = {"probe.solver": ("sgd",)}, {"probe.solver": ("lbfgs",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Linear evaluation, during training and after."""

    online: bool = field(True, "train a linear probe beside the encoder where labels exist")
    features: str = field(
        "augmented",
        "augmented: encode new weak views every epoch; cached: encode once",
        among=("augmented", "cached"),
        may_change=True,
    )
    solver: str = field(
        "sgd",
        "sgd, or lbfgs (cached features only)",
        among=SOLVERS,
        needs={"lbfgs": [Need("probe.features", ["cached"], "which differ in every pass")]},
        may_change=True,
    )
    epochs: int = field(90, "epochs", at_least=1, only_for=_SGD, may_change=True)
    learning_rates: tuple[float, ...] = field(
        (0.1,),
        "base rates, x batch / 256; of several the best on the held-out images",
        above=0.0,
        only_for=_SGD,
        may_change=True,
    )
    l2: tuple[float, ...] = field(
        (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        "strengths of L2; of several the best on the held-out images",
        above=0.0,
        only_for=_LBFGS,
        may_change=True,
    )
    batch_size: int = field(256, "images a step", at_least=1, only_for=_SGD, may_change=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """Evaluations with few labels."""

    fractions: tuple[float, ...] = field(
        (0.01, 0.1),
        "few_labels: shares of the labels, of every class alike, if labels.share is 1",
        above=0.0,
        at_most=1.0,
        may_change=True,
    )
    shots: tuple[int, ...] = field(
        (1, 5, 10), "few_shot: training images of a class", at_least=1, may_change=True
    )
    share: float | tuple[float, ...] = field(
        1.0,
        "linear_probe, finetune and few_labels: share of the labels, of every class alike; "
        "0.01,0.1 measures with each",
        above=0.0,
        at_most=1.0,
        may_change=True,
    )
    seeds: int = field(
        0,
        "seeds of every evaluation that draws something, of which mean and deviation are told; 0 = "
        "5 of few_labels and few_shot, 1 of all others",
        at_least=0,
        may_change=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """The whole network trained on labels, after the run."""

    recipe: str = field(
        "simclr",
        "whose settings, where the fields below say nothing else",
        among=FINETUNE_RECIPES,
        may_change=True,
    )
    optimizer: str = field(
        "auto",
        "optimiser; auto: the recipe's",
        among=("auto", *FINETUNE_OPTIMIZERS),
        may_change=True,
    )
    learning_rate: float | None = field(
        None, f"base rate, x batch / 256{_RECIPES_OWN}", above=0.0, may_change=True
    )
    batch_size: int = field(
        256,
        "images a step; 0 = the recipe's (simclr 4096, mae 1024)",
        at_least=0,
        may_change=True,
    )
    epochs: int = field(0, "epochs; 0 = the recipe's", at_least=0, may_change=True)
    weight_decay: float | None = field(
        None, f"weight decay, not of norms and biases{_RECIPES_OWN}", at_least=0.0, may_change=True
    )
    layer_decay: float | None = field(
        None,
        f"each layer has this times the rate of the one behind it{_RECIPES_OWN}",
        above=0.0,
        at_most=1.0,
        may_change=True,
    )
    warmup_epochs: float | None = field(
        None, f"linear warm-up, then a cosine{_RECIPES_OWN}", at_least=0.0, may_change=True
    )
    label_smoothing: float | None = field(
        None,
        f"share of each label that is spread over all classes{_RECIPES_OWN}",
        at_least=0.0,
        below=1.0,
        may_change=True,
    )
    mixup: float | None = field(
        None,
        f"alpha of the share by which two images are mixed, 0 = never{_RECIPES_OWN}",
        at_least=0.0,
        may_change=True,
    )
    cutmix: float | None = field(
        None,
        f"alpha of the share that a box of another image takes, 0 = never{_RECIPES_OWN}",
        at_least=0.0,
        may_change=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Zero-shot classification and retrieval of clip."""

    prompts: str = field(
        "photos",
        "templates of a class: name, photos, drawings, or a text with {}",
        may_change=True,
    )
    classes: str = field(
        "labels",
        "classes that images are told apart by: the data's labels, or all distinct captions",
        among=("labels", "captions"),
        may_change=True,
    )
    class_names: str = field(
        "",
        "file with one name a line; '' = the data's own",
        about="data.source",
        of_a_machine=True,
        may_change=True,
    )


_BUILD = {name: entry.build for name, entry in METHODS.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one run."""

    seed: int = field(
        0, "initial weights, order of the data, augmentation", at_least=0, at_most=2**32 - 1
    )
    method: str = field("simclr", "how the encoder learns", among=METHODS, own=True)
    method_options: dict = field({}, "further arguments of the method, such as your own")
    batch_size: int = field(256, "images a step, over all devices", at_least=2)
    epochs: int = field(100, "passes over the training images", at_least=1, may_change=True)
    steps: int = field(0, "if above 0: steps, in place of epochs", at_least=0, may_change=True)
    log_every: int = field(
        10,
        "steps between two logged lines; 0 = only those with a measurement or a record",
        at_least=0,
        of_no_number=True,
        may_change=True,
    )
    loggers: tuple[str, ...] = field(
        ("tensorboard",),
        "where the numbers can be watched, beside metrics.jsonl, several with commas between them; "
        "those but tensorboard need the package of their name",
        among=LOGGERS,
        of_no_number=True,
        may_change=True,
    )
    run_name: str = field(
        "",
        "what loggers call the run; '' = as its directory is called",
        of_no_number=True,
        may_change=True,
    )
    project: str = field(
        "dystress",
        "what wandb, mlflow and trackio put the run under",
        of_no_number=True,
        may_change=True,
    )
    init_from: str = field(
        "",
        "a run's directory or a file of weights that a new run starts from; '' = none",
        of_a_machine=True,
        may_change=True,
    )
    init_prefix: str = field(
        "auto",
        "what stands before the names in that file, such as module.encoder_q.; auto: found",
        only_for={"init_from": Given()},
        may_change=True,
    )
    checkpoint_every: int = field(
        500,
        "steps between two checkpoints; an epoch has images // batch_size steps; 0 = never: such a "
        "run cannot go on, nor be measured later",
        at_least=0,
        of_no_number=True,
        may_change=True,
    )
    checkpoint_keep: int = field(
        2,
        "newest checkpoints kept, beside the best by kNN; a large number such as 1000 keeps all",
        at_least=1,
        only_for={"checkpoint_every": Above(0)},
        of_no_number=True,
        may_change=True,
    )
    checkpoint_on_error: str = field(
        "continue",
        "where a checkpoint cannot be written: say so and go on, or stop (always with several "
        "processes)",
        among=("continue", "raise"),
        only_for={"checkpoint_every": Above(0)},
        of_no_number=True,
        may_change=True,
    )
    profile_steps: int = field(
        0,
        "steps, after the first two, of which a profile says where their time goes; 0 = none",
        at_least=0,
        of_no_number=True,
        may_change=True,
    )
    knn_every: int = field(
        500,
        "steps, not epochs, between two evaluations on the held-out images; 0 = never (needed with "
        "data.holdout=0)",
        at_least=0,
        may_change=True,
    )
    evaluation: str = field(
        "",
        "extra evaluations after training: names or MODULE:OBJECT, comma-separated; -NAME leaves "
        "out one that a run ends with, as -baselines",
        of_no_number=True,
        may_change=True,
    )
    eval_on: dict = field(
        {},
        "further images that are measured too: --config.eval_on.NAME.FIELD=VALUE with the fields "
        "of data, such as source and path",
        may_change=True,
    )
    evaluation_options: dict = field(
        {}, "arguments of the evaluations of your own", may_change=True
    )
    dtype: str = field(
        "float32",
        "arithmetic of the encoder and head; parameters, statistics and loss stay float32",
        among=("float32", "bfloat16"),
        parts=("encoder", "projector", "head", "towers"),
    )
    data: Data = group(Data, axis="data.source", table=SOURCES)
    batch: Batching = group(Batching)
    augment: Augment = group(Augment, axis="augment.recipe", table=RECIPES)
    model: Model = group(Model, axis="model.name", table=ENCODERS, parts=("encoder", "towers"))
    projector: Projector = group(
        Projector,
        axis="projector.name",
        table=PROJECTORS,
        only_for=_NOT_CLIP,
        parts=("projector",),
    )
    text: Text = group(Text, only_for=_CLIP)
    topology: Topology = group(Topology, axis="topology.name", table=TOPOLOGIES, only_for=_CLIP)
    loss: Loss = group(
        Loss, axis="loss.name", table=ALL_LOSSES, only_for=_CONTRASTIVE, parts=("loss",)
    )
    temperature: Temperature = group(
        Temperature, axis="temperature.name", table=TEMPERATURES, only_for=_CONTRASTIVE
    )
    moco: Moco = group(Moco, axis="method", table=_BUILD)
    optimizer: Optimizer = group(Optimizer, axis="optimizer.name", table=OPTIMIZERS)
    microscope: Microscope = group(Microscope)
    knn: Knn = group(Knn)
    probe: Probe = group(Probe)
    labels: Labels = group(Labels)
    finetune: Finetune = group(Finetune)
    zero_shot: ZeroShot = group(ZeroShot, only_for=_CLIP)

    @property
    def loss_name(self) -> str:
        """The loss, where the settings leave it open: that of the temperature's authors."""
        if self.loss.name != "auto":
            return self.loss.name
        robust = self.temperature.name in OF_EACH_EXAMPLE and self.method in LOSSES["rgcl"]
        return "rgcl" if robust else "softmax"


# Names of earlier versions and what they are called now.
RENAMED_FIELDS = {"data.wrong_pairs": "data.caption_noise", "labels.draws": "labels.seeds"}
RENAMED_VALUES = {
    "temperature.name": {"free": "temperature_free", "per_sample": "isogclr"},
}
# Second names that stay.
ALIASES = {"loss.name": {"nt_xent": "softmax"}}
