"""Every method with two temperatures on CIFAR-10: python -m benchmarks.cifar10 NPZ OUT.

Trains configs/cifar10_small.py for each method, head, temperature and seed, one run after another,
and measures kNN and a linear probe (SGD on cached features, its rate chosen on held-out training
images) on the 10,000 test images; also of the untrained encoders and of raw pixels. Runs that are
complete in OUT are not repeated. Writes docs/results/cifar10.json and .md.
"""

import argparse
import json
import pathlib
import statistics

from dystress_jax import evaluation
from dystress_jax import run as run_lib
from dystress_jax.configs import cifar10_small

ROOT = pathlib.Path(__file__).parent.parent
METHODS = {  # name in the table: what follows the config's colon, and what else is changed
    "simclr": ("simclr", {}),
    "simclr, head dystress_cifar": ("simclr", {"projector.name": "dystress_cifar"}),
    "simclr, head byol": ("simclr", {"projector.name": "byol"}),
    "dcl": ("dcl", {}),
    "moco_v2": ("moco_v2", {}),
    "moco_v3": ("moco_v3", {}),
}
TEMPERATURES = {
    "constant 0.15": {"name": "constant", "tau": 0.15},
    "dystress 0.1 to 0.2": {"name": "dystress", "tau_min": 0.1, "tau_max": 0.2},
}
NUMBERS = ("knn", "probe")


def settings(method: str, temperature: dict, seed: int, npz: str) -> run_lib.Config:
    """The run of configs/cifar10_small.py with these choices."""
    variant, changes = METHODS[method]
    config = cifar10_small.get_config(variant)
    changes = changes | {"seed": seed, "data.source": "npz", "data.path": npz}
    changes |= {f"temperature.{name}": value for name, value in temperature.items()}
    return run_lib.override(config, changes)


def run(config: run_lib.Config, workdir: pathlib.Path) -> dict[str, float]:
    """Train and evaluate, unless it is done."""
    path = workdir / "numbers.json"
    if not path.exists():
        summary = run_lib.train(config, workdir)
        probe, _ = run_lib.evaluate(workdir, "linear_probe", config=config)
        # As the encoder: the summary has the best k of each baseline.
        baselines = summary["evaluations"]["baselines"]["protocol"]["top1_by_k"]
        numbers = {
            "knn": summary["knn_trained"],
            "probe": probe.value("top1"),
            "knn_untrained": baselines["untrained"][str(config.knn.k)],
            "knn_raw_pixels": baselines["raw_pixels"][str(config.knn.k)],
        }
        path.write_text(json.dumps(numbers))
    return json.loads(path.read_text())


def floors(config: run_lib.Config, workdir: pathlib.Path) -> dict[str, float]:
    """The linear probe of the untrained encoder and of raw pixels."""
    path = workdir / "floors.json"
    if not path.exists():
        experiment = run_lib.build(config, workdir)
        encode = experiment.encoder(experiment.init_state())
        found = {}
        for name, features in (("untrained", encode), ("raw_pixels", evaluation.raw_pixels)):
            result = evaluation.evaluate_linear_probe(
                features,
                experiment.train,
                experiment.sources["test"],
                holdout=experiment.sources["holdout"],
                encode_view=None,
                solver="sgd",
                candidates=config.probe.learning_rates,
                epochs=config.probe.epochs,
                batch_size=256,
                seeds=(config.seed,),
                mesh=experiment.mesh,
                progress=iter,
            )
            found[name] = result.value("top1")
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def main() -> None:
    """Run everything and write the results after each run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cifar10", description=__doc__)
    parser.add_argument("npz")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        for method in METHODS:
            for name, temperature in TEMPERATURES.items():
                config = settings(method, temperature, seed, arguments.npz)
                workdir = arguments.out / f"{method}_{name}_{seed}".replace(" ", "_")
                found = run(config, workdir)
                if method == "simclr":
                    found |= {f"probe_{k}": v for k, v in floors(config, workdir).items()}
                results.append({"method": method, "temperature": name, "seed": seed, **found})
                write(results)


def write(results: list[dict]) -> None:
    """The raw numbers, and the table."""
    folder = ROOT / "docs" / "results"
    (folder / "cifar10.json").write_text(json.dumps(results, indent=1) + "\n")
    table = folder / "cifar10.md"
    text = table.read_text() if table.exists() else "<!-- table -->\n<!-- end -->\n"
    before, rest = text.split("<!-- table -->\n")
    _, after = rest.split("<!-- end -->")
    table.write_text(f"{before}<!-- table -->\n{markdown(results)}<!-- end -->{after}")


def markdown(results: list[dict]) -> str:
    """Mean and standard deviation over the seeds."""
    lines = [
        "| method | temperature | kNN | linear probe | seeds |",
        "|---|---|---|---|---|",
    ]
    for method in METHODS:
        for name in TEMPERATURES:
            of = [r for r in results if (r["method"], r["temperature"]) == (method, name)]
            if of:
                cells = [_cell([r[key] for r in of]) for key in NUMBERS]
                lines.append(f"| {method} | {name} | {cells[0]} | {cells[1]} | {len(of)} |")
    first = [r for r in results if r["method"] == "simclr" and "probe_untrained" in r]
    for label, knn, probe in (
        ("untrained", "knn_untrained", "probe_untrained"),
        ("raw pixels", "knn_raw_pixels", "probe_raw_pixels"),
    ):
        seeds = list({r["seed"]: r for r in first}.values())
        if seeds:
            cells = [_cell([r[key] for r in seeds]) for key in (knn, probe)]
            lines.append(f"| {label} | | {cells[0]} | {cells[1]} | {len(seeds)} |")
    return "\n".join(lines) + "\n"


def _cell(shares: list[float]) -> str:
    mean = f"{100 * statistics.mean(shares):.1f}"
    return f"{mean} ({100 * statistics.stdev(shares):.1f}) %" if len(shares) > 1 else f"{mean} %"


if __name__ == "__main__":
    main()
