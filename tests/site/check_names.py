"""python -m tests.site.check_names SITE: every public name has a place on the built site.

The names are found by importing; the site found its own by reading.
"""

import pathlib
import re
import sys
import zlib

from tests import public

site = pathlib.Path(sys.argv[1])
header, compressed = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)
shown = {line.split()[0] for line in zlib.decompress(compressed).decode().splitlines()}

expected = [
    f"{module.__name__}.{name}" for module in public.modules() for name in public.names(module)
]
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
