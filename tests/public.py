"""The names that a user can import, found by importing."""

import importlib
import pkgutil
import types
from collections.abc import Iterator

import dystress_jax

# Not of the library: the settings of experiments, and what the command line is made of.
APART = ("commands", "configs", "__main__")
# Modules of these packages are found through the package, or serve it alone.
INNER = ("augment", "evaluation", "losses", "methods", "models", "run")


def modules() -> Iterator[types.ModuleType]:
    """Those whose names a user may rely on."""
    for found in pkgutil.walk_packages(dystress_jax.__path__, "dystress_jax."):
        _, first, *rest = found.name.split(".")
        hidden = any(part.startswith("_") for part in (first, *rest))
        if not hidden and first not in APART and not (rest and first in INNER):
            yield importlib.import_module(found.name)


def names(module: types.ModuleType) -> Iterator[str]:
    """The public ones, without what the module has from elsewhere."""
    listed = getattr(module, "__all__", None)
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, types.ModuleType):
            continue
        home = getattr(value, "__module__", None) or ""
        own = (
            home == module.__name__
            if module.__file__ and "__init__" not in module.__file__
            else (home.startswith(module.__name__))
        )
        if (name in listed) if listed else own and callable(value):
            yield name
