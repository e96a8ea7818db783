"""Every temperature as the page draws it.

A formula is written in what Python and JavaScript have in common, so that the page draws the very
text that the tests compare with the library: numbers, names, `+ - * / **`, comparisons and the
functions of `FUNCTIONS`. (No minus sign before a power: JavaScript refuses it.)
"""

from typing import NamedTuple

FUNCTIONS = ("abs", "atanh", "cos", "exp", "log", "max", "min", "sign", "sin", "sqrt", "where")


class Parameter(NamedTuple):
    """A number of a temperature and the ends of its slider.

    Attributes:
        name: as the function of the temperature calls it.
        default: where the slider begins.
        low: its left end.
        high: its right end.
    """

    name: str
    default: float
    low: float
    high: float


class Curve(NamedTuple):
    """One temperature.

    Attributes:
        parameters: its numbers.
        tau: the temperature of a negative pair as a formula of s and the parameters.
        derivative: of tau with respect to s.
        code: how the library makes it; `{formula}` stands for a number.
        flags: the same on the command line; "": there is no flag for it.
        helpers: names and formulas that come before `tau`.
        positive: the temperature of a positive pair, if another.
        stop_gradient: whether tau counts as a number in the gradient by default; None: there is
            no choice, it does not.
    """

    parameters: tuple[Parameter, ...]
    tau: str
    derivative: str
    code: str
    flags: str
    helpers: tuple[tuple[str, str], ...] = ()
    positive: str = ""
    stop_gradient: bool | None = None


def _run(name: str, *fields: str, **formulas: str) -> str:
    """The flags of a run.

    Args:
        name: of the temperature.
        *fields: whose last part is the name of a parameter, or `stop_gradient`.
        **formulas: of the parameters, by the name of the field.
    """
    given = {field: field.split(".")[-1] for field in fields} | formulas
    said = [f"{_GROUP}.{field}={{{formula}}}" for field, formula in given.items()]
    return " ".join([f"{_GROUP}.name={name}", *said])


_GROUP = "--config.temperature"
_TAU = Parameter("tau", 0.1, 0.01, 1.0)
_RANGE = (Parameter("tau_min", 0.1, 0.01, 1.0), Parameter("tau_max", 0.2, 0.01, 1.0))
_OF_RANGE = ("tau_min", "tau_max")
_LIBRARY = "dystress_jax.temperatures"
_CLIPPED = ("u", "min(max(s, -1), 1)")
# The slope of what is clipped ends behind the limit.
_INSIDE = ("inside", "where(abs(s) > 1, 0, 1)")

