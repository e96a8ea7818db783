"""What temperature and topology do to image-text training: python -m benchmarks.alignment --help.

Studies on small real data, each run of configs/clip_quickstart.py with other settings:

selection  how the quickstart's settings were chosen: trained on Google's drawings, measured on
           Twitter's; Microsoft's, which it is tested on, are left alone.
each       a temperature for each image and each text, trained and measured as in `selection`.
noise      the learned temperature as a gauge of noise: a share p of the captions of every batch is
           dealt out wrongly; learned scale and logit gap against ln((N - 1)(1 - p) / p). On N
           pairs, whole images, so that the towers can come near to what they converge to.
topology   sphere and oblique manifold, n m fixed, logits in the same range; one vision transformer
           for all, tokens by reshaping or by class tokens of their own. Zero-shot recognition of
           the third artist's drawings among the names of all concepts, with and without flags and
           people. Needs an .npz of all emoji, flags too: train_images [2n 32 32 3], the drawings by
           Google, then Twitter; train_captions, their names; train_labels, their categories;
           test_images, test_captions, test_labels, Microsoft's; class_names of the categories.
cifar10    sphere and oblique manifold with prompts of the class as captions.

Runs that are complete in OUT are not repeated. Writes docs/results/alignment.json and, between the
marks, the tables of alignment.md and noise.png.
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np

from dystress_jax import data, evaluation
from dystress_jax import run as run_lib
from dystress_jax.configs import clip_quickstart

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
BATCH = clip_quickstart.get_config().batch_size
SHARES = (0.0, 0.25, 0.5, 0.75)
LEARNED = {"name": "learned", "tau": 0.07}
OBLIQUE = {"name": "oblique", "mode": "reshape", "match_range": True}
TOPOLOGIES = {
    "sphere (64, 1)": {"name": "sphere", "dims": 64},
    "oblique (16, 4), reshape": {**OBLIQUE, "dims": 16, "tokens": 4},
    "oblique (16, 4), class tokens": {**OBLIQUE, "dims": 16, "tokens": 4, "mode": "multi"},
    "oblique (8, 8), class tokens": {**OBLIQUE, "dims": 8, "tokens": 8, "mode": "multi"},
}
DYNAMIC = {"name": "dystress", "tau_min": 0.05, "tau_max": 0.2}
SELECTION = {
    "dystress 0.05 to 0.2": {"temperature": DYNAMIC},
    "constant 0.1": {"temperature": {"name": "constant", "tau": 0.1}},
    "learned from 0.07": {"temperature": LEARNED},
    "dystress, recipe `weak`": {"temperature": DYNAMIC, "augment": {"recipe": "weak"}},
    "dystress, ViT (64 wide, patch 4), rate 0.001": {
        "temperature": DYNAMIC,
        "model": {"name": "vit_micro", "patch": 4},
        "optimizer": {"learning_rate": 0.001},
    },
}
PUBLISHED = {"tau_min": 0.005, "tau_max": 0.05}
EACH = {
    "dystress 0.05 to 0.2": {"temperature": DYNAMIC},
    "iSogCLR, 0.005 to 0.05": {"temperature": {"name": "isogclr", "tau": 0.01, **PUBLISHED}},
    "TempNet, 0.005 to 0.05": {"temperature": {"name": "tempnet", **PUBLISHED}},
}
RECALLS = {
    "image_to_text_recall_at_1": "image to text R@1",
    "image_to_text_recall_at_10": "R@10",
    "text_to_image_recall_at_1": "text to image R@1",
    "text_to_image_recall_at_10": "R@10",
}
FLAGS_AND_PEOPLE = ["Flags", "People & Body"]


def settings(seed: int, steps: int, **groups: dict[str, Any]) -> run_lib.Config:
    """The quickstart's with these fields changed."""
    changes = {"seed": seed, "steps": steps, "checkpoint_every": steps, "knn_every": 0}
    changes |= {"log_every": 10, "optimizer.warmup_epochs": 2.0}
    for group, fields in groups.items():
        changes |= {f"{group}.{name}": value for name, value in fields.items()}
    return run_lib.override(clip_quickstart.get_config(), changes)


