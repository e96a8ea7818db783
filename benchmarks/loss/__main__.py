"""Compares our losses with those of other libraries: `python -m benchmarks.loss --help`.

Every competitor runs in a process of its own, one after another, on the same random rows of length
128, float32; what is timed is value and gradient of the mean loss, compiled and warmed up. Writes
loss.json (every single time), loss.md (the tables) and loss.png into the output folder.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

from benchmarks.loss import report

HERE = pathlib.Path(__file__).parent
SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
# Name, environment, and the largest number of rows: what needs several GiB stops there.
COMPETITORS = [
    ("tiled", "jax", 65536),
    ("dense", "jax", 16384),
    ("auto", "jax", 1024),
    ("torch compile", "torch", 16384),
    ("torch eager", "torch", 8192),
    ("tiled, through tau", "jax", 16384),
    ("dense, through tau", "jax", 8192),
    ("torch compile, through tau", "torch", 8192),
    ("tiled, constant", "jax", 16384),
    ("tiled, constant 0.01", "jax", 8192),
    ("dense, constant", "jax", 8192),
    ("tiled, InfoNCE", "jax", 16384),
    ("torch linear_cross_entropy, InfoNCE", "torch", 16384),
    ("lightly NTXentLoss", "torch", 8192),
    ("pytorch-metric-learning NTXentLoss", "torch", 512),
    ("optax ntxent", "jax", 1024),
]


def main() -> None:
    """Runs what was asked for and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss", description=__doc__)
    parser.add_argument("--torch-python", help="interpreter with torch; without it only JAX runs")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", nargs="+", help="names of competitors")
    parser.add_argument(
        "--before", type=pathlib.Path, help="checkout of another version, whose losses run too"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing per measurement")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/results"))
    arguments = parser.parse_args()

    jax_child = [sys.executable, str(HERE / "competitors_jax.py")]
    torch_child = [arguments.torch_python, str(HERE / "competitors_torch.py")]
    load_before = os.getloadavg()
    measured = []
    for rows in arguments.sizes:  # sizes outside: competitors of one size run close together
        for name, environment, largest in COMPETITORS:
            wanted = not arguments.only or name in arguments.only
            if not wanted or rows > largest:
                continue
            if environment == "torch" and not arguments.torch_python:
                continue
            child = jax_child if environment == "jax" else torch_child
            versions = [(name, HERE.parents[1])]
            if arguments.before and environment == "jax" and name != "optax ntxent":
                versions.append((name + report.BEFORE, arguments.before))
            for label, checkout in versions:
                result = run([*child, name, str(rows), str(arguments.seconds)], checkout)
                if result:
                    measured.append(result | {"name": label})
                    milliseconds = min(result["times"]) * 1e3
                    print(f"{rows:6d}  {label:36s} {milliseconds:10.1f} ms", flush=True)
    results = {
        "command": "python -m benchmarks.loss --torch-python PYTHON_WITH_TORCH"
        + (" --before CHECKOUT" if arguments.before else "")
        + f" --seconds {arguments.seconds:g}",
        "before": commit(arguments.before) if arguments.before else None,
        "machine": f"{os.cpu_count()} cores of {processor()}",
        "load_before": load_before,
        "load_average": os.getloadavg(),
        "limits": run([*jax_child, "limits"]),
        "torch_limits": run([*torch_child, "limits"]) if arguments.torch_python else None,
        "ring": run([*jax_child, "ring", "65536", "8"]),
        "measured": measured,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "loss.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "loss.md").write_text(report.markdown(results))
    report.plot(results, arguments.out / "loss.png")


def processor() -> str:
    """Returns the name of the processor, or of its architecture where that is all there is."""
    lines = pathlib.Path("/proc/cpuinfo")
    names = lines.read_text().splitlines() if lines.exists() else []
    names = [line.split(":")[1].strip() for line in names if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


def commit(checkout: pathlib.Path) -> str:
    """Returns the commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(command: list[str], checkout: pathlib.Path = HERE.parents[1]) -> dict | None:
    """Returns the last line that the child prints, or None when it fails."""
    child = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(checkout.resolve())},
    )
    if child.returncode:
        print(f"failed: {' '.join(command[1:])}: {child.stderr.strip()[-400:]}", file=sys.stderr)
        return None
    return json.loads(child.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
