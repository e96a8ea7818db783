"""How an encoder learns: each method is a NamedTuple of pure functions."""

from ._method import Batch as Batch
from ._method import Embedded as Embedded
from ._method import Method as Method
from ._method import Outcome as Outcome
from ._online_probe import with_online_probe as with_online_probe
from ._online_probe import with_probe_optimizer as with_probe_optimizer
from ._online_probe import without_probe as without_probe
from .clip import OneView as OneView
from .clip import PairLoss as PairLoss
from .clip import clip as clip
from .clip import embed_images as embed_images
from .clip import embed_texts as embed_texts
from .moco_v2 import QueueLoss as QueueLoss
from .moco_v2 import moco_v2 as moco_v2
from .moco_v3 import KeyLoss as KeyLoss
from .moco_v3 import moco_v3 as moco_v3
from .simclr import Loss as Loss
from .simclr import simclr as simclr
