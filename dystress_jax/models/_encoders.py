"""The encoders by name."""

import functools
from collections.abc import Callable

from ._convnext import SIZES as CONVNEXTS
from ._convnext import convnext
from ._functional import Network
from ._resnet import ARCHITECTURES as RESNETS
from ._resnet import resnet
from ._vit import SIZES as VITS
from ._vit import vit

ENCODERS: dict[str, Callable[..., Network]] = {
    **{name: functools.partial(resnet, name) for name in RESNETS},
    **{name: functools.partial(vit, name) for name in VITS},
    **{name: functools.partial(convnext, name) for name in CONVNEXTS},
}
"""The encoders by name. Each builder takes `channels`, `remat`, `dtype`, and what else it uses."""
