"""How deep each array of an encoder is, for rates that fall from layer to layer."""

import re
from typing import Any

import jax

from ..errors import ArgumentError
from ._functional import Tree

BLOCKS = ("blocks", "layers")  # what the encoders call their blocks, one after another
_STAGED = re.compile(r"(?:stage(\d+)_)?(?:block(\d+)|downsampling|stem)")


def depths(params: Tree) -> tuple[Tree, int]:
    """The number of the layer that each array of an encoder belongs to.

    What comes before the blocks (patches, stem, positions, class token) is layer 0, block i of N is
    layer i, a downsampling between stages is a block, and what comes after is layer N + 1, as a
    classifier behind the encoder is.

    Args:
        params: of an encoder of this library.

    Returns:
        The same tree of numbers, and N + 1.

    Raises:
        ArgumentError: its blocks cannot be told by their names.

    Example:
        >>> params = {"conv": 1.0, "blocks": {"block1": 1.0, "block2": 1.0}}
        >>> depths(params)
        ({'blocks': {'block1': 1, 'block2': 2}, 'conv': 0}, 3)

    References:
        `util/lr_decay.py` of [facebookresearch/mae](https://github.com/facebookresearch/mae), for
        vision transformers.
    """
    named = {(top, name) for top in BLOCKS for name in params.get(top, {})}
    found = {key: _STAGED.fullmatch(key[1]) for key in named}
    if not found or not all(found.values()):
        raise ArgumentError(
            "params",
            f"found an encoder of {', '.join(sorted(params))}, whose layers no name tells apart; "
            "allowed: encoders of this library.",
        )

    def place(key: tuple[str, str]) -> tuple[int, int]:
        match = found[key]
        assert match is not None
        stage, block = match.groups()
        return int(stage or 0), int(block or 0)  # a stem is in no stage

    order = sorted(named, key=place)
    stems = [key for key in order if key[1] == "stem"]
    number = {key: i + 1 - len(stems) for i, key in enumerate(order)}
    last = len(order) - len(stems) + 1
    # A ResNet's own norm belongs to its first convolution; the norm of the others comes last.
    after = () if "conv" in params else ("norm", "pool")

    def layer(path: tuple[Any, ...], leaf: Any) -> int:
        del leaf
        names = [key.key for key in path]
        if names[0] in BLOCKS:
            return number[(names[0], names[1])]
        return last if names[0] in after else 0

    return jax.tree_util.tree_map_with_path(layer, params), last
