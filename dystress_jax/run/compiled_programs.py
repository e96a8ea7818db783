"""Where compiled programs are kept, so that the next run need not compile them again."""

import hashlib
import os
import pathlib
import platform
import re

import jax
from absl import flags

from ._environment import find_devices

CACHE_BYTES = 2 * 2**30


def define() -> None:
    """Define the flag that says whether they are kept."""
    flags.DEFINE_bool(
        "compilation_cache",
        True,
        "Keep compiled programs in the user's cache directory, or in JAX_COMPILATION_CACHE_DIR.",
    )


def keep() -> str:
    """Make the same program compile once, for all runs of this user on this kind of machine.

    Not with several devices that are CPUs: there a program that was kept has lost the order of its
    collectives (jaxlib 0.10), and its devices may wait for each other for ever.

    Returns:
        What to tell: where they are kept, and how to keep none.

    Raises:
        ConfigError: JAX has no device.
    """
    devices = find_devices()
    if len(devices) > 1 and devices[0].platform == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
        return "compiled programs: not kept (with several CPU devices they could hang)"
    if not flags.FLAGS.compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    if not jax.config.values["jax_enable_compilation_cache"]:
        return "compiled programs: not kept"
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~/.cache").expanduser()
        place = pathlib.Path(home, "dystress_jax", _machine())
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            jax.config.update("jax_enable_compilation_cache", False)
            return f"compiled programs: not kept ({place}: {error.strerror})"
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    place = jax.config.values["jax_compilation_cache_dir"]
    return f"compiled programs: kept in {place} (switch off: --nocompilation_cache)"


def _machine() -> str:
    """The kind of CPU: a home directory may serve several, and programs of one crash another."""
    try:
        told = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        told = platform.processor()
    kind = re.findall(r"^(?:flags|Features|model name)\s*:.*", told, re.MULTILINE) or [told]
    digest = hashlib.sha256("\n".join(sorted(set(kind))).encode()).hexdigest()[:8]
    return f"{platform.machine()}-{digest}"