CURVES: dict[str, Curve] = {
    "constant": Curve((_TAU,), "tau", "0", "temperatures.constant({tau})", _run("constant", "tau")),
    "dystress": Curve(
        _RANGE,
        "tau_min + (tau_max - tau_min) * sin(pi / 2 * u) ** 2",
        "(tau_max - tau_min) * pi / 2 * sin(pi * u)",
        "temperatures.dystress({tau_min}, {tau_max}, stop_gradient={stop_gradient})",
        _run("dystress", *_OF_RANGE, "stop_gradient"),
        helpers=(_CLIPPED,),
        stop_gradient=True,
    ),
    "shifted_dystress": Curve(
        (*_RANGE, Parameter("shift", -0.4, -1.0, 0.0), Parameter("width", 0.7, 0.05, 2.0)),
        "tau_min + (tau_max - tau_min) * (1 + cos(pi * u)) / 2",
        "where(s < 0 - shift, 0 - (tau_max - tau_min) * pi / (2 * width) * sin(pi * u), 0)",
        "temperatures.shifted_dystress({tau_min}, {tau_max}, shift={shift}, width={width}, "
        "stop_gradient={stop_gradient})",
        _run("shifted_dystress", *_OF_RANGE, "shift", "width", "stop_gradient"),
        helpers=(("u", "(min(s, 0 - shift) + shift) / width"),),
        stop_gradient=True,
    ),
    "linear": Curve(
        _RANGE,
        "tau_min + (tau_max - tau_min) * abs(u)",
        "(tau_max - tau_min) * sign(s) * inside",
        "temperatures.linear({tau_min}, {tau_max}, stop_gradient={stop_gradient})",
        _run(f"{_LIBRARY}:linear", *_OF_RANGE, "stop_gradient"),
        helpers=(_CLIPPED, _INSIDE),
        stop_gradient=True,
    ),
    "monotone_cosine": Curve(
        _RANGE,
        "tau_min + (tau_max - tau_min) * (1 + u) / 2",
        "(tau_max - tau_min) / 2 * inside",
        "temperatures.monotone_cosine({tau_min}, {tau_max}, stop_gradient={stop_gradient})",
        _run(f"{_LIBRARY}:monotone_cosine", *_OF_RANGE, "stop_gradient"),
        helpers=(_CLIPPED, _INSIDE),
        stop_gradient=True,
    ),
    "temo": Curve(
        (Parameter("tau_min", 0.01, 0.005, 0.5), Parameter("tau_max", 0.05, 0.005, 1.0)),
        "tau_min + (tau_max - tau_min) * u",
        "where(s > lowest, (tau_max - tau_min) / (4 * u), 0)",
        "temperatures.temo({tau_min}, {tau_max}, stop_gradient={stop_gradient})",
        # Its plain name takes no stop_gradient.
        _run(f"{_LIBRARY}:temo", *_OF_RANGE, "options.stop_gradient"),
        # 4 units in the last place of float32.
        helpers=(("lowest", f"-1 + {4 * 2.0**-23!r}"), ("u", "sqrt((1 + max(s, lowest)) / 2)")),
        stop_gradient=False,
    ),
    "exponential": Curve(
        (*_RANGE, Parameter("rate", 3.5, 0.0, 10.0)),
        "tau_min + (tau_max - tau_min) * (1 - exp(0 - rate * abs(s)))",
        "(tau_max - tau_min) * rate * exp(0 - rate * abs(s)) * sign(s)",
        "temperatures.exponential({tau_min}, {tau_max}, {rate}, stop_gradient={stop_gradient})",
        _run(f"{_LIBRARY}:exponential", *_OF_RANGE, "options.rate", "stop_gradient"),
        stop_gradient=True,
    ),
    "learned": Curve(
        (Parameter("scale", round(1 / 0.07, 4), 1.0, 100.0),),
        "1 / scale",
        "0",
        "temperatures.learned(math.log({scale}))",
        _run("learned", tau="1 / scale"),
    ),
    "temperature_free": Curve(
        (Parameter("scale", 2.0, 0.2, 10.0),),
        "u / atanh(u) / scale",
        "where(abs(s) < limit, (1 / atanh(u) - u / ((1 - u ** 2) * atanh(u) ** 2)) / scale, 0)",
        "temperatures.temperature_free({scale})",
        _run(f"{_LIBRARY}:temperature_free", "options.scale"),
        helpers=(
            ("limit", "0.9999989867210388"),  # 1 - 1e-6 in float32
            # Not 0, where the quotient has no value.
            ("u", "where(abs(s) < 1e-4, 1e-4, min(max(s, 0 - limit), limit))"),
        ),
    ),
    "per_anchor": Curve((_TAU,), "tau", "0", "temperatures.per_anchor(jnp.full(n, {tau}))", ""),
    "uncertainty": Curve(
        (Parameter("logit", 0.5, -4.0, 8.0), Parameter("tau", 0.07, 0.01, 1.0)),
        "tau * (1 + exp(0 - logit))",
        "0",
        "temperatures.uncertainty(jnp.full(n, {logit}), {tau})",
        "",
    ),
    "hard_negatives": Curve(
        (_TAU, Parameter("beta", 1.0, 0.0, 20.0)),
        "tau / (1 + beta * tau)",
        "0",
        "temperatures.hard_negatives({tau}, {beta})",
        _run(f"{_LIBRARY}:hard_negatives", "options.beta", **{"options.temperature": "tau"}),
        positive="tau",
    ),
    "separate": Curve(
        (
            Parameter("tau_positives", 0.1, 0.01, 1.0),
            Parameter("tau_negatives", 0.2, 0.01, 1.0),
        ),
        "tau_negatives",
        "0",
        "temperatures.separate({tau_positives}, {tau_negatives})",
        _run(
            f"{_LIBRARY}:separate",
            **{"options.positives": "tau_positives", "options.negatives": "tau_negatives"},
        ),
        positive="tau_positives",
    ),
}

# Temperatures of a run without a curve: at each step constants of all pairs, or of an anchor.
AT_EACH_STEP = ("cosine_schedule", "linear_schedule", "macl", "isogclr", "tempnet")
