"""One page to look at every temperature: sliders and curves, without a network or a server."""

from ._curves import AT_EACH_STEP as AT_EACH_STEP
from ._curves import CURVES as CURVES
from ._curves import FUNCTIONS as FUNCTIONS
from ._curves import Curve as Curve
from ._curves import Parameter as Parameter
from ._images import plain_images as plain_images
from ._page import SCRIPT as SCRIPT
from ._page import as_script as as_script
from ._page import curves as curves
from ._page import page as page
