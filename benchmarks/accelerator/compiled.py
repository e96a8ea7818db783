"""What the losses need on an H100 that is not here: `-m benchmarks.accelerator.compiled OUT`.

JAX compiles for a card that it is only told about; `jax[cuda13]` brings the compiler. Memory is
XLA's own count, registers and what does not fit into them are the assembler's. No times: for those
there must be a card.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_dump_to={tempfile.mkdtemp()}"

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.accelerator.loss_jax import Case, mean_loss
from benchmarks.accelerator.timing import Lines

DUMP = os.environ["XLA_FLAGS"].partition("=")[2]
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Kernel(NamedTuple):
    """One that multiplies matrices."""

    lines: int
    registers: int
    spilled_bytes: int


def cases() -> list[Case]:
    """Both strategies in linear memory, in the precisions that tensor cores have."""
    found = []
    for precision in ("bfloat16", "tf32"):
        for rows in (8192, 32768, 131072, 262144):
            found += [Case(rows, 128, precision, strategy) for strategy in ("tiled", "fused")]
        found += [Case(32768, 256, precision, strategy) for strategy in ("tiled", "fused")]
        for loss in ("nt_xent, through tau", "nt_xent, constant 0.01", "clip, constant"):
            found += [Case(32768, 128, precision, how, None, loss) for how in ("tiled", "fused")]
    return found


def assembler() -> str:
    """The program ptxas that came with JAX."""
    for root in map(pathlib.Path, sys.path):
        for path in root.glob("nvidia/*/bin/ptxas"):
            return str(path)
    raise FileNotFoundError("no ptxas beside JAX: pip install 'jax[cuda13]'")


def kernels() -> list[Kernel]:
    """Those of the last program that use tensor cores."""
    found = []
    for path in pathlib.Path(DUMP).glob("*.ptx"):
        text = path.read_text()
        if "wgmma.mma" in text or "mma.sync" in text:
            command = [assembler(), "-v", "-arch=sm_90a", str(path), "-o", os.devnull]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            number = lambda pattern, said=said: int(re.findall(pattern, said)[0])
            spilled = number(r"(\d+) bytes spill stores")
            found.append(Kernel(text.count(";"), number(r"Used (\d+) registers"), spilled))
    for path in pathlib.Path(DUMP).iterdir():
        path.unlink()
    return sorted(found)


def main(path: str) -> None:
    """Compiles all cases."""
    out = Lines(pathlib.Path(path))
    card = topologies.get_topology_desc(
        topology_name="h100", platform="cuda", target_config=H100, topology="1x1x1"
    )
    jax.default_backend = lambda: "gpu"  # the library asks for what suits the platform
    mesh = Mesh(np.array(card.devices[:1]), ("data",))
    out.add(compiled_for=card.devices[0].device_kind, jax=jax.__version__)
    for case in cases():
        rows = case.rows if case.loss.startswith("nt_xent") else 2 * case.rows
        view = jax.ShapeDtypeStruct(
            (rows // 2, case.length), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec())
        )
        step = jax.jit(jax.value_and_grad(mean_loss(case), (0, 1)))
        memory = step.lower(view, view).compile().memory_analysis()
        out.add(
            **case._asdict(),
            temporaries_mib=memory.temp_size_in_bytes / 2**20,
            kernels=[kernel._asdict() for kernel in kernels()],
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
