"""Commands that follow from what stands out in a run: they find out more, and promise nothing."""

import shlex

from ._run import Run

# Temperatures that move away from what the settings say. Of one's own nobody knows.
CHANGING = ("learned", "macl", "isogclr", "tempnet")


def longer(run: Run) -> str:
    """Goes on with the run until it is twice as long, where it has kept its state."""
    if not run.config.get("checkpoint_every"):
        return ""
    length = "steps" if run.config.get("steps") else "epochs"
    twice = 2 * (run.config.get(length) or 0)
    where = f"--workdir={shlex.quote(run.place)}"
    return f"dystress train {where} --resume --config.{length}={twice}" if twice else ""


def measured(run: Run, evaluation: str) -> str:
    """Measures the run by an evaluation, where it has not been."""
    if not run.config or not run.evaluations.keys().isdisjoint((evaluation, f"eval {evaluation}")):
        return ""
    return f"dystress eval --workdir={shlex.quote(run.place)} --evaluation={evaluation}"


def other_temperatures(run: Run, *, higher: bool) -> str:
    """Trains the run beside another whose temperature is twice as high, or half as high."""
    kind = str(run.config.get("temperature.name"))
    if kind in CHANGING or ":" in kind:
        return ""
    used = lambda name: name in run.config and name not in run.ignored
    if used("temperature.tau"):
        name = "temperature.tau"
    elif used("temperature.tau_min") and used("temperature.tau_max"):
        name = "temperature.tau_max" if higher else "temperature.tau_min"
    else:
        return ""
    now = run.config[name]
    return _sweep(run, name, now, now * (2 if higher else 0.5))


def without_gradient(run: Run) -> str:
    """Trains the run beside another through whose temperature no gradient goes."""
    name = "temperature.stop_gradient"
    through = run.config.get(name) is False and name not in run.ignored
    return _sweep(run, name, False, True) if through else ""


def _sweep(run: Run, name: str, *values: float | bool) -> str:
    said = ",".join(map(repr, values))
    return f"dystress sweep --config={shlex.quote(run.place)} --over.{name}={said}"
