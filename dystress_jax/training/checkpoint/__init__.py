"""Checkpoints: asynchronous, atomic, checked bit by bit when they come back.

A checkpoint is the whole train state and a record, such as the position in the data. Orbax finds
most damage by itself, but it returns array bytes and metadata as they are on disk; the fingerprint
of the state, which is part of the record, and the seal of the record find a flipped bit there too.
"""

from ._fingerprint import fingerprint as fingerprint
from ._orbax import CheckpointError as CheckpointError
from ._records import VERSION as VERSION
from ._records import Record as Record
from ._records import check_version as check_version
from ._records import newest_record as newest_record
from ._records import read_record as read_record
from ._records import scores as scores
from ._records import steps as steps
from ._restore import Restored as Restored
from ._restore import restore as restore
from ._restore import restore_newest as restore_newest
from ._saver import Saver as Saver
