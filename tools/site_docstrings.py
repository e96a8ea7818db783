"""How the reference reads docstrings: an extension of griffe, the reader of mkdocstrings."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """`Example:`, which Google's style allows, is for griffe no section but a note."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each module, class, function and constant."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
