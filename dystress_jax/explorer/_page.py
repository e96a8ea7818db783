"""The page of the explorer, in one file."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..microscope import Records, Watched, unit_of
from ._curves import AT_EACH_STEP, CURVES
from ._images import plain_images

TEMPLATE = pathlib.Path(__file__).with_name("page.html")
# What computes the curves in a browser; the constant DATA.curves must be `curves()`.
SCRIPT = "".join(
    pathlib.Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in ("curves.js", "images.js")
)
PLACES = "/*CURVES*/", "/*DATA*/null"  # the data last: a run may have any name


def curves() -> dict[str, Any]:
    """Every temperature, for `SCRIPT`.

    Returns:
        What JSON can say.

    Example:
        >>> isinstance(curves(), dict)
        True
    """
    return {name: curve._asdict() for name, curve in CURVES.items()}


def as_script(content: Any) -> str:
    """Plain data as a script has it; whatever a run is called, it cannot end the script.

    Args:
        content: what JSON can say.

    Example:
        >>> as_script({"name": "<b>"}) == '{"name": "' + chr(92) + 'u003cb>"}'
        True
    """
    return json.dumps(content, sort_keys=True).replace("<", "\\u003c")


def page(
    records: Records | None = None,
    *,
    name: str = "",
    images: Watched | None = None,
    missing: Sequence[str] = (),
    temperature: Mapping[str, Any] | None = None,
) -> str:
    """A self-contained HTML page with the curves of every temperature.

    Args:
        records: of a run, whose last histogram of similarities is then drawn as each temperature
            would weigh it; None: no run.
        name: of the run.
        images: whose hardest negatives are then listed, with their weights under each temperature.
        missing: what was not there or could not be read, in sentences that the page says.
        temperature: the settings of the run's own, which the page then begins with: `name` and its
            numbers. One that changes while it trains is a constant, that of the last record.

    Returns:
        The page; it loads nothing else.

    Example:
        >>> "temperature_free" in page()
        True
    """
    data = {
        "curves": curves(),
        "constants": AT_EACH_STEP,
        "unit": unit_of(records),
        "run": _of_run(records, name),
        "own": _own(temperature or {}, records),
        "missing": [f"{name}: {text}" for text in missing],
        "images": None if images is None else plain_images(images),
    }
    whole = TEMPLATE.read_text(encoding="utf-8")
    for place, text in zip(PLACES, (SCRIPT, as_script(data)), strict=True):
        whole = whole.replace(place, text)
    return whole


def _own(settings: Mapping[str, Any], records: Records | None) -> dict[str, Any] | None:
    """The temperature of a run as a curve of the page; None where it has none.

    Example:
        >>> _own({"name": "constant", "tau": 0.5, "tau_min": 0.1}, None)
        {'name': 'constant', 'v': {'tau': 0.5}, 'stop': False}
        >>> _own({"name": "tempnet", "tau": 0.5}, None) is None
        True
    """
    name = settings.get("name")
    if name in CURVES:
        numbers = {p.name: settings.get(p.name, p.default) for p in CURVES[name].parameters}
        if not all(isinstance(x, int | float) for x in numbers.values()):
            return None
        stop = CURVES[name].stop_gradient is not None and bool(settings.get("stop_gradient", True))
        return {"name": name, "v": {key: float(x) for key, x in numbers.items()}, "stop": stop}
    if name is None or records is None or "curve_tau" not in records.arrays:
        return None
    tau = np.asarray(records["curve_tau"][-1], np.float64)
    if not np.isfinite(tau).all() or np.ptp(tau) > 1e-4 * tau.max():
        return None
    return {"name": "constant", "v": {"tau": float(f"{tau.mean():.4g}")}, "stop": False}


def _of_run(records: Records | None, name: str) -> dict[str, Any] | None:
    """The newest record, as plain numbers; without negatives only the positives."""
    if records is None or "similarity" not in records.arrays:  # some have the images only
        return None
    edges = records["similarity_edges"][-1]
    kinds = {
        kind: np.nan_to_num(records.of_kind("similarity", kind)[-1]).tolist()
        for kind in records.kinds
    }
    usable = bool(np.all(np.isfinite(edges)) and sum(kinds["negative"]))
    return {
        "name": name,
        "step": int(records.steps[-1]),
        "edges": np.nan_to_num(edges).round(6).tolist(),
        "kinds": kinds,
        "usable": usable,
    }