def one_artist(
    arguments: argparse.Namespace, runs: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, run_lib.Config, dict]]:
    """Runs that are trained on Google's drawings and measured by Twitter's."""
    path = arguments.out / "one_artist.npz"
    if not path.exists():
        drawings = data.open_splits("embedded", holdout=0.0)["train"]
        count = len(drawings) // 2  # Google's, then Twitter's, of the same concepts
        parts = {"train": np.arange(count), "test": np.arange(count, 2 * count)}
        arrays = {}
        for split, rows in parts.items():
            arrays[f"{split}_images"] = np.stack([drawings[int(row)]["image"] for row in rows])
            arrays[f"{split}_captions"] = [drawings[int(row)]["captions"][0] for row in rows]
        arguments.out.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
    source = {"source": "npz", "path": str(path)}
    for seed in arguments.seeds:
        for name, groups in runs.items():
            yield name, settings(seed, 1000, data=source, **groups), {}


def selection(arguments: argparse.Namespace) -> Iterator[tuple[str, run_lib.Config, dict]]:
    """The runs that the quickstart's settings were chosen by."""
    return one_artist(arguments, SELECTION)


def each(arguments: argparse.Namespace) -> Iterator[tuple[str, run_lib.Config, dict]]:
    """The runs in which each image and each text has a temperature."""
    return one_artist(arguments, EACH)


def noise(arguments: argparse.Namespace) -> Iterator[tuple[str, run_lib.Config, dict]]:
    """The runs of the study of noise."""
    for seed in arguments.seeds:
        for name in ("sphere (64, 1)", "oblique (16, 4), reshape"):
            for share in SHARES:
                config = settings(
                    seed,
                    arguments.noise_steps,
                    temperature=LEARNED,
                    topology=TOPOLOGIES[name],
                    data={"caption_noise": share, "limit": BATCH},
                    augment={"recipe": "whole"},
                    optimizer={"learning_rate": 0.003},
                )
                yield name, config, {"wrong_pairs": share}


def topology(arguments: argparse.Namespace) -> Iterator[tuple[str, run_lib.Config, dict]]:
    """The runs of the study of topologies."""
    for seed in arguments.seeds:
        for name, fields in TOPOLOGIES.items():
            config = settings(
                seed,
                arguments.steps,
                model={"name": "vit_micro", "patch": 8},
                temperature=LEARNED,
                topology=fields,
                data={"source": "npz", "path": arguments.emoji},
                optimizer={"learning_rate": 0.002},
            )
            yield name, config, {}


def cifar10(arguments: argparse.Namespace) -> Iterator[tuple[str, run_lib.Config, dict]]:
    """The runs with prompts of CIFAR-10's classes as captions."""
    for seed in arguments.seeds:
        for name in ("sphere (64, 1)", "oblique (16, 4), reshape"):
            config = settings(
                seed,
                arguments.steps,
                temperature=LEARNED,
                topology=TOPOLOGIES[name],
                data={
                    "source": "npz",
                    "path": arguments.cifar10,
                    "prompts": "photos",
                    "holdout": 0.02,
                    "limit": 10_000,
                },
                zero_shot={"prompts": "photos", "classes": "labels"},
            )
            yield name, config, {}


STUDIES = {
    "selection": selection,
    "each": each,
    "noise": noise,
    "topology": topology,
    "cifar10": cifar10,
}


def run(study: str, config: run_lib.Config, workdir: pathlib.Path) -> dict[str, float]:
    """Train, unless it is done, and say what the study asks for."""
    path = workdir / "numbers.json"
    if path.exists():
        return json.loads(path.read_text())
    summary = run_lib.train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = lines[-5:]
    found = {
        name: statistics.mean(line[name] for line in last)
        for name in ("scale", "logit_gap", "equilibrium_gap")
        if name in last[0]
    }
    found |= {name: summary[name] for name in (*RECALLS, "zero_shot_top1", "seconds")}
    if study == "topology":
        experiment, state = run_lib.restore(workdir)
        drawings = data.without_classes(experiment.sources["test"], FLAGS_AND_PEOPLE)
        concepts = data.classes_from_captions(drawings)
        encoder = experiment.towers(state.params, state.stats)
        embedded = evaluation.embed_images(encoder, concepts, mesh=experiment.mesh)
        result = evaluation.evaluate_zero_shot(embedded, templates=["{}"])
        found["without_flags_and_people"] = result.value("top1")
        found["concepts_without"] = concepts.num_classes
    path.write_text(json.dumps(found))
    return found


