"""Where the numbers of a run can be watched: TensorBoard, wandb, mlflow, trackio.

Each is imported only where it is named. The names that the services give to a run are kept in its
directory, so that it goes on as the same run.
"""

from ._open import FILE as FILE
from ._open import LOGGERS as LOGGERS
from ._open import NO_LOGGERS as NO_LOGGERS
from ._open import LoggerError as LoggerError
from ._open import Loggers as Loggers
from ._open import importable as importable
from ._open import open_loggers as open_loggers
from ._run import Begun as Begun
from ._run import Logger as Logger
