"""What a run needs of JAX, whatever the environment has set."""

import contextlib
from collections.abc import Iterator

import jax

from .config import ConfigError


@contextlib.contextmanager
def usable_jax() -> Iterator[None]:
    """Where a run is built, trained or measured: strict modes of JAX are off.

    Flax and Optax promote types, and data goes to the devices when it is used.

    Raises:
        ConfigError: JAX has no device.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0] or "the platform is not there."
        asked = jax.config.values["jax_platforms"] or "any"
        raise ConfigError(
            f"JAX_PLATFORMS: found {asked}: {said} Allowed: a platform that is there, such as cpu, "
            "or unset it."
        ) from error
    with jax.numpy_dtype_promotion("standard"), jax.transfer_guard("allow"):
        yield
