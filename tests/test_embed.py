"""One row an image, the same whether it was interrupted or not, and nothing half-written."""

import errno
import json
import os
import pathlib
import shutil

import filelock
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

import dystress_jax
from dystress_jax import data, microscope, run, sharding
from dystress_jax.files import FileError
from dystress_jax.run import _embed, _same_images
from tests import runs

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    folder = runs.write_images(place / "images")
    runs.saved(runs.settings(folder), place / "run", steps=(1,))
    return place / "run"


@pytest.fixture
def other(tmp_path):
    """Other classes, another size, and one image in each batch of 8."""
    names = ("x", "y", "z")
    return runs.write_images(tmp_path / "other", count=30, side=20, test=9, names=names, seed=1)


def on(folder, **fields):
    return {"source": "folder", "path": str(folder), **fields}


def rows(path):
    with np.load(path) as found:
        return dict(found)


def test_a_row_is_an_image_of_the_other_data_set(workdir, other, tmp_path):
    out = run.embed(workdir, tmp_path / "z.npz", on=on(other), batch_size=8)
    found, encoder = rows(out), dystress_jax.load(workdir)
    assert len(found["labels"]) == 39
    assert found["splits"].tolist() == ["train"] * 30 + ["test"] * 9
    assert found["ids"].tolist() == [*range(30), *range(9)]
    assert found["class_names"].tolist() == ["x", "y", "z"]
    for label, path in zip(found["labels"], found["paths"], strict=True):
        assert pathlib.Path(path).parent.name == found["class_names"][label]
    paths = found["paths"].tolist()
    np.testing.assert_allclose(found["features"], encoder(paths), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["embeddings"], encoder.embeddings(paths), rtol=1e-4, atol=1e-5)
    protocol = json.loads(str(found["protocol"]))
    assert protocol["checkpoint_step"] == 1
    assert protocol["on"] == on(other)
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_is_written_by_one_call_at_a_time(workdir, other, tmp_path, monkeypatch):
    lock = filelock.FileLock(tmp_path / ".z.npz.lock")
    with lock, pytest.raises(_embed.EmbedError, match=r"--out: another call is writing .*z\.npz"):
        run.embed(workdir, tmp_path / "z.npz", on=on(other))
    open_draft = _embed._Draft.open
    ours = []

    def while_another_comes(out, *rest):
        with pytest.raises(_embed.EmbedError, match="another call is writing"):
            ours.append(run.embed(workdir, out, on=on(other)))
        return open_draft(out, *rest)

    monkeypatch.setattr(_embed._Draft, "open", while_another_comes)
    run.embed(workdir, tmp_path / "z.npz", on=on(other))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["z.npz"]


