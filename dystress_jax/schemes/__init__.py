"""Temperatures that change during training: schedules, learned, from the batch, per example.

A scheme is three pure functions around a state, which is a pytree to store with the model:

    state = scheme.init()
    temperature = scheme.resolve(state, inputs)            # before the loss
    ...                                                   # loss and gradients with this temperature
    state = scheme.update(state, inputs, gradient)         # after it

`gradient` is the gradient of the loss with respect to the temperature, a pytree like it; schemes
that do not learn from it take None.
"""

from typing import Any

from ._learned import learned_scale, learned_scale_and_bias
from ._of_batch import dual_temperature_reweight, macl, macl_reweight
from ._of_examples import isogclr, tempnet
from ._scheduled import cosine_schedule, scheduled
from ._scheme import Scheme, SchemeInputs, as_scheme, fixed, of_image_text, of_views

__all__ = [
    "Scheme",
    "SchemeInputs",
    "as_scheme",
    "cosine_schedule",
    "dual_temperature_reweight",
    "fixed",
    "isogclr",
    "learned_scale",
    "learned_scale_and_bias",
    "macl",
    "macl_reweight",
    "of_image_text",
    "of_views",
    "scheduled",
    "tempnet",
]

_RENAMED = {"Batch": "SchemeInputs", "cosine_oscillation": "cosine_schedule"}


def __getattr__(name: str) -> Any:
    """Answers an old name with the new one."""
    now = f": it is now called {_RENAMED[name]}" if name in _RENAMED else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{now}")
