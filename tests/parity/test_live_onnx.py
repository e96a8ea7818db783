"""Exported encoders in onnxruntime, beside themselves.

Where jax2onnx is installed, as .ci/run installs it.
"""

import importlib.util

import numpy as np
import pytest

import dystress_jax
from dystress_jax import run, weights
from tests import runs

MISSING = [n for n in ("jax2onnx", "onnxruntime") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.ci,
    pytest.mark.filterwarnings("default"),  # of their imports
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed"),
]
if not MISSING:
    import jax2onnx
    import onnxruntime

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return runs.write_images(tmp_path_factory.mktemp("images"), side=16)


@pytest.mark.parametrize(
    "settings",
    [
        {"model.name": "resnet18", "model.stem": "imagenet"},
        {"model.name": "vit_micro", "model.positions": "learned"},
        {"model.name": "vit_micro", "model.pooling": "attention"},
    ],
    ids=["resnet", "vit", "attention"],
)
def test_the_file_makes_the_features_of_any_number_of_images(settings, folder, tmp_path):
    runs.saved(runs.settings(folder, **settings), tmp_path / "run", steps=(1,))
    out = tmp_path / "encoder.onnx"
    shapes = run.export_weights(tmp_path / "run", out, format="onnx")
    assert sum(map(np.prod, shapes.values())) > 10_000
    session = onnxruntime.InferenceSession(str(out))
    expected = dystress_jax.load(tmp_path / "run")(IMAGES)
    for count in (1, 3):
        seen = np.float32(IMAGES[:count] / 255)
        [found] = session.run(["features"], {"images": seen})
        np.testing.assert_allclose(found, expected[:count], atol=1e-4)


def test_a_model_that_computes_something_else_is_not_written(folder, tmp_path, monkeypatch):
    runs.saved(runs.settings(folder), tmp_path / "run", steps=(1,))
    convert = jax2onnx.to_onnx

    def doubled(apply, *args, **options):
        return convert(lambda x: 2 * apply(x), *args, **options)

    monkeypatch.setattr(jax2onnx, "to_onnx", doubled)
    with pytest.raises(weights.WeightsError, match=r"onnx: found features that differ by"):
        run.export_weights(tmp_path / "run", tmp_path / "x.onnx", format="onnx")
    monkeypatch.setattr(jax2onnx, "to_onnx", None)
    with pytest.raises(weights.WeightsError, match="onnx: jax2onnx cannot convert the encoder"):
        run.export_weights(tmp_path / "run", tmp_path / "x.onnx", format="onnx")
    assert not (tmp_path / "x.onnx").exists()