def test_a_full_disk_is_told_before_the_first_image(workdir, other, tmp_path, monkeypatch):
    """The room is taken at once: without it the system ends the process at a write to the map."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(FileError, match=r"z\.npz\.partial cannot be used: No space left"):
        run.embed(workdir, tmp_path / "z.npz", on=on(other))
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "z"))]


def test_parquet_has_the_same_rows(workdir, other, tmp_path, monkeypatch):
    monkeypatch.setattr(_embed, "ROWS", 16)
    npz = rows(run.embed(workdir, tmp_path / "z.npz", on=on(other)))
    table = pq.read_table(run.embed(workdir, tmp_path / "z.parquet", on=on(other)))
    np.testing.assert_array_equal(np.stack(table["features"].to_numpy()), npz["features"])
    np.testing.assert_array_equal(np.stack(table["embeddings"].to_numpy()), npz["embeddings"])
    for name in ("labels", "ids", "paths", "splits"):
        assert table[name].to_pylist() == npz[name].tolist()
    once = {"labels": "label", "ids": "id", "paths": "path", "splits": "split"}
    assert not set(once.values()) & set(table.column_names)
    names = npz["class_names"][npz["labels"]]
    assert table["class_name"].to_pylist() == names.tolist()
    assert json.loads(table.schema.metadata[b"class_names"]) == ["x", "y", "z"]
    # The report and the explorer read both.
    a, b = (microscope.read_embeddings(tmp_path / name) for name in ("z.npz", "z.parquet"))
    older = table.rename_columns([once.get(name, name) for name in table.column_names])
    pq.write_table(older, tmp_path / "older.parquet")
    c = microscope.read_embeddings(tmp_path / "older.parquet")
    for name in ("ids", "labels", "class_names", "features", "embeddings", "similarity"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        np.testing.assert_array_equal(getattr(a, name), getattr(c, name))
    # With the pictures of the files.
    np.testing.assert_array_equal(a.pictures, b.pictures)
    with Image.open(npz["paths"][3]) as image:
        expected = np.asarray(ImageOps.fit(image.convert("RGB"), (48, 48)))
    np.testing.assert_array_equal(a.pictures[3], expected)
    pathlib.Path(npz["paths"][5]).unlink()
    without = microscope.read_embeddings(tmp_path / "z.npz")
    assert without.pictures is None
    assert "an image cannot be read" in " ".join(without.notes)


def test_names_of_files_that_are_no_text_go_into_parquet_too(workdir, other, tmp_path):
    strange = other / "test" / "x" / os.fsdecode(b"bad\xff.png")
    try:
        shutil.copy(next((other / "test" / "x").iterdir()), strange)
    except OSError:
        pytest.skip("this file system has names of UTF-8 only")
    table = pq.read_table(run.embed(workdir, tmp_path / "z.parquet", on=on(other)))
    assert sum(path.endswith("bad\\udcff.png") for path in table["paths"].to_pylist()) == 1


def test_a_directory_is_no_file_to_write(workdir, tmp_path):
    (tmp_path / "z.npz").mkdir()
    with pytest.raises(run.EmbedError, match=r"--out: .*z\.npz is a directory; allowed: another"):
        run.embed(workdir, tmp_path / "z.npz", overwrite=True)


def test_the_run_s_own_images_keep_their_splits(workdir, tmp_path):
    found = rows(run.embed(workdir, tmp_path / "own.npz"))
    splits, counts = np.unique(found["splits"], return_counts=True)
    assert dict(zip(splits.tolist(), counts.tolist(), strict=True)) == {
        "holdout": 4,
        "test": 16,
        "train": 36,
    }
    only = rows(run.embed(workdir, tmp_path / "test.npz", splits=["test"]))
    np.testing.assert_array_equal(only["features"], found["features"][found["splits"] == "test"])
    with pytest.raises(run.ConfigError, match="--split: found 'val'; allowed: train, holdout, t"):
        run.embed(workdir, tmp_path / "val.npz", splits=["val"])


@pytest.fixture
def computed(monkeypatch):
    """How many images each batch has that is computed."""
    counts, shard = [], sharding.shard_batch
    counted = lambda batch, mesh: (counts.append(len(batch["image"])), shard(batch, mesh))[1]
    monkeypatch.setattr(sharding, "shard_batch", counted)
    return counts


def stopped(workdir, other, out, whole, monkeypatch):
    """Stop at an image of the fourth batch; its path, what it was, and how many rows are done."""
    broken = pathlib.Path(whole["paths"][26])
    good = broken.read_bytes()
    monkeypatch.setattr(_same_images, "IMAGES_COMPARED", 2)  # it is met while embedding
    broken.write_bytes(good[:40])
    with pytest.raises(run.EmbedError, match=f"{broken.name}.*{out.name}.partial.*goes on"):
        run.embed(workdir, out, on=on(other), batch_size=8)
    assert not out.exists()
    done = json.loads((out.parent / f"{out.name}.partial" / "progress.json").read_text())["done"]
    assert 8 <= done < 26
    return broken, good, done


def test_it_goes_on_where_it_was(workdir, other, tmp_path, monkeypatch, computed):
    """Once the broken image is mended, only what is missing is done; its size is another one."""
    whole = rows(run.embed(workdir, tmp_path / "whole.npz", on=on(other), batch_size=8))
    broken, good, done = stopped(workdir, other, tmp_path / "z.npz", whole, monkeypatch)
    broken.write_bytes(good)
    computed.clear()
    found = rows(run.embed(workdir, tmp_path / "z.npz", on=on(other), batch_size=8))
    assert sum(computed) <= 39 - done + 2 * 8  # the last batch of each split is padded
    assert set(found) == set(whole)
    for name in ("features", "embeddings", "labels", "ids", "paths"):
        np.testing.assert_array_equal(found[name], whole[name])


def test_a_file_that_is_done_and_was_replaced_is_done_anew(
    workdir, other, tmp_path, monkeypatch, computed
):
    whole = rows(run.embed(workdir, tmp_path / "whole.npz", on=on(other), batch_size=8))
    broken, good, _ = stopped(workdir, other, tmp_path / "z.npz", whole, monkeypatch)
    broken.write_bytes(good)
    Image.new("RGB", (20, 20)).save(whole["paths"][5])
    computed.clear()
    found = rows(run.embed(workdir, tmp_path / "z.npz", on=on(other), batch_size=8))
    assert sum(computed) >= 39
    assert np.abs(found["features"][5] - whole["features"][5]).max() > 1e-3


def test_what_is_half_done_by_another_run_is_not_used(
    other, tmp_path, monkeypatch, computed, capsys
):
    """The other run is in the same directory, at the same step."""
    folder, workdir = runs.write_images(tmp_path / "images"), tmp_path / "run"
    runs.saved(runs.settings(folder), workdir, steps=(1,))
    whole = rows(run.embed(workdir, tmp_path / "whole.npz", on=on(other), batch_size=8))
    broken, good, _ = stopped(workdir, other, tmp_path / "z.npz", whole, monkeypatch)
    broken.write_bytes(good)
    shutil.rmtree(workdir)
    runs.saved(runs.settings(folder, seed=1), workdir, steps=(1,))
    computed.clear()
    found = rows(run.embed(workdir, tmp_path / "z.npz", on=on(other), batch_size=8))
    assert sum(computed) >= 39
    said = capsys.readouterr().err
    assert f"{tmp_path}/z.npz.partial is of other weights or images: begun anew" in said
    expected = dystress_jax.load(workdir)(found["paths"].tolist())
    np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-5)


def noise(*, sizes):
    """A source of one's own that holds nothing out."""
    images = np.random.default_rng(0).integers(0, 256, (*sizes, 3), np.uint8)
    return {"train": data.from_arrays(images)}


