"""Images in, with labels or captions: sources behind one interface, and batches through grain."""

from ._captions import Captions as Captions
from ._holdout import split_holdout as split_holdout
from ._language import CaptionList as CaptionList
from ._language import captions_from_labels as captions_from_labels
from ._language import classes_from_captions as classes_from_captions
from ._language import list_captions as list_captions
from ._language import read_class_names as read_class_names
from ._language import with_tokens as with_tokens
from ._pairs import lies_below as lies_below
from ._select import labelled as labelled
from ._select import long_tail as long_tail
from ._select import subset as subset
from ._select import without_classes as without_classes
from ._source import Batch as Batch
from ._source import Example as Example
from ._source import Source as Source
from ._source import UnreadableError as UnreadableError
from ._stored import from_arrays as from_arrays
from ._stored import from_reader as from_reader
from .pipeline import PaddedBatch as PaddedBatch
from .pipeline import batches as batches
from .pipeline import padded_batches as padded_batches
from .sources import SOURCES as SOURCES
from .sources import Opener as Opener
from .sources import open_splits as open_splits
