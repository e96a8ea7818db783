"""How a network is trained on labels: the settings, and those that were published."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

import optax

from ..errors import ArgumentError, look_up

PyTree = Any
FEW = 0.01  # a share of the labels up to which `few_epochs` hold


def _sgd(weight_decay: float, mask: PyTree) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(weight_decay, mask=mask)
    return optax.chain(decay, optax.trace(0.9, nesterov=True))


def _adamw(weight_decay: float, mask: PyTree) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, mask=mask))


FINETUNE_OPTIMIZERS: Mapping[str, Callable[[float, PyTree], optax.GradientTransformation]] = (
    types.MappingProxyType({"sgd": _sgd, "adamw": _adamw})
)
"""Directions by name: `(weight decay, which arrays decay) -> transformation`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning:
    r"""How a network is trained on labels.

    The rate rises linearly for the first epochs, then falls along half a cosine; its peak is
    $b B / 256$ with the base rate b and B images a step. With a layer decay d, layer l of
    L + 1 has the rate $\eta d^{L - l}$, the classifier, layer L, $\eta$ (`models.depths`).

    Args:
        optimizer: `sgd` with Nesterov's momentum .9 and coupled weight decay, or `adamw` with
            $\beta = (.9, .999)$.
        learning_rate: b, above 0.
        batch_size: B, at least 1; no more than there are images.
        epochs: at least 1.
        few_epochs: in their place with at most 1% of the labels; 0: `epochs`.
        weight_decay: at least 0; not of norms, biases, positions and class tokens.
        layer_decay: d, in (0, 1]; 1 is the same rate everywhere.
        warmup_epochs: at least 0, fewer than the epochs.
        final_rate: the last rate, at least 0.
        label_smoothing: s in [0, 1): a share s of each label is spread over all classes.
        mixup: $\alpha$ of the Beta distribution that mixes pairs of images; 0: none.
        cutmix: $\alpha$ of the one that says how much of an image a box of another takes; 0: none.
            With both, every batch has one of them, at random.

    Raises:
        ArgumentError: a number is out of range, or the optimiser unknown.

    Example:
        >>> Finetuning(optimizer="sgd", learning_rate=0.05, batch_size=256, epochs=30).layer_decay
        1.0
    """

    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    few_epochs: int = 0
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    warmup_epochs: float = 0.0
    final_rate: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with, before anything compiles."""
        look_up(FINETUNE_OPTIMIZERS, self.optimizer, argument="optimizer")
        for name, holds, allowed in (
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("few_epochs", self.few_epochs >= 0, "at least 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("layer_decay", 0 < self.layer_decay <= 1, "in (0, 1]"),
            ("warmup_epochs", self.warmup_epochs >= 0, "at least 0"),
            ("final_rate", self.final_rate >= 0, "at least 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("mixup", self.mixup >= 0, "at least 0"),
            ("cutmix", self.cutmix >= 0, "at least 0"),
        ):
            if not holds:
                raise ArgumentError(name, f"found {getattr(self, name)}; allowed: {allowed}.")

    def epochs_of(self, fraction: float) -> int:
        """How many epochs a share of the labels is trained on."""
        return self.few_epochs if self.few_epochs and fraction <= FEW else self.epochs


def simclr_finetuning() -> Finetuning:
    """SimCLR's: Nesterov's momentum, base rate 0.05, 4096 images a step, no regularisation.

    60 epochs on 1% of the labels, 30 on 10%, and on all, which is the setting of SimCLR v2.

    Example:
        >>> settings = simclr_finetuning()
        >>> settings.epochs_of(0.01), settings.epochs_of(0.1)
        (60, 30)

    References:
        Chen et al., [arXiv 2002.05709](https://arxiv.org/abs/2002.05709), appendix B.5; the cosine
        is that of the authors' code, `model_util.py` of
        [google-research/simclr](https://github.com/google-research/simclr). All labels: Chen et
        al., [arXiv 2006.10029](https://arxiv.org/abs/2006.10029).
    """
    return Finetuning(
        optimizer="sgd", learning_rate=0.05, batch_size=4096, epochs=30, few_epochs=60
    )


def mae_finetuning() -> Finetuning:
    """MAE's for ViT-Base: AdamW, layer decay 0.65, label smoothing, mixup and cutmix.

    Not here, and so different from the authors': RandAugment (9, 0.5) and random erasing (0.25) of
    the views, dropped paths (0.1), and the mean of the patches in place of the class token.

    Example:
        >>> mae_finetuning().layer_decay
        0.65

    References:
        He et al., [arXiv 2111.06377](https://arxiv.org/abs/2111.06377); `FINETUNE.md` and
        `main_finetune.py` of [facebookresearch/mae](https://github.com/facebookresearch/mae).
    """
    return Finetuning(
        optimizer="adamw",
        learning_rate=5e-4,
        batch_size=1024,
        epochs=100,
        weight_decay=0.05,
        layer_decay=0.65,
        warmup_epochs=5,
        final_rate=1e-6,
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
    )


FINETUNE_RECIPES: Mapping[str, Finetuning] = types.MappingProxyType(
    {"simclr": simclr_finetuning(), "mae": mae_finetuning()}
)
"""The published settings by name."""
