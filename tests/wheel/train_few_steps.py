"""python train_few_steps.py WORKDIR: train from the installed wheel, on the images inside it."""

import json
import pathlib
import sys

import dystress_jax
from dystress_jax import config, trainer

assert "site-packages" in dystress_jax.__file__, dystress_jax.__file__
workdir = pathlib.Path(sys.argv[1])
settings = config.from_config_dict({"steps": 3, "batch_size": 32, "log_every": 1, "knn_every": 0})
trainer.train(settings, workdir)
lines = (workdir / "metrics.jsonl").read_text().splitlines()
assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
assert 0 < json.loads((workdir / "summary.json").read_text())["knn_trained"] < 1
print("training from the wheel: ok")
