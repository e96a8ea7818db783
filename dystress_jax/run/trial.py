"""What only a step can find out, tried before the run begins: it is traced, nothing is compiled."""

import contextlib
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from .. import data
from ..methods import Loss, Method, accepts
from ..schemes import Scheme
from ..training import new_state, prepared, whole_gradient
from .config import Config, ConfigError
from .fields import as_fields, fields, get
from .tables import is_own, telling

_CALLED = ("method", "temperature.name", "loss.name")  # by the step
_REFUSED_IN_IT = ("loss.options", "loss.strategy", "loss.tile_size")  # for some batches, or devices


def try_step(config: Config, method: Method, scheme: Scheme | None, source: data.Source) -> None:
    """Trace the gradient of a batch, if it calls what may be refused there.

    That is the user's own, and a loss with options or a strategy that the settings choose.

    Args:
        config: the settings.
        method: of the run.
        scheme: of its temperature.
        source: of the batch.

    Raises:
        ConfigError: it fails, or gives no loss of each anchor.
    """
    own = [f"config.{axis}: {get(config, axis)}" for axis in _CALLED if is_own(get(config, axis))]
    named = [field for field in fields() if field.name in _REFUSED_IN_IT]
    chosen = [f"config.{field.name}" for field in named if field.is_set(config)]
    if not own and not chosen:
        return
    whose = " or ".join(own or chosen)
    arrays = {name: np.asarray(x) for name, x in source.gather(np.arange(1)).items()}
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype)
        for name, x in arrays.items()
    }

    def contrast(*arguments: Any) -> Any:
        values, outcome = method.contrast(*arguments)
        _check_values(values, whose)
        return values, outcome

    def step(batch: dict[str, Array]) -> Any:
        state = new_state(method, optax.identity(), jax.random.key(0), scheme=scheme)
        gradient = whole_gradient(method._replace(contrast=contrast), scheme)
        return gradient(state, prepared(method, batch, state.key), state.key)

    # What a loss of ours refuses is named by the field; the user's own may have called one.
    in_fields = contextlib.nullcontext() if own else as_fields("loss")
    with telling(whose, "what JAX can trace and differentiate"), in_fields:
        jax.eval_shape(step, batch)


def checked(loss: Loss, config: Config, like: Loss | None) -> Loss:
    """A loss of the user's own, which says what is wrong with it under its field.

    Args:
        loss: the user's own.
        config: the settings, which name it.
        like: a loss that is called in the same way; None: there is none of ours.
    """
    whose = f"config.loss.name: {config.loss.name}"
    allowed = "what JAX can trace and differentiate"
    if like is not None:
        parameters = inspect.signature(like).parameters.values()
        batch = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        by_name = [p.name for p in parameters if p.default is p.empty and p.name not in batch]
        by_name += ["similarity"] * (config.method == "clip")
        by_name += ["labels"] * (config.method == "simclr" and accepts(loss, "labels"))
        allowed += f", called with {', '.join([*batch, *by_name])}"
        by_name = [name for name in by_name if accepts(loss, name)]
        with telling(whose, allowed):  # the method, and what spreads the loss, call it otherwise
            inspect.signature(loss).bind(*batch, **dict.fromkeys(by_name))

    if accepts(loss, "temperature"):
        allowed += "; `temperature(s)` is tau of similarities s"

    @functools.wraps(loss)
    def call(*batch: Any, **how: Any) -> Float[Array, " anchors"]:
        with telling(whose, allowed):
            values = loss(*batch, **how)
            if values is None:
                raise ConfigError(f"{whose} gives None; allowed: a loss. Is its `return` missing?")
            values = jnp.asarray(values)
        _check_values(values, whose, rows=len(batch[0]) if batch else 1)
        return values

    return call


def _check_values(values: Any, whose: str, *, rows: int = 1) -> None:
    """One number an anchor; the anchors are the rows, or several views of each."""
    shape, dtype = jnp.shape(values), jnp.result_type(values)
    floating = jnp.issubdtype(dtype, jnp.floating)
    if len(shape) != 1 or shape[0] % rows or not shape[0] or not floating:
        raise ConfigError(
            f"{whose} gives {list(shape)} of {dtype}; allowed: one real number for each anchor, "
            + (f"[{rows}] or [{2 * rows}] here." if rows > 1 else "[anchors].")
        )