def split_noise(*, sizes, holdout):
    return data.split_holdout(noise(sizes=sizes)["train"], holdout)


@pytest.mark.parametrize("name", ["noise", "split_noise"])
def test_nothing_is_held_out_of_a_source_of_one_s_own(name, workdir, tmp_path):
    source = {"source": f"tests.test_embed:{name}", "options": {"sizes": (20, 12, 12)}}
    found = rows(run.embed(workdir, tmp_path / "z.npz", on=source))
    assert found["splits"].tolist() == ["train"] * 20


def test_a_draft_is_used_only_if_it_is_whole(workdir, tmp_path, monkeypatch, computed):
    """Options are tuples, and lists in the draft."""
    source = {"source": "tests.test_embed:noise", "options": {"sizes": (20, 12, 12)}}
    arguments = {"on": source, "batch_size": 8}
    whole = rows(run.embed(workdir, tmp_path / "whole.npz", **arguments))
    write = dict(_embed._WRITERS)

    def full(*arguments):
        raise OSError("no room")

    monkeypatch.setitem(_embed._WRITERS, ".npz", full)
    with pytest.raises(FileError, match="no room"):
        run.embed(workdir, tmp_path / "z.npz", **arguments)
    monkeypatch.setitem(_embed._WRITERS, ".npz", write[".npz"])
    shutil.copytree(tmp_path / "z.npz.partial", tmp_path / "y.npz.partial")
    (tmp_path / "y.npz.partial" / "features.npy").unlink()
    for name, batches in (("z.npz", 0), ("y.npz", 3)):
        computed.clear()
        found = rows(run.embed(workdir, tmp_path / name, **arguments))
        assert len(computed) == batches
        np.testing.assert_array_equal(found["features"], whole["features"])


@pytest.mark.parametrize(
    "noted", ['{"done": 39, "protocol": {"workdir": "elsewhere"}}', '{"done": 39, "prot', None]
)
def test_what_is_half_done_and_damaged_is_not_used(noted, workdir, other, tmp_path, capsys):
    place = tmp_path / "z.npz.partial"
    place.mkdir()
    if noted is not None:
        (place / "progress.json").write_text(noted)
    found = rows(run.embed(workdir, tmp_path / "z.npz", on=on(other)))
    assert f"{place} is damaged: begun anew" in capsys.readouterr().err
    assert np.abs(found["features"]).sum(axis=1).min() > 0


