"""train.py and eval.py as processes, and what they leave."""

import json
import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

ROOT = pathlib.Path(__file__).parent.parent


def command(script, workdir, **fields):
    flags = [
        f"--config.{name.replace('__', '.')}={value}"
        for name, value in fields.items()
        if value is not None
    ]
    return [sys.executable, str(ROOT / script), f"--workdir={workdir}", *flags]


def start(arguments):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, code=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def finish_in_two_processes(arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    join = ["--distributed", f"--coordinator_address={address}", "--num_processes=2"]
    processes = [start([*arguments, *join, f"--process_id={number}"]) for number in range(2)]
    for process in processes:
        finish(process)


def lines(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def wait_for_step(process, workdir, step):
    """Until the log has a step; a line may be half written."""
    path = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (path.exists() and path.read_text().count("\n") >= step):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def curve(workdir):
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines(workdir)]


def saved_bits(workdir, step):
    """Every array of a checkpoint, as it lies on disk."""
    path = workdir / "checkpoints" / str(step)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        ocp.checkpointables_metadata(path).metadata["train"],
    )
    found = ocp.load_checkpointables(path, {"train": wanted})["train"]
    found["state"]["key"] = jax.random.key_data(found["state"]["key"])
    return {
        jax.tree_util.keystr(name): np.asarray(leaf)
        for name, leaf in jax.tree_util.tree_leaves_with_path(found)
    }
