"""Encoders and projection heads as pure functions of their parameters."""

from ._functional import Network as Network
from .heads import projector as projector
from .resnet import resnet as resnet
from .vit import vit as vit
