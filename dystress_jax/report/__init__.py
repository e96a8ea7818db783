"""One page about a run, or several: did it learn, what does the temperature do, what was it?

`gather` reads what the directories of runs hold into plain data, `stand_out` and `compare` find
what is worth a sentence, and `page` writes it all into one HTML file that needs no network. The
charts need `bokeh`: pip install 'dystress-jax[report]'.
"""

from ._comparisons import compare as compare
from ._page import page as page
from ._run import ConfusionCounts as ConfusionCounts
from ._run import CurveOverSteps as CurveOverSteps
from ._run import Measured as Measured
from ._run import Run as Run
from ._run import gather as gather
from ._run import of_embeddings as of_embeddings
from ._run import told_apart as told_apart
from ._sentences import Sentence as Sentence
from ._sentences import stand_out as stand_out
