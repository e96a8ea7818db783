"""How an encoder learns: each method is a NamedTuple of pure functions."""

from ._byol import byol as byol
from ._clip import OneView as OneView
from ._clip import clip as clip
from ._clip import embed_texts as embed_texts
from ._clip import siglip as siglip
from ._method import DeviceBatch as DeviceBatch
from ._method import Embedded as Embedded
from ._method import Loss as Loss
from ._method import Method as Method
from ._method import Outcome as Outcome
from ._method import Spread as Spread
from ._method import accepts as accepts
from ._method import takes_labels as takes_labels
from ._moco_v2 import moco_v2 as moco_v2
from ._moco_v3 import moco_v3 as moco_v3
from ._nnclr import nnclr as nnclr
from ._online_probe import with_online_probe as with_online_probe
from ._online_probe import with_probe_optimizer as with_probe_optimizer
from ._online_probe import without_probe as without_probe
from ._queue import check_queue as check_queue
from ._simclr import simclr as simclr
from ._tower import Tower as Tower
from ._tower import Views as Views
from ._tower import follow as follow
from ._tower import follow_from as follow_from
