"""The encoder of a run as an ONNX model, made by jax2onnx."""

import functools
import importlib
import logging
from typing import Any

import numpy as np

from .. import weights
from ..errors import how_to_install
from ._load import Encoder
from .config import ConfigError

IMAGES, FEATURES = "images", "features"
MOST = 1e-4  # difference of a feature, where features are about 1
TRIED = 2  # images


def to_onnx(encoder: Encoder) -> Any:
    """Convert an encoder, and compare what both make of random images.

    The model maps `images`, float32 in [0, 1] `[n size size channels]`, to `features`
    `[n features]`; mean and deviation are inside it.

    Args:
        encoder: as `load` gives it.

    Returns:
        The `onnx.ModelProto`.

    Raises:
        ConfigError: jax2onnx is not installed.
        WeightsError: it cannot convert the network, or makes another one of it.
    """
    try:
        jax2onnx, onnxruntime = map(importlib.import_module, ("jax2onnx", "onnxruntime"))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--format: found onnx, and no package {error.name}; allowed: with it, "
            f"{how_to_install('onnx')}, then pip install --no-deps jax2onnx (it asks for an older "
            "Orbax, which it does not use here)."
        ) from error
    apply = functools.partial(encoder.apply, encoder.params)
    square = (encoder.size, encoder.size, encoder.image_shape[2])
    names = {"input_names": [IMAGES], "output_names": [FEATURES]}
    off = logging.root.manager.disable
    logging.disable(max(off, logging.WARNING))  # it tells of every BatchNorm
    try:
        model = jax2onnx.to_onnx(apply, [("n", *square)], **names)
        del model.graph.value_info[:]  # shapes of what is between, not all of which are right
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        images = np.random.default_rng(0).random((TRIED, *square), np.float32)
        [found] = session.run([FEATURES], {IMAGES: images})
    except Exception as error:  # whatever the converter does not know
        said = (str(error).splitlines() or [""])[0]
        raise weights.WeightsError(
            f"onnx: jax2onnx cannot convert the encoder ({type(error).__name__}: {said}); allowed: "
            "the networks that it can, or export for torchvision or timm, and torch.onnx.export."
        ) from error
    finally:
        logging.disable(off)
    expected = np.asarray(apply(images))
    most = np.max(np.abs(found - expected)) / max(1.0, float(np.max(np.abs(expected))))
    if not most <= MOST:
        raise weights.WeightsError(
            f"onnx: found features that differ by {most:.1e} from those here; allowed: at most "
            f"{MOST:.0e}. Export for torchvision or timm, and use torch.onnx.export."
        )
    return model
