"""What a run needs of its environment, and what it says of it."""

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax

from .config import ConfigError

PACKAGES = ("dystress-jax", "jax", "jaxlib", "flax", "optax", "numpy")
KEEPS_BITS = "--xla_gpu_deterministic_ops"
BITS_OF_GPUS = f"on GPUs set XLA_FLAGS={KEEPS_BITS}=true for every part of a run, see docs/hosts.md"


@contextlib.contextmanager
def usable_jax() -> Iterator[None]:
    """Where a run is built, trained or measured: strict modes of JAX are off.

    Flax and Optax promote types, and data goes to the devices when it is used.

    Raises:
        ConfigError: JAX has no device.
    """
    find_devices()
    with jax.numpy_dtype_promotion("standard"), jax.transfer_guard("allow"):
        yield


def find_devices() -> list[Any]:
    """The devices of all processes.

    Raises:
        ConfigError: JAX has none.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0] or "the platform is not there."
        asked = jax.config.values["jax_platforms"] or "any"
        raise ConfigError(
            f"JAX_PLATFORMS: found {asked}: {said} Allowed: a platform that is there, such as cpu, "
            "or unset it."
        ) from error


def keeps_bits() -> bool:
    """Whether a step that is repeated gives the same bits: on GPUs only if XLA is told so.

    There XLA picks the kernels that are fastest just then, and adds in any order where several
    numbers go to one place.
    """
    asked = re.findall(rf"{KEEPS_BITS}(?:=(\S*))?(?:\s|$)", os.environ.get("XLA_FLAGS", ""))
    told = bool(asked) and asked[-1].lower() in ("", "true", "1")
    return told or all(device.platform != "gpu" for device in jax.devices())


def environment() -> dict[str, Any]:
    """Where a run goes on: command, machine, versions, and the commits of its code."""
    devices = jax.devices()
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "commits": {
            "dystress_jax": _commit(pathlib.Path(__file__).parents[1]),
            "working directory": _commit(pathlib.Path.cwd()),
        },
    }


def _commit(directory: pathlib.Path) -> str | None:
    """The commit that a directory is at, and whether files of it differ; None: there is none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "."):  # an environment inside somebody's repository
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "HEAD") + (", with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
