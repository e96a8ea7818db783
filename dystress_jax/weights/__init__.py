"""Weights of other libraries, in and out: files, names, and how the arrays lie."""

from ._errors import WeightsError as WeightsError
from ._exchange import NATIVE as NATIVE
from ._exchange import Taken as Taken
from ._exchange import channels_of as channels_of
from ._exchange import give as give
from ._exchange import kernel_of as kernel_of
from ._exchange import take as take
from ._files import Tensors as Tensors
from ._files import about as about
from ._files import check_readable as check_readable
from ._files import check_writable as check_writable
from ._files import read as read
from ._files import write as write
from ._tables import LIBRARIES as LIBRARIES
