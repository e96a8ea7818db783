"""python train_few_steps.py WORKDIR: train from the installed wheel, on the images inside it."""

import json
import pathlib
import runpy
import sys

import dystress_jax
from dystress_jax import run

CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs"

assert "site-packages" in dystress_jax.__file__, dystress_jax.__file__
workdir = pathlib.Path(sys.argv[1])
settings = run.from_config_dict({"steps": 3, "batch_size": 32, "log_every": 1, "knn_every": 0})
run.train(settings, workdir / "simclr")
lines = (workdir / "simclr" / "metrics.jsonl").read_text().splitlines()
assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
assert 0 < json.loads((workdir / "simclr" / "summary.json").read_text())["knn_trained"] < 1

# The first image-text run, cut short: it must be on its way to what the README promises.
short = runpy.run_path(str(CONFIGS / "clip_quickstart.py"))["get_config"]()
short.steps, short.optimizer.warmup_epochs = 150, 1.0
found = run.train(run.from_config_dict(short), workdir / "clip")
for name in ("image_to_text_recall_at_10", "text_to_image_recall_at_10"):
    assert found[name] > 5 * found["retrieval_chance"][name], found
print("training from the wheel: ok")