def main() -> None:
    """Run the studies and write the results after each run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alignment", description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--noise-steps", type=int, default=2000)
    parser.add_argument("--emoji", default="emoji.npz")
    parser.add_argument("--cifar10", default="cifar10.npz")
    arguments = parser.parse_args()
    for study in arguments.studies:
        for name, config, varied in STUDIES[study](arguments):
            tail = "_".join(str(value) for value in varied.values())
            slug = "".join(c if c.isalnum() else "_" for c in name)
            workdir = arguments.out / f"{study}_{slug}_{tail}_{config.seed}"
            found = run(study, config, workdir)
            add({"study": study, "name": name, "seed": config.seed, **varied, **found})


def add(result: dict) -> None:
    """Put a result in place of an earlier one of the same run; write numbers, tables, picture."""
    path = RESULTS / "alignment.json"
    results = json.loads(path.read_text()) if path.exists() else []
    key = lambda r: (r["study"], r["name"], r["seed"], r.get("wrong_pairs"))
    results = [r for r in results if key(r) != key(result)] + [result]
    path.write_text(json.dumps(results, indent=1) + "\n")
    page = RESULTS / "alignment.md"
    text = page.read_text() if page.exists() else ""
    tables = {
        "selection": recalls_table,
        "each": recalls_table,
        "noise": noise_table,
    } | dict.fromkeys(("topology", "cifar10"), zero_shot_table)
    for study, make in tables.items():
        begin, end = f"<!-- {study} -->\n", f"<!-- end {study} -->"
        if begin not in text:
            text += f"\n{begin}{end}\n"
        before, rest = text.split(begin)
        text = before + begin + make([r for r in results if r["study"] == study])
        text += end + rest.split(end)[1]
    page.write_text(text)
    if result["study"] == "noise":
        plot([r for r in results if r["study"] == "noise"])


def noise_table(results: list[dict]) -> str:
    """Learned scale and gap for each share of wrong pairs."""
    lines = [
        "| topology | p | g* | logit gap | learned scale | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for (name, share), of in _groups(results, lambda r: (r["name"], r["wrong_pairs"])):
        gap = f"{of[0]['equilibrium_gap']:.2f}" if share else "none"
        cells = [_cell([r[key] for r in of]) for key in ("logit_gap", "scale")]
        lines.append(f"| {name} | {share:g} | {gap} | {cells[0]} | {cells[1]} | {len(of)} |")
    return "\n".join(lines) + "\n"


def recalls_table(results: list[dict]) -> str:
    """Recalls for each setting."""
    lines = [f"| run | {' | '.join(RECALLS.values())} | seeds |", "|---" * 6 + "|"]
    for name, of in _groups(results, lambda r: r["name"]):
        cells = [_cell([100 * r[key] for r in of], " %", digits=1) for key in RECALLS]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(of)} |")
    return "\n".join(lines) + "\n"


def zero_shot_table(results: list[dict]) -> str:
    """Zero-shot accuracy for each topology."""
    columns = {"zero_shot_top1": "zero-shot, all"}
    if any("without_flags_and_people" in r for r in results):
        columns["without_flags_and_people"] = "without flags and people"
    lines = [f"| topology | {' | '.join(columns.values())} | learned scale | seeds |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    for name, of in _groups(results, lambda r: r["name"]):
        cells = [_cell([100 * r[key] for r in of], " %", digits=1) for key in columns]
        cells.append(_cell([r["scale"] for r in of]))
        lines.append(f"| {name} | {' | '.join(cells)} | {len(of)} |")
    return "\n".join(lines) + "\n"


def _groups(results: list[dict], key) -> list[tuple[Any, list[dict]]]:
    names = list(dict.fromkeys(key(r) for r in results))
    return [(name, [r for r in results if key(r) == name]) for name in names]


def _cell(values: list[float], unit: str = "", digits: int = 2) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        mean += f" ({statistics.stdev(values):.{digits}f})"
    return mean + unit


def plot(results: list[dict]) -> None:
    """The gap beside its closed form, and the learned scale, over the share of wrong pairs."""
    import matplotlib.pyplot as plt

    from dystress_jax.metrics import equilibrium_gap

    figure, (gap, scale) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    p = np.linspace(0.02, 0.95, 100)
    gap.plot(p, equilibrium_gap(BATCH, p), "k--", label="ln((N - 1)(1 - p) / p)")
    for name, of in _groups(results, lambda r: r["name"]):
        shares = sorted({r["wrong_pairs"] for r in of})
        for axes, key in ((gap, "logit_gap"), (scale, "scale")):
            values = [[r[key] for r in of if r["wrong_pairs"] == share] for share in shares]
            spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
            means = [statistics.mean(v) for v in values]
            axes.errorbar(shares, means, spread, fmt="o-", capsize=3, label=name)
    gap.set(title="gap of the mean logits", xlabel="share of wrong pairs p")
    scale.set(title="learned scale 1 / tau", xlabel="share of wrong pairs p", ylim=(0, None))
    for axes in (gap, scale):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(RESULTS / "noise.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
