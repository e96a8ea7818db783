"""Images that stay on the devices give the batches, and the run, that images from the host give."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
from PIL import Image

from dystress_jax import data, run, sharding
from dystress_jax.training import resident
from dystress_jax.training.resident import Resident
from tests.processes import lines


def arrays(count):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 5, 4, 3), dtype=np.uint8)
    return data.from_arrays(images, np.arange(count) % 3, class_names=("a", "b", "c"))


def pictures(tmp_path):
    """Pictures of mixed sizes, seen whole."""
    rng = np.random.default_rng(1)
    for i in range(7):
        folder = tmp_path / "pets" / f"kind{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 256, (*rng.integers(17, 40, 2), 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    path = str(tmp_path / "pets")
    return data.open_splits("folder", path=path, image_size=16, holdout=0.0)["train"]


def with_tokens(source):
    """Two captions an image, of three tokens each."""
    captions = data.Captions.of([[f"one {i}", f"two {i}"] for i in range(source.num_stored)])
    source = dataclasses.replace(source, captions=captions)
    return data.with_tokens(source, lambda texts: np.arange(3 * len(texts)).reshape(-1, 3))


SOURCES = {
    "arrays": lambda path: arrays(11),
    "some of the stored": lambda path: arrays(23).take(np.array([20, 3, 5, 7, 22, 0, 1])),
    "whole pictures": pictures,
    "captions": lambda path: with_tokens(arrays(9)),
}


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("name", SOURCES)
def test_batches_are_those_of_images_on_the_host(name, devices, tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "CHUNK", 4)  # the last is ragged
    source, mesh = SOURCES[name](tmp_path), sharding.make_mesh(jax.devices()[:devices])
    stays = Resident.of(source, mesh)
    whole = data.batches(source, batch_size=6, seed=3, threads=0)
    light = data.batches(stays.source, batch_size=6, seed=3, threads=0)
    for _ in range(4):
        expected = sharding.shard_batch(next(whole), mesh)
        found = stays.put(next(light))
        assert found.keys() == expected.keys()
        for key, value in found.items():
            np.testing.assert_array_equal(value, expected[key])
            assert value.sharding.is_equivalent_to(expected[key].sharding, value.ndim), key
            assert value.dtype == expected[key].dtype


def test_images_that_stay_are_read_once(tmp_path):
    source, read = arrays(11), []
    counted = dataclasses.replace(
        source, read=lambda rows: (read.extend(rows), source.read(rows))[1]
    )
    stays = Resident.of(counted, sharding.make_mesh(jax.devices()[:1]))
    batches = data.batches(stays.source, batch_size=5, seed=0, threads=0)
    for _ in range(5):
        stays.put(next(batches))
    assert sorted(read) == list(range(11))


def test_what_images_take_and_may_take(tmp_path, monkeypatch):
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 4000}

    class Devices:
        local_devices = (Device(),)

    assert resident.bytes_of_images(arrays(11)) == 11 * 5 * 4 * 3
    pictured = pictures(tmp_path)
    whole = pictured.gather(np.arange(7), whole=True)["image"]
    assert resident.bytes_of_images(pictured) == whole.nbytes
    may_take = inspect.unwrap(resident.bytes_for_images)
    assert may_take(Devices()) == 1000
    assert may_take(sharding.make_mesh()) is None  # CPUs


@pytest.mark.ci
def test_a_run_is_the_same_to_the_bit_and_may_change_on_resume(tmp_path, capsys):
    settings = {"batch_size": 64, "log_every": 1, "knn_every": 0, "microscope": {"every": 0}}

    def curve(name, *parts):
        for steps, on_device in parts:
            images = {"source": "embedded", "name": "patches", "limit": 200}
            images |= {"on_device": on_device}
            run.train(
                run.from_config_dict({**settings, "steps": steps, "data": images}), tmp_path / name
            )
        return [line["loss"] for line in lines(tmp_path / name) if "loss" in line]

    on_host = curve("host", (2, False), (4, False))
    assert "kept on each device" not in capsys.readouterr().out
    assert curve("device", (2, True), (4, True)) == on_host
    assert "kept on each device: 0 MiB" in capsys.readouterr().out
