"""Services that keep runs elsewhere. Where each looks for its server is its own matter."""

import importlib
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ._run import Begun, Histograms

Pictures = Mapping[str, UInt8[np.ndarray, "h w c"]]


class Wandb:
    """Weights & Biases, `pip install wandb`.

    The axis is our step: wandb's own only grows, and would refuse what a run that goes on from a
    checkpoint writes again.
    """

    def __init__(self, run: Begun):
        """Begin a run, or go on with it."""
        self._wandb: Any = importlib.import_module("wandb")
        self.known_as: str | None = run.known_as or secrets.token_hex(4)
        self._run = self._wandb.init(
            project=run.project,
            name=run.name,
            id=self.known_as,
            resume="allow",
            dir=str(run.workdir),
            config=dict(run.config),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step."""
        self._run.log({"step": step, **numbers})

    def histograms(self, step: int, shown: Histograms) -> None:
        """Show edges and counts by name."""
        made = {
            name: self._wandb.Histogram(np_histogram=(counts, edges))
            for name, (edges, counts) in shown.items()
        }
        self._run.log({"step": step, **made})

    def images(self, step: int, shown: Pictures) -> None:
        """Show pictures by name."""
        self._run.log({"step": step, **{n: self._wandb.Image(x) for n, x in shown.items()}})

    def close(self, *, failed: bool) -> None:
        """End this part of the run."""
        self._run.finish(exit_code=int(failed))


class Mlflow:
    """MLflow, `pip install mlflow`; it has no histograms."""

    def __init__(self, run: Begun):
        """Begin a run, or go on with it."""
        self._mlflow: Any = importlib.import_module("mlflow")
        self._mlflow.set_experiment(run.project)
        started = self._mlflow.start_run(run_id=run.known_as, run_name=run.name)
        if run.known_as is None:  # a parameter that is there cannot be changed
            self._mlflow.log_params(dict(run.hparams))
        self._mlflow.log_dict(dict(run.config), "settings.json")
        self.known_as: str | None = started.info.run_id

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step."""
        self._mlflow.log_metrics(dict(numbers), step=step, run_id=self.known_as)

    def histograms(self, step: int, shown: Histograms) -> None:
        """Nothing is shown."""

    def images(self, step: int, shown: Pictures) -> None:
        """Show pictures by name."""
        for name, pixels in shown.items():
            self._mlflow.log_image(pixels, key=name, step=step)

    def close(self, *, failed: bool) -> None:
        """End this part of the run."""
        self._mlflow.end_run(status="FAILED" if failed else "FINISHED")


class Trackio:
    """Trackio, `pip install trackio`; it knows a run by its name."""

    def __init__(self, run: Begun):
        """Begin a run, or go on with it."""
        self._trackio: Any = importlib.import_module("trackio")
        # Runs of different directories may have the same name.
        self.known_as: str | None = run.known_as or f"{run.name}-{secrets.token_hex(3)}"
        self._run = self._trackio.init(
            project=run.project,
            name=self.known_as,
            resume="allow",
            config={"run": run.name, **run.hparams},
        )

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers of a step."""
        self._run.log(dict(numbers), step=step)

    def histograms(self, step: int, shown: Histograms) -> None:
        """Show edges and counts by name."""
        made = {
            name: self._trackio.Histogram(np_histogram=(counts, edges))
            for name, (edges, counts) in shown.items()
        }
        self._run.log(made, step=step)

    def images(self, step: int, shown: Pictures) -> None:
        """Show pictures by name."""
        self._run.log({n: self._trackio.Image(x) for n, x in shown.items()}, step=step)

    def close(self, *, failed: bool) -> None:
        """End this part of the run."""
        del failed
        self._run.finish()
