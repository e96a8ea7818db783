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


def finish(process, code=0, seconds=300):
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, output
    return output


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def join(address, number, count=2):
    """The flags of one of several processes."""
    where = [f"--coordinator_address={address}", f"--num_processes={count}"]
    return ["--distributed", *where, f"--process_id={number}"]


def finish_in_two_processes(arguments):
    address = free_address()
    for process in [start([*arguments, *join(address, number)]) for number in range(2)]:
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
