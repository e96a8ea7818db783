"""Encoders, projection heads and the towers of image-text training, as pure functions."""

from ._clip_vit import clip_vit as clip_vit
from ._convnext import convnext as convnext
from ._depth import depths as depths
from ._encoders import ENCODERS as ENCODERS
from ._functional import Network as Network
from ._functional import functional as functional
from ._heads import HEADS as HEADS
from ._heads import projector as projector
from ._resnet import STEMS as STEMS
from ._resnet import resnet as resnet
from ._text import POOLINGS as POOLINGS
from ._text import TEXTS as TEXTS
from ._text import text_transformer as text_transformer
from ._towers import IMAGE_TOWERS as IMAGE_TOWERS
from ._towers import MODES as MODES
from ._towers import image_tower as image_tower
from ._towers import text_tower as text_tower
from ._towers import token_projection as token_projection
from ._vit import IMAGE_POOLINGS as IMAGE_POOLINGS
from ._vit import POSITIONS as POSITIONS
from ._vit import sincos_positions as sincos_positions
from ._vit import vit as vit