@pytest.mark.parametrize(
    ("out", "fields", "message"),
    [
        ("z.csv", {}, r"--out: found z\.csv; allowed: a name that ends in \.npz or \.parquet"),
        ("there.npz", {}, r"there\.npz is there already; allowed: another name, or --overwrite"),
        ("z.npz", {"path": "/nowhere"}, "--on.path: .*nowhere"),
        ("z.npz", {"source": "foldr"}, "--on.source: found 'foldr'.*Did you mean folder?"),
        ("z.npz", {"pth": "x"}, "--on.pth: no such field"),
    ],
)
def test_a_mistake_is_told_before_anything_is_computed(
    workdir, other, tmp_path, out, fields, message
):
    (tmp_path / "there.npz").write_text("")
    with pytest.raises((run.EmbedError, run.ConfigError), match=message):
        run.embed(workdir, tmp_path / out, on=on(other) | fields)
    assert not list(tmp_path.glob("*.partial"))


def test_images_with_other_channels_are_refused(workdir, tmp_path):
    np.savez(tmp_path / "grey.npz", train_images=np.zeros((4, 12, 12, 1), np.uint8))
    with pytest.raises(run.ConfigError, match=r"found 1 channel in images .*; allowed: 3"):
        run.embed(
            workdir, tmp_path / "z.npz", on={"source": "npz", "path": str(tmp_path / "grey.npz")}
        )


def test_files_are_grey_for_an_encoder_of_grey_images(other, tmp_path):
    runs.saved(runs.grey_settings(tmp_path / "grey.npz"), tmp_path / "run", steps=(1,))
    found = rows(run.embed(tmp_path / "run", tmp_path / "z.npz", on=on(other)))
    expected = dystress_jax.load(tmp_path / "run")(found["paths"].tolist())
    np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "rgb.npz", train_images=np.zeros((4, 12, 12, 3), np.uint8))
    arrays = {"source": "npz", "path": str(tmp_path / "rgb.npz")}
    with pytest.raises(run.ConfigError, match=r"found 3 channels in images .*; allowed: 1"):
        run.embed(tmp_path / "run", tmp_path / "rgb-z.npz", on=arrays)


def test_the_protocol_says_where_the_images_are(workdir, other, tmp_path, monkeypatch):
    monkeypatch.chdir(other.parent)
    found = rows(run.embed(workdir, tmp_path / "z.npz", on=on(other.name)))
    assert json.loads(str(found["protocol"]))["on"] == on(other)


def test_of_a_first_image_that_cannot_be_read_nothing_is_kept(workdir, other, tmp_path):
    first = min((other / "train").rglob("*.png"))
    first.write_bytes(b"no image")
    with pytest.raises(run.EmbedError, match=first.name) as raised:
        run.embed(workdir, tmp_path / "z.npz", on=on(other))
    assert "kept" not in str(raised.value)
    assert ". Replace the image; or start with --on.on_error=skip, which" in str(raised.value)
    out = run.embed(workdir, tmp_path / "z.npz", on=on(other, on_error="skip"))
    assert len(rows(out)["labels"]) == 38


def test_a_run_whose_images_are_gone_is_told_how_to_take_others(tmp_path):
    folder = runs.write_images(tmp_path / "images")
    config = runs.settings(folder, **{"data.image_size": 12})
    runs.saved(config, tmp_path / "run", steps=(1,))
    broken = folder / "train" / "red" / "0.png"
    broken.write_bytes(b"no image")
    own = f"--on.source=folder --on.path={folder} --on.on_error=skip"
    with pytest.raises(run.EmbedError, match=own):
        run.embed(tmp_path / "run", tmp_path / "z.npz")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(run.ConfigError, match=rf"{folder}.*: --on\.source and --on\.path\.$"):
        run.embed(tmp_path / "run", tmp_path / "z.npz")


def test_images_of_no_class_and_no_file(workdir, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images)
    source = {"source": "npz", "path": str(tmp_path / "x.npz")}
    found = rows(run.embed(workdir, tmp_path / "z.npz", on=source))
    assert "paths" not in found
    assert found["labels"].tolist() == [-1] * 5
    fitted = np.stack([np.asarray(Image.fromarray(i).resize((12, 12), 3)) for i in images])
    expected = dystress_jax.load(workdir)(fitted)
    np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-5)
    table = pq.read_table(run.embed(workdir, tmp_path / "z.parquet", on=source))
    assert table["class_name"].to_pylist() == [None] * 5
