"""python use_command.py WORKDIR: the command of the installed wheel, from an empty directory."""

import json
import pathlib
import subprocess
import sys
import time

import numpy as np

import dystress_jax

assert "site-packages" in dystress_jax.__file__, dystress_jax.__file__
DYSTRESS = pathlib.Path(sys.executable).parent / "dystress"
workdir = pathlib.Path(sys.argv[1])
workdir.mkdir()


def dystress(*arguments):
    done = subprocess.run(
        [DYSTRESS, *arguments], cwd=workdir, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


began = time.perf_counter()
assert "dystress COMMAND" in dystress("--help")
assert time.perf_counter() - began < 1, "help takes longer than a second"
module = [sys.executable, "-m", "dystress_jax", "--version"]
subprocess.run(module, cwd=workdir, check=True)
assert dystress("train", "--help").count("\ndystress train") == 4
# Without the library of the charts, which the report alone needs.
printed = dystress("sweep", "--over.temperature.tau_max=0.2,0.5", "--seeds=2", "--print")
assert printed.count("dystress train --workdir=runs/quickstart_tau_max/tau_max=") == 4

few = ("--config.steps=3", "--config.batch_size=32", "--config.log_every=1", "--config.knn_every=0")
dystress("train", "--config=quickstart", "--workdir=simclr", *few)
lines = (workdir / "simclr" / "metrics.jsonl").read_text().splitlines()
assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
assert 0 < json.loads((workdir / "simclr" / "summary.json").read_text())["knn_trained"] < 1

dystress("eval", "--workdir=simclr", "--evaluation=knn", "--config.knn.k=20,200")
assert json.loads(next((workdir / "simclr" / "eval").glob("knn*200.json")).read_text())["top1"] > 0
dystress("embed", "--workdir=simclr", "--split=test", "--out=z.npz")
features = np.load(workdir / "z.npz")["features"]
(workdir / "simclr").rename(workdir / "moved")
images = np.zeros((2, 50, 40, 1), np.uint8)  # grey, as those of the first run
assert dystress_jax.load(workdir / "moved")(images).shape[1] == features.shape[1]

dystress("export", "--workdir=moved", "--out=encoder.safetensors")
grey = ("--config.augment.mean=(0.5,)", "--config.augment.std=(0.25,)", "--config.augment.size=32")
dystress("import", "encoder.safetensors", "--model=small", *grey, "--config.model.stem=patch")
assert (workdir / "runs" / "encoder" / "config.json").exists()
moco = ("--config.method=moco_v2", "--config.moco.queue_size=64", "--init_from=runs/encoder")
dystress("train", "--config=quickstart", "--workdir=moco", *few, *moco)
assert json.loads((workdir / "moco" / "summary.json").read_text())["steps"] == 3

# The first image-text run, cut short: it must be on its way to what the README promises.
(workdir / "mine.py").write_text(
    "from dystress_jax.configs import clip_quickstart\n"
    "def get_config():\n"
    "    config = clip_quickstart.get_config()\n"
    "    config.steps, config.optimizer.warmup_epochs = 150, 1.0\n"
    "    return config\n"
)
dystress("train", "--config=mine.py", "--workdir=clip")
found = json.loads((workdir / "clip" / "summary.json").read_text())
for name in ("image_to_text_recall_at_10", "text_to_image_recall_at_10"):
    assert found[name] > 5 * found["retrieval_chance"][name], found
print("the command of the wheel: ok")
