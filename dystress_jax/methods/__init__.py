"""How an encoder learns: each method is a NamedTuple of pure functions."""

from ._method import Method as Method
from ._method import Outcome as Outcome
from ._online_probe import with_online_probe as with_online_probe
from ._online_probe import with_probe_optimizer as with_probe_optimizer
from ._online_probe import without_probe as without_probe
from .simclr import Loss as Loss
from .simclr import simclr as simclr
