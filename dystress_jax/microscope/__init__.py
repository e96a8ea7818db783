"""What the temperature does to the pairs of a batch: recorded in every run, read by anyone.

`look` is a pure function of the embeddings that a loss compares. The trainer calls it every so many
steps and keeps what it finds in `microscope/` of the run's directory, a small file a record; `read`
gives all records of a run as arrays with named axes, `of_run` those that can be read.
"""

from ._compared import Compared as Compared
from ._embeddings import EmbeddingsError as EmbeddingsError
from ._embeddings import as_records as as_records
from ._embeddings import read_embeddings as read_embeddings
from ._look import KINDS as KINDS
from ._look import complete as complete
from ._look import earth_movers_distance as earth_movers_distance
from ._look import histograms as histograms
from ._look import look as look
from ._look import scalars as scalars
from ._recorded import Recorded as Recorded
from ._recorded import of_run as of_run
from ._records import Named as Named
from ._records import Recorder as Recorder
from ._records import Records as Records
from ._records import read as read
from ._records import unit_of as unit_of
from ._watched import WATCHED as WATCHED
from ._watched import Watched as Watched
from ._watched import about as about
from ._watched import found_of as found_of
from ._watched import watched as watched
