"""From settings to a run: what `dystress train` and `dystress eval` do, to be used from Python too.

Example:
    >>> settings = defaults()
    >>> settings.temperature.tau_max = 0.5
    >>> config = from_config_dict(settings)
    >>> config.temperature.tau_max
    0.5

`train(config, workdir)` trains, or goes on with the run in `workdir`; `evaluate` measures it, and
`load` gives its encoder without its images, `restore` its parts and its state. `sweep` trains
every combination of some settings.
`Own` puts objects of one's own in place of names.
"""

from ._about_weights import IMPORTED as IMPORTED
from ._about_weights import imported as imported
from ._build import build as build
from ._embed import EmbedError as EmbedError
from ._embed import embed as embed
from ._evaluate import evaluate as evaluate
from ._evaluate import evaluate_all as evaluate_all
from ._evaluate import restore as restore
from ._export import FORMATS as FORMATS
from ._export import export_weights as export_weights
from ._import import import_weights as import_weights
from ._load import Encoder as Encoder
from ._load import ImageTextEncoder as ImageTextEncoder
from ._load import ZeroShotClassifier as ZeroShotClassifier
from ._load import load as load
from ._own import Own as Own
from ._saved import read_config as read_config
from ._sweep import Combination as Combination
from ._sweep import combinations as combinations
from ._sweep import short_name as short_name
from ._sweep import sweep as sweep
from ._train import train as train
from .checks import from_config_dict as from_config_dict
from .config import Config as Config
from .config import ConfigError as ConfigError
from .experiment import Experiment as Experiment
from .fields import defaults as defaults
from .fields import to_config_dict as to_config_dict
from .methods import Parts as Parts
from .overrides import override as override
from .temperature import Facts as Facts
