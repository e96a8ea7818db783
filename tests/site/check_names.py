"""python check_names.py SITE: every public name of the package has a place on the built site.

The names are those that a user can import, found by importing; the site found its own by reading.
"""

import importlib
import pathlib
import pkgutil
import re
import sys
import types
import zlib

import dystress_jax

# Not of the library: the settings of experiments, and what the command line is made of.
APART = ("commands", "configs", "__main__")
# Modules of these packages are found through the package, or serve it alone.
INNER = ("augment", "evaluation", "losses", "methods", "models", "run")

site = pathlib.Path(sys.argv[1])
header, compressed = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)
shown = {line.split()[0] for line in zlib.decompress(compressed).decode().splitlines()}


def modules():
    for found in pkgutil.walk_packages(dystress_jax.__path__, "dystress_jax."):
        _, first, *rest = found.name.split(".")
        hidden = any(part.startswith("_") for part in (first, *rest))
        if not hidden and first not in APART and not (rest and first in INNER):
            yield importlib.import_module(found.name)


def names(module):
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


expected = [f"{module.__name__}.{name}" for module in modules() for name in names(module)]
missing = [name for name in expected if name not in shown]
assert len(expected) > 200, f"only {len(expected)} public names were found"
assert not missing, f"on no page: {missing}"
empty = [
    page.relative_to(site)
    for page in site.rglob("index.html")
    if not re.search(r"<h1[ >]", page.read_text(encoding="utf-8"))
]
assert not empty, f"without a title: {empty}"
print(f"{len(expected)} public names are on the site")
