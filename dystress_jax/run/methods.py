"""Every method by name: its heads, its BatchNorm groups, its losses, in one place each."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .. import losses, methods, similarities
from ..methods import Loss, Method, OneView, Spread, Views
from ..models import Network
from ..similarities import Similarity

MakeNetwork = Callable[..., Network]
MakeLoss = Callable[..., Loss]
Tower = tuple[Network, Network]
MakeTowers = Callable[[], tuple[Tower, Tower]]


class Parts(NamedTuple):
    """What a run has, for any method to be made of.

    A method is made by a function that has some of them as arguments, by their names. The settings
    of the others do nothing there, and are refused.

    Attributes:
        encoder: `(*, bn_groups=1) -> Network`, the encoder that the settings name.
        projector: `(default, in_features, *, bn_groups=1) -> Network`, the head that the settings
            name; `default` is used for the name auto.
        head: `(name, in_features, *, hidden) -> Network`, a head that keeps the width, such as a
            predictor; `hidden` is used if the settings name no hidden width.
        towers: `() -> (image, text)`, an encoder and a projection each.
        has_batchnorm: whether the encoder normalises over the batch.
        views: two random views of a batch of images.
        view: one.
        loss: `(softmax=None) -> Loss`, the loss that the settings name. A method of one's own says
            what `softmax` means for it, such as `losses.info_nce`. A method that has no such loss
            does not take it.
        spread: puts a loss over the devices.
        similarity: of an image and a text.
        caption_noise: fraction of captions permuted within a batch.
        by_class: whether captions are the names of classes, so that equal ones are no negatives.
        total_steps: of the run.
    """

    encoder: MakeNetwork
    projector: MakeNetwork
    head: MakeNetwork
    towers: MakeTowers
    has_batchnorm: bool
    views: Views
    view: OneView
    loss: MakeLoss
    spread: Spread
    similarity: Similarity
    caption_noise: float
    by_class: bool
    total_steps: int


def simclr(
    *,
    encoder: MakeNetwork,
    projector: MakeNetwork,
    views: Views,
    loss: MakeLoss,
    spread: Spread,
) -> Method:
    """SimCLR."""
    network = encoder()
    head = projector("simclr", network.out_features)
    return methods.simclr(network, head, views=views, loss=loss(), spread=spread)


def moco_v2(
    *,
    encoder: MakeNetwork,
    projector: MakeNetwork,
    has_batchnorm: bool,
    views: Views,
    loss: MakeLoss,
    spread: Spread,
    queue_size: int,
    momentum: float,
    bn_groups: int,
) -> Method:
    """MoCo v2: without BatchNorm there is nothing to split."""
    groups = bn_groups if has_batchnorm else 1
    network = encoder(bn_groups=groups)
    method = methods.moco_v2(
        network,
        projector("moco_v2", network.out_features, bn_groups=groups),
        views=views,
        queue_size=queue_size,
        momentum=momentum,
        loss=loss(),
        spread=spread,
        shuffle=groups > 1,
    )
    # Groups keep keys and queries apart; fine-tuned it is with the statistics of the whole batch.
    return method if groups == 1 else method._replace(encoder=encoder())


def moco_v3(
    *,
    encoder: MakeNetwork,
    projector: MakeNetwork,
    head: MakeNetwork,
    has_batchnorm: bool,
    views: Views,
    loss: MakeLoss,
    spread: Spread,
    total_steps: int,
    momentum: float,
    scale_by_tau: bool,
) -> Method:
    """MoCo v3: its heads after a ViT are others than those after a ResNet."""
    network = encoder()
    own, predictor = ("moco_v3", "byol") if has_batchnorm else ("moco_v3_vit", "moco_v3")
    projection = projector(own, network.out_features)
    return methods.moco_v3(
        network,
        projection,
        head(predictor, projection.out_features, hidden=network.out_features),
        views=views,
        momentum=momentum,
        total_steps=total_steps,
        scale_by_tau=scale_by_tau,
        loss=loss(),
        spread=spread,
    )


def nnclr(
    *,
    encoder: MakeNetwork,
    projector: MakeNetwork,
    head: MakeNetwork,
    views: Views,
    loss: MakeLoss,
    spread: Spread,
    queue_size: int,
) -> Method:
    """NNCLR: its predictor's hidden layer is twice as wide as the features, as published."""
    network = encoder()
    projection = projector("simclr3", network.out_features)
    return methods.nnclr(
        network,
        projection,
        head("byol", projection.out_features, hidden=2 * network.out_features),
        views=views,
        queue_size=queue_size,
        loss=loss(),
        spread=spread,
    )


