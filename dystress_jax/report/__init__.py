"""One page about a run, or several: did it learn, what does the temperature do, what was it?

`gather` reads what the directories of runs hold into plain data, `stand_out` and `compare` find
what is worth a sentence, `overview` puts the accuracies of several settings beside each other, and
`page` writes it all into one HTML file that needs no network. Its charts need `bokeh`:
pip install 'dystress-jax[report]'.
"""

from typing import TYPE_CHECKING, Any

from ._comparisons import compare as compare
from ._overview import Overview as Overview
from ._overview import as_csv as as_csv
from ._overview import markdown as markdown
from ._overview import overview as overview
from ._run import ConfusionCounts as ConfusionCounts
from ._run import CurveOverSteps as CurveOverSteps
from ._run import Measured as Measured
from ._run import Run as Run
from ._run import gather as gather
from ._run import of_embeddings as of_embeddings
from ._run import told_apart as told_apart
from ._sentences import Sentence as Sentence
from ._sentences import stand_out as stand_out

if TYPE_CHECKING:
    from ._page import page as page


def __getattr__(name: str) -> Any:
    """Import `page` when it is asked for: what has no charts needs no bokeh."""
    if name == "page":
        from ._page import page

        return page
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
