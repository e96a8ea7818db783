"""The stored values of the peers; what made each file is said in tests/fixtures/make_NAME.py."""

import pathlib

import numpy as np

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"


def golden(name):
    """A file as nested dicts, cut at the slashes of its keys."""
    nested = {}
    with np.load(FIXTURES / f"{name}.npz") as stored:
        for key, array in stored.items():
            *groups, last = key.split("/")
            place = nested
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = array
    return nested
