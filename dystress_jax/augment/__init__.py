"""Augmentation on the device: batched, under jit, one key per example.

A recipe is data (`Recipe` of two `View`s), drawing it is `two_views`; nothing here knows about the
model, the loss or the mesh.
"""

from ._recipe import Recipe as Recipe
from ._recipe import View as View
from ._recipes import RECIPES as RECIPES
from ._recipes import antialiased as antialiased
from ._recipes import captioned as captioned
from ._recipes import moco_v2 as moco_v2
from ._recipes import moco_v3 as moco_v3
from ._recipes import simclr as simclr
from ._recipes import simclr_cifar as simclr_cifar
from ._recipes import weak as weak
from ._recipes import whole as whole
from ._views import SMALLEST_BLURRED as SMALLEST_BLURRED
from ._views import Pictures as Pictures
from ._views import normalize as normalize
from ._views import seen as seen
from ._views import to_float as to_float
from ._views import two_views as two_views
from ._views import view as view
