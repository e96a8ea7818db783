"""How an encoder learns: each method is a NamedTuple of pure functions."""

from ._method import DeviceBatch as DeviceBatch
from ._method import Embedded as Embedded
from ._method import Loss as Loss
from ._method import Method as Method
from ._method import Outcome as Outcome
from ._method import Spread as Spread
from ._method import accepts as accepts
from ._online_probe import with_online_probe as with_online_probe
from ._online_probe import with_probe_optimizer as with_probe_optimizer
from ._online_probe import without_probe as without_probe
from ._queue import check_queue as check_queue
from ._tower import Tower as Tower
from ._tower import Views as Views
from ._tower import follow as follow
from ._tower import follow_from as follow_from
from .byol import byol as byol
from .clip import OneView as OneView
from .clip import clip as clip
from .clip import embed_texts as embed_texts
from .clip import siglip as siglip
from .moco_v2 import moco_v2 as moco_v2
from .moco_v3 import moco_v3 as moco_v3
from .nnclr import nnclr as nnclr
from .simclr import simclr as simclr
