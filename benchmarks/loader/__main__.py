"""Images a second from JPEG files: `python -m benchmarks.loader OUT --torch-python=PYTHON`.

Makes a folder of photographs of 500 x 375, then reads it with our loader, torchvision's and
lightly's, one after another, on one core and on all, in rounds. Writes loader.json into OUT.
Needs `taskset`, and an interpreter with torch, torchvision and lightly.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

from benchmarks.loader import photos

HERE = pathlib.Path(__file__).parent


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--torch-python", required=True, help="interpreter with lightly")
    parser.add_argument("--count", type=int, default=20_000, help="files")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = arguments.out / f"jpeg{arguments.count}"
    if not folder.exists():
        photos.make(str(folder), arguments.count)
    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for used in (cores[:1], cores):
            for command in (
                [sys.executable, "-m", "benchmarks.loader.ours"],
                [arguments.torch_python, str(HERE / "peer_torch.py")],
            ):
                for line in measured(command, folder, used, arguments):
                    name = f"{line['loader']}, cores: {len(used)}"
                    found.setdefault(name, []).append(line["images_per_second"])
    for name, rates in found.items():
        print(f"{name}: median {statistics.median(rates):,.0f} images/s, best {max(rates):,.0f}")
    about = {"machine": platform.machine(), "cores": len(cores), "files": arguments.count}
    path = arguments.out / "loader.json"
    path.write_text(json.dumps({**about, "images_per_second": found}, indent=1) + "\n")


def measured(
    command: list[str], folder: pathlib.Path, cores: list[int], arguments: argparse.Namespace
) -> list[dict]:
    """What a process says that may use these cores, with a worker each."""
    lines = arguments.out / "lines.jsonl"
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))]
    how = [str(lines), str(folder), json.dumps([len(cores)]), str(arguments.seconds)]
    subprocess.run([*pinned, *command, *how], check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in lines.read_text().splitlines()]


if __name__ == "__main__":
    main()
