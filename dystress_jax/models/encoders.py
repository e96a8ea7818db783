"""The encoders by name."""

import functools
from collections.abc import Callable

from ._functional import Network
from .convnext import SIZES as CONVNEXTS
from .convnext import convnext
from .resnet import ARCHITECTURES as RESNETS
from .resnet import resnet
from .vit import SIZES as VITS
from .vit import vit

ENCODERS: dict[str, Callable[..., Network]] = {
    **{name: functools.partial(resnet, name) for name in RESNETS},
    **{name: functools.partial(vit, name) for name in VITS},
    **{name: functools.partial(convnext, name) for name in CONVNEXTS},
}
"""The encoders by name. Each builder takes `channels`, `remat`, `dtype`, and what else it uses."""
