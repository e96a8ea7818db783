"""Images in: four kinds of sources behind one interface, and batches of them through grain."""

from ._source import Batch as Batch
from ._source import Example as Example
from ._source import Source as Source
from ._source import subset as subset
from .pipeline import PaddedBatch as PaddedBatch
from .pipeline import batches as batches
from .pipeline import padded_batches as padded_batches
from .sources import open_splits as open_splits
