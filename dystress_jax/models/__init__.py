"""Encoders, projection heads and the towers of image-text training, as pure functions."""

from ._depth import depths as depths
from ._functional import Network as Network
from ._functional import functional as functional
from .clip_vit import clip_vit as clip_vit
from .convnext import convnext as convnext
from .encoders import ENCODERS as ENCODERS
from .heads import HEADS as HEADS
from .heads import projector as projector
from .resnet import STEMS as STEMS
from .resnet import resnet as resnet
from .text import POOLINGS as POOLINGS
from .text import TEXTS as TEXTS
from .text import text_transformer as text_transformer
from .towers import IMAGE_TOWERS as IMAGE_TOWERS
from .towers import MODES as MODES
from .towers import image_tower as image_tower
from .towers import text_tower as text_tower
from .towers import token_projection as token_projection
from .vit import IMAGE_POOLINGS as IMAGE_POOLINGS
from .vit import POSITIONS as POSITIONS
from .vit import vit as vit
