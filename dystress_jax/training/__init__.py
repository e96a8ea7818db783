"""The engine: the state, the step and its gradients, the optimiser, checkpoints and the log."""

from .state import TrainState as TrainState
from .state import abstract_state as abstract_state
from .state import init_state as init_state
from .state import new_state as new_state
from .step import Gradient as Gradient
from .step import gradcache as gradcache
from .step import make_train_step as make_train_step
from .step import prepared as prepared
from .step import resolved as resolved
from .step import whole_gradient as whole_gradient