def byol(
    *,
    encoder: MakeNetwork,
    projector: MakeNetwork,
    head: MakeNetwork,
    views: Views,
    total_steps: int,
    momentum: float,
) -> Method:
    """BYOL: its two heads are alike; published with projector.hidden 4096 and out 256."""
    network = encoder()
    projection = projector("byol", network.out_features)
    return methods.byol(
        network,
        projection,
        head("byol", projection.out_features, hidden=network.out_features),
        views=views,
        momentum=momentum,
        total_steps=total_steps,
    )


def clip(
    *,
    towers: MakeTowers,
    view: OneView,
    loss: MakeLoss,
    spread: Spread,
    similarity: Similarity,
    caption_noise: float,
    by_class: bool,
) -> Method:
    """CLIP on any manifold."""
    image, text = towers()
    return methods.clip(
        image,
        text,
        view=view,
        loss=loss(),
        similarity=similarity,
        caption_noise=caption_noise,
        by_class=by_class,
        spread=spread,
    )


class Entry(NamedTuple):
    """A method in the table.

    Attributes:
        build: makes it; its arguments are some of `Parts`, and fields of the settings.
        losses: what the loss may be, by name; empty: the method has a loss of its own and no
            temperature.
    """

    build: Callable[..., Method]
    losses: Mapping[str, Loss]


METHODS: dict[str, Entry] = {
    "simclr": Entry(
        simclr,
        {
            "softmax": losses.nt_xent,
            "dcl": losses.dcl,
            "rgcl": losses.rgcl,
            "supcon": losses.supcon,
        },
    ),
    "moco_v2": Entry(moco_v2, {"softmax": losses.moco}),
    "moco_v3": Entry(moco_v3, {"softmax": losses.info_nce}),
    "nnclr": Entry(nnclr, {"softmax": losses.info_nce}),
    "byol": Entry(byol, {}),
    "clip": Entry(
        clip, {"softmax": losses.clip, "rgcl": losses.clip_rgcl, "siglip": methods.siglip}
    ),
}

# The names of all losses, and the methods that have each.
LOSSES: dict[str, list[str]] = {
    loss: [name for name, entry in METHODS.items() if loss in entry.losses]
    for method in METHODS.values()
    for loss in method.losses
}
# All of them; of those that several methods call the same, the first method's. `Config.loss_name`
# says which one auto is.
ALL_LOSSES: dict[str, Loss] = {
    "auto": losses.nt_xent,
    **{name: METHODS[having[0]].losses[name] for name, having in LOSSES.items()},
}
# Those that a bias is learned for, beside the scale.
WITH_BIAS = ("siglip",)
# The methods whose negatives are in a queue, which every device holds whole.
WITH_QUEUE = [
    name
    for name, entry in METHODS.items()
    if any("queue" in inspect.signature(loss).parameters for loss in entry.losses.values())
]

TOPOLOGIES: dict[str, Callable[..., Similarity]] = {
    "sphere": lambda: similarities.sphere,
    "oblique": lambda tokens, match_range: similarities.oblique(tokens, mean=match_range),
    "geodesic": lambda: similarities.geodesic,
    "oblique_geodesic": lambda tokens: similarities.oblique_geodesic(tokens),
    "euclidean": lambda: similarities.euclidean,
    "squared_euclidean": lambda: similarities.squared_euclidean,
    "inner_product": lambda: similarities.inner_product,
}
_ONE_TOKEN = {"tokens": 1, "match_range": False}
_MEASURES = {
    name: build(**{n: _ONE_TOKEN[n] for n in inspect.signature(build).parameters})
    for name, build in TOPOLOGIES.items()
}
# Those whose values lie between two numbers, and those of them that lie alike on both sides of 0.
BOUNDED = [name for name, s in _MEASURES.items() if math.isfinite(s.high - s.low)]
SYMMETRIC = [name for name in BOUNDED if _MEASURES[name].low == -_MEASURES[name].high]
