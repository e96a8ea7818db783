"""SimCLR on CIFAR-10 with the paper's settings, run by run, in pieces that resume exactly.

Each run is `train.py` in a process of its own; when the time is up it gets a SIGTERM, saves, and
the next call goes on with it. What is complete is not repeated.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
TEMPERATURES = {
    "dystress 0.07 to 0.2": {"name": "dystress", "tau_min": 0.07, "tau_max": 0.2},
    "constant 0.2": {"name": "constant", "tau": 0.2},
    "constant 0.1": {"name": "constant", "tau": 0.1},
    "constant 0.15": {"name": "constant", "tau": 0.15},
    "constant 0.5": {"name": "constant", "tau": 0.5},
    "dystress 0.1 to 0.2": {"name": "dystress", "tau_min": 0.1, "tau_max": 0.2},
    "shifted 0.07 to 0.2": {"name": "shifted_dystress", "tau_min": 0.07, "tau_max": 0.2},
}
SEEDS = (0, 1, 2)


def main(npz: str, runs: pathlib.Path, out: pathlib.Path, seconds: float) -> None:
    """Runs what is not complete, seed by seed, two at a time, until the time is up."""
    end = time.monotonic() + seconds
    waiting = [(name, seed) for seed in SEEDS for name in TEMPERATURES]
    waiting = [run for run in waiting if not (directory(runs, *run) / "summary.json").exists()]
    running: list[tuple[subprocess.Popen, tuple[str, int]]] = []
    together = int(os.environ.get("TOGETHER", "2"))
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < together:
            run = waiting.pop(0)
            running.append((start(npz, runs, *run), run))
        for child, run in running:
            if child.poll() is not None:
                print(run, "ended with", child.returncode, flush=True)
        running = [(child, run) for child, run in running if child.poll() is None]
        time.sleep(1)
    for child, _ in running:
        child.send_signal(signal.SIGTERM)
    for child, _ in running:
        child.wait()
    collect(runs, out)


def directory(runs: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Where a run is."""
    return runs / f"{name.replace(' ', '_')}_seed{seed}"


def start(npz: str, runs: pathlib.Path, name: str, seed: int) -> subprocess.Popen:
    """Starts a run, or goes on with it."""
    workdir = directory(runs, name, seed)
    workdir.mkdir(parents=True, exist_ok=True)
    flags = {
        "data.source": "npz",
        "data.path": npz,
        "data.holdout": 0.0,
        "knn_every": 0,
        "checkpoint_every": 7800,
        "checkpoint_keep": 1,
        "dtype": "bfloat16",
        "seed": seed,
        **{f"temperature.{key}": value for key, value in TEMPERATURES[name].items()},
        **json.loads(os.environ.get("ALSO", "{}")),
    }
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "train.py"),
            f"--config={ROOT / 'configs/simclr_cifar10.py'}",
            f"--workdir={workdir}",
            *(f"--config.{key}={value}" for key, value in flags.items()),
        ],
        stdout=(workdir / "out.txt").open("a"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )


def collect(runs: pathlib.Path, out: pathlib.Path) -> None:
    """Gathers the curves and the closing numbers of all runs."""
    found = []
    for seed in SEEDS:
        for name in TEMPERATURES:
            workdir = directory(runs, name, seed)
            log, summary = workdir / "metrics.jsonl", workdir / "summary.json"
            if not log.exists():
                continue
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            found.append(
                {
                    "temperature": name,
                    "seed": seed,
                    "summary": json.loads(summary.read_text()) if summary.exists() else None,
                    "steps": lines[-1]["step"] if lines else 0,
                    "losses": [[line["step"], line["loss"]] for line in lines[::40]],
                    "last": lines[-1] if lines else None,
                }
            )
    (out / "reproduction.json").write_text(json.dumps(found, indent=1) + "\n")
    for run in found:
        print(run["temperature"], run["seed"], run["steps"], run["summary"], flush=True)
