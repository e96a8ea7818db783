"""Runs on files of mixed sizes, which see whole pictures: all that a step does to a batch."""

import numpy as np
import pytest
from PIL import Image

from dystress_jax import microscope, run

pytestmark = pytest.mark.usefixtures("one_device")

CASES = {
    "simclr": {},
    "moco_v2": {"method": "moco_v2", "moco": {"queue_size": 16, "bn_groups": 2}},
    "in two parts": {"batch": {"micro_batches": 2}},
}


@pytest.fixture
def mixed(tmp_path):
    """Two classes of pictures whose sides are 17 to 39 pixels."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(10):
            picture = rng.integers(0, 256, (*rng.integers(17, 40, 2), 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "pets" / name / f"{i}.png")
    return str(tmp_path / "pets")


@pytest.mark.ci
@pytest.mark.parametrize("case", CASES)
def test_a_run_trains_and_records_on_whole_pictures(case, mixed, tmp_path):
    settings = {
        **{"batch_size": 16, "steps": 2, "log_every": 1, "knn_every": 0, "checkpoint_every": 0},
        "data": {"source": "folder", "path": mixed, "image_size": 16, "holdout": 0.0},
    }
    summary = run.train(run.from_config_dict(settings | CASES[case]), tmp_path / "run")
    assert summary["steps"] == 2
    assert microscope.read(tmp_path / "run").steps.tolist() == [1, 2]
