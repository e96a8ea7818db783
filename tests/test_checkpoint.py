import gc
import os
import pathlib
import random
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from dystress_jax import sharding
from dystress_jax.files import FileError
from dystress_jax.training import checkpoint
from dystress_jax.training.checkpoint import CheckpointError, Saver, _records, _restore, _saver

# Orbax leaves coroutines behind when a file that it reads is damaged.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def collect_what_orbax_left():
    yield
    gc.collect()


def make_state(mesh, step=0):
    state = {
        "step": jnp.int32(step),
        "key": jax.random.key(7),
        "weights": jax.random.normal(jax.random.key(step), (300, 200)),
        "half": jnp.ones((5,), jnp.bfloat16),
    }
    return jax.device_put(state, sharding.replicated(mesh))


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_equal(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh()


@pytest.fixture
def saved(tmp_path, mesh):
    """Three checkpoints at steps 10, 20, 30; those at 10 and 20 have a score."""
    saver = Saver(tmp_path / "checkpoints", keep=3)
    for step, score in ((10, 0.5), (20, 0.4), (30, None)):
        saver.save(step, make_state(mesh, step), {"position": step, "score": score})
    saver.wait()
    return tmp_path / "checkpoints"


def test_a_checkpoint_comes_back_bit_for_bit_with_its_data_position(saved, mesh):
    expected = make_state(mesh, 30)
    restored = checkpoint.restore_newest(saved, abstract(expected))
    assert restored is not None
    assert (restored.step, restored.damaged) == (30, [])
    assert {n: restored.record[n] for n in ("position", "score", "step", "version")} == {
        "position": 30,
        "score": None,
        "step": 30,
        "version": checkpoint.VERSION,
    }
    assert_equal(restored.state, expected)


def test_a_checkpoint_of_eight_devices_comes_back_on_one(saved, mesh):
    single = sharding.make_mesh(jax.devices()[:1])
    restored = checkpoint.restore(saved, 20, abstract(make_state(single)))
    assert restored.state["weights"].sharding.device_set == {jax.devices()[0]}
    assert_equal(restored.state, make_state(mesh, 20))


def test_no_checkpoint_is_no_error(tmp_path, mesh):
    assert checkpoint.restore_newest(tmp_path / "none", abstract(make_state(mesh))) is None


def test_the_state_may_be_donated_while_it_is_being_written(tmp_path, mesh):
    advance = jax.jit(lambda s: {**s, "weights": s["weights"] * 1.5}, donate_argnums=0)
    state, expected = make_state(mesh), []
    saver = Saver(tmp_path, keep=5)
    for step in range(4):
        expected.append(jax.device_get(state["weights"]).copy())
        saver.save(step, state, {})
        for _ in range(10):
            state = advance(state)
    saver.wait()
    for step in range(4):
        found = checkpoint.restore(tmp_path, step, abstract(state)).state
        np.testing.assert_array_equal(found["weights"], expected[step])


def test_the_newest_and_the_best_are_kept(tmp_path, mesh):
    saver = Saver(tmp_path, keep=2)
    for step, score in ((1, 0.3), (2, 0.9), (3, 0.4), (4, None), (5, 0.8)):
        saver.save(step, make_state(mesh, step), {"score": score})
    saver.wait()
    assert checkpoint.steps(tmp_path) == [2, 4, 5]
    assert checkpoint.scores(tmp_path) == {2: 0.9, 5: 0.8}
    # A later part of the run still knows which was the best.
    saver = Saver(tmp_path, keep=1)
    saver.save(6, make_state(mesh, 6), {"score": 0.85})
    saver.wait()
    assert checkpoint.steps(tmp_path) == [2, 6]


def test_scores_of_another_kind_are_none(tmp_path, mesh):
    """As of kNN with another k: the highest of both would be that of the easier one."""
    saver = Saver(tmp_path, keep=9)
    for step, score, by in ((1, 0.9, [20]), (2, 0.8, [200]), (3, None, [200]), (4, 0.7, [200])):
        saver.save(step, make_state(mesh, step), {"score": score, "scored_by": by})
    saver.wait()
    assert checkpoint.scores(tmp_path) == {2: 0.8, 4: 0.7}
    restored = checkpoint.restore_newest(tmp_path, abstract(make_state(mesh)))
    assert restored is not None
    assert restored.scores == {2: 0.8, 4: 0.7}


def test_each_record_is_read_once_when_a_run_goes_on(saved, mesh, monkeypatch):
    read, seen = _records.read, []

    def counted(directory, step):
        seen.append(step)
        return read(directory, step)

    for module in (_records, _restore):
        monkeypatch.setattr(module, "read", counted)
    restored = checkpoint.restore_newest(saved, abstract(make_state(mesh)))
    assert restored is not None
    saver = Saver(saved, keep=1, scores=restored.scores)
    assert sorted(seen) == [10, 20, 30]
    # It knows what it would have read itself.
    assert restored.scores == checkpoint.scores(saved) == {10: 0.5, 20: 0.4}
    assert saver.best == Saver(saved, keep=1).best == 0.5
    saver.save(40, make_state(mesh, 40), {"score": 0.4})
    saver.wait()
    assert checkpoint.steps(saved) == [10, 40]


def test_the_best_is_one_that_is_on_disk(tmp_path, mesh, monkeypatch):
    saver = Saver(tmp_path, keep=2, failed=lambda error: None)
    assert saver.best == 0
    saver.save(1, make_state(mesh, 1), {"score": 0.3})
    saver.save(2, make_state(mesh, 2), {"score": 0.2})
    saver.save(3, make_state(mesh, 3), {})
    assert saver.best == 0.3

    def full(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(_saver.ocp, "save_checkpointables_async", full)
        saver.save(4, make_state(mesh, 4), {"score": 0.9})
    assert saver.best == 0.3
    saver.wait()


def biggest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_one_bit(directory):
    path = biggest_file(directory)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(directory):
    path = biggest_file(directory)
    path.write_bytes(path.read_bytes()[:100])


def remove_data(directory):
    biggest_file(directory).unlink()


def metadata(directory):
    return directory / "_CHECKPOINT_METADATA"


def spoil_metadata(directory):
    metadata(directory).write_text("{")


def remove_metadata(directory):
    metadata(directory).unlink()


def metadata_of_another_kind(directory):
    metadata(directory).unlink()
    metadata(directory).mkdir()


def rename_in_metadata(directory):
    path = metadata(directory)
    path.write_text(path.read_text().replace("item_handlers", "item_h`ndlers"))


def change_the_record(directory):
    path = metadata(directory)
    text = path.read_text()
    assert '"position": ' in text
    path.write_text(text.replace('"position": 30', '"position": 31').replace("20,", '"20",'))


def change_the_version(directory):
    path = metadata(directory)
    path.write_text(path.read_text().replace('"version": 3', '"version": 2'))


def rename_the_record(directory):
    path = metadata(directory)
    path.write_text(path.read_text().replace('"record"', '"recorc"'))


def leave_nothing(directory):
    shutil.rmtree(directory)
    directory.mkdir()


def a_broken_link(directory):
    shutil.rmtree(directory)
    directory.symlink_to("nowhere")


def a_file(directory):
    shutil.rmtree(directory)
    directory.write_text("no checkpoint")


OF_METADATA = [
    spoil_metadata,
    remove_metadata,
    metadata_of_another_kind,
    rename_in_metadata,
    change_the_record,
    change_the_version,
    rename_the_record,
    leave_nothing,
    a_broken_link,
    a_file,
]


@pytest.mark.ci
@pytest.mark.parametrize("damage", [flip_one_bit, truncate, remove_data, *OF_METADATA])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(saved, mesh, damage):
    damage(saved / "30")
    restored = checkpoint.restore_newest(saved, abstract(make_state(mesh)))
    assert restored is not None
    assert restored.step == 20
    assert_equal(restored.state, make_state(mesh, 20))
    [(reason, place)] = restored.damaged
    assert "checkpoint 30" in reason
    # It is kept for a person to look at, and its step can be written again.
    assert place == saved.parent / "damaged" / "30"
    assert os.path.lexists(place)
    saver = Saver(saved, keep=3)
    saver.save(30, make_state(mesh, 30), {})
    saver.wait()
    assert checkpoint.steps(saved) == [10, 20, 30]


@pytest.mark.ci
@pytest.mark.parametrize("damage", OF_METADATA)
def test_a_damaged_older_checkpoint_is_reported_and_the_run_goes_on(saved, mesh, damage):
    damage(saved / "20")
    restored = checkpoint.restore_newest(saved, abstract(make_state(mesh)))
    assert restored is not None
    assert restored.step == 30
    assert ["checkpoint 20" in reason for reason, _ in restored.damaged] == [True]
    assert checkpoint.scores(saved) == {10: 0.5}
    Saver(saved, keep=3).wait()


@pytest.mark.ci
@pytest.mark.parametrize("step", [20, 30])
def test_no_flipped_bit_in_metadata_ends_a_start_or_comes_back(saved, mesh, step):
    rng, whole = random.Random(step), metadata(saved / str(step)).read_bytes()
    for _ in range(15):
        flipped = bytearray(whole)
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        flipped[place] ^= 1 << bit
        metadata(saved / str(step)).write_bytes(flipped)
        checkpoint.check_version(saved)
        restored = checkpoint.restore_newest(saved, abstract(make_state(mesh)))
        assert restored is not None
        assert restored.record["position"] == restored.step, (place, bit)
        assert_equal(restored.state, make_state(mesh, restored.step))
        Saver(saved, keep=3)
        for _, moved in restored.damaged:
            moved.rename(saved / str(step))


def test_what_is_no_checkpoint_is_left_alone(saved, mesh):
    (saved / "notes.txt").write_text("mine")
    (saved / "lost+found").mkdir()
    (saved / "030").mkdir()
    (saved / "٣").mkdir()
    half = saved / "7.deleted", saved / "40.orbax-checkpoint-tmp"
    for path in half:
        path.mkdir()
    restored = checkpoint.restore_newest(saved, abstract(make_state(mesh)))
    assert restored is not None
    assert (restored.step, restored.damaged) == (30, [])
    saver = Saver(saved, keep=1)
    saver.save(40, make_state(mesh, 40), {})
    saver.wait()
    names = {path.name for path in saved.iterdir()}
    assert names == {"notes.txt", "lost+found", "030", "٣", "10", "40"}


@pytest.mark.ci
def test_damaged_ones_do_not_replace_each_other(saved, mesh):
    for suffix in ("", "-2"):
        spoil_metadata(saved / "30")
        restored = checkpoint.restore_newest(saved, abstract(make_state(mesh)))
        assert restored is not None
        assert [place.name for _, place in restored.damaged] == [f"30{suffix}"]
        saver = Saver(saved, keep=3)
        saver.save(30, make_state(mesh, 30), {})
        saver.wait()


def test_a_directory_of_checkpoints_that_is_none_is_told_in_one_line(tmp_path, mesh):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(FileError, match=r"checkpoints cannot be read: Not a directory"):
        checkpoint.restore_newest(tmp_path / "checkpoints", abstract(make_state(mesh)))


@pytest.mark.parametrize("name", ["tau[0.1]", "[project] x", "a*b?c", "{a,b}"])
def test_a_directory_may_have_any_name(tmp_path, mesh, name):
    directory, state = tmp_path / name / "checkpoints", make_state(mesh, 3)
    saver = Saver(directory, keep=1)
    for step in (2, 3):
        saver.save(step, make_state(mesh, step), {"score": 0.5})
    saver.wait()
    assert checkpoint.steps(directory) == [3]
    assert_equal(checkpoint.restore(directory, 3, abstract(state)).state, state)


def fail(*_, **__):
    raise OSError(28, "No space left on device")


class Failing:
    """A write that fails in the background, as Orbax reports it."""

    def result(self, timeout):
        raise ExceptionGroup("unhandled", [ValueError("RESOURCE_EXHAUSTED: no space left")])


@pytest.mark.parametrize("save", [fail, lambda *_, **__: Failing()])
def test_a_checkpoint_that_cannot_be_written_is_told_at_once_in_one_line(
    saved, mesh, monkeypatch, save
):
    with monkeypatch.context() as patched:
        patched.setattr(ocp, "save_checkpointables_async", save)
        saver = Saver(saved, keep=3)

        def save_and_look():
            saver.save(40, make_state(mesh), {"score": 0.9})
            saver.check()

        with pytest.raises(CheckpointError, match=r"checkpoint 40 cannot be written \(.*space"):
            save_and_look()
        told = []
        saver = Saver(saved, keep=3, failed=told.append)
        save_and_look()
        assert ["checkpoint 40" in str(error) for error in told] == [True]
        assert saver.error is told[0]
    saver.save(50, make_state(mesh, 50), {"score": 0.1})
    saver.wait()
    assert saver.error is None
    assert checkpoint.steps(saved) == [10, 20, 30, 50]
    assert_equal(
        checkpoint.restore(saved, 50, abstract(make_state(mesh))).state, make_state(mesh, 50)
    )


def test_a_checkpoint_that_cannot_be_deleted_is_told_once(saved, mesh, monkeypatch):
    told = []
    saver = Saver(saved, keep=1, tell=told.append)
    monkeypatch.setattr(pathlib.Path, "rename", fail)
    for step in (40, 50):
        saver.save(step, make_state(mesh, step), {})
        saver.wait()
    assert len([line for line in told if str(saved / "20") in line]) == 1
    assert checkpoint.steps(saved) == [10, 20, 30, 40, 50]


def test_an_old_checkpoint_that_is_a_link_is_let_go_but_not_what_it_links_to(saved, mesh, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (saved / "20").rename(elsewhere)
    (saved / "20").symlink_to(elsewhere)
    saver = Saver(saved, keep=1)
    saver.save(40, make_state(mesh, 40), {})
    saver.wait()
    assert checkpoint.steps(saved) == [10, 40]
    assert metadata(elsewhere).is_file()


def test_an_interrupt_while_it_is_read_is_no_damage(saved, mesh, monkeypatch):
    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:  # as Orbax hands it on
            raise RuntimeError("could not load") from error

    monkeypatch.setattr(ocp, "load_checkpointables", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.restore_newest(saved, abstract(make_state(mesh)))
    assert checkpoint.steps(saved) == [10, 20, 30]


def test_a_description_that_is_gone_or_cut_short_is_told_in_words(saved, mesh):
    state = abstract(make_state(mesh))
    (array_sizes,) = (saved / "30" / "train" / "array_metadatas").iterdir()
    names = ["_CHECKPOINT_METADATA", "train/_METADATA", "train/_sharding"]
    for name in [*names, str(array_sizes.relative_to(saved / "30"))]:
        path = saved / "30" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError) as raised:
            checkpoint.restore(saved, 30, state)
        assert str(raised.value) == f"checkpoint 30 is damaged ({name} is cut short)"
        path.write_bytes(whole)
    metadata(saved / "30").unlink()
    with pytest.raises(CheckpointError) as raised:
        checkpoint.restore(saved, 30, state)
    assert str(raised.value) == "checkpoint 30 is damaged (_CHECKPOINT_METADATA is missing)"
    (saved / "20" / "train" / "manifest.ocdbt").unlink()
    with pytest.raises(
        CheckpointError, match=r"^checkpoint 20 is damaged \(a file in .*20 is miss"
    ):
        checkpoint.restore(saved, 20, state)


def test_where_all_checkpoints_are_damaged_nothing_is_touched(saved, mesh):
    for step in (10, 20, 30):
        truncate(saved / str(step))
    with pytest.raises(CheckpointError, match=r"none of the checkpoints .* Use a new --workdir"):
        checkpoint.restore_newest(saved, abstract(make_state(mesh)))
    assert checkpoint.steps(saved) == [10, 20, 30]


def test_a_checkpoint_of_another_model_is_refused(saved, mesh):
    other = {**make_state(mesh), "weights": jnp.zeros((3, 3))}
    other = jax.device_put(other, sharding.replicated(mesh))
    with pytest.raises(CheckpointError, match=r"another model: weights has shape \(300, 200\)"):
        checkpoint.restore(saved, 30, abstract(other))


def test_a_checkpoint_of_another_precision_is_refused_as_such(saved, mesh):
    expected = abstract(make_state(mesh))
    with jax.enable_x64(True):
        wide = {**expected, "weights": expected["weights"].update(dtype=jnp.float64)}
        with pytest.raises(CheckpointError, match=r"weights has float32, expected float64; JAX_EN"):
            checkpoint.restore(saved, 30, wide)


def test_a_checkpoint_of_another_version_is_refused_in_one_line(saved, mesh, monkeypatch):
    checkpoint.check_version(saved)
    monkeypatch.setattr(_records, "VERSION", checkpoint.VERSION + 1)
    with pytest.raises(CheckpointError, match=r"another version of dystress_jax.*new --workdir"):
        checkpoint.check_version(saved)
    checkpoint.check_version(saved / "none")


def test_many_checkpoints_leave_no_open_files_and_no_threads_behind(tmp_path):
    """Each save that nobody waits for would keep a thread and three files."""
    single = sharding.make_mesh(jax.devices()[:1])
    files = lambda: len(list(pathlib.Path("/proc/self/fd").iterdir()))
    state = jax.device_put({"weights": jnp.ones(3)}, sharding.replicated(single))
    saver, counts = Saver(tmp_path, keep=1), []
    for step in range(36):
        saver.save(step, state, {})
        counts.append((files(), threading.active_count()))
    saver.wait()
    for count in zip(*counts, strict=True):
        # A save that has not ended yet holds some for a while: the least of the last six counts.
        assert min(count[30:]) <= max(count[4:12]) + 2


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_the_fingerprint_sees_one_changed_element(dtype):
    values = jnp.zeros((7, 5), dtype)
    changed = values.at[3, 2].set(dtype(1))
    assert checkpoint.fingerprint({"a": values}) != checkpoint.fingerprint({"a": changed})


def test_the_fingerprint_sees_two_swapped_elements():
    a, b = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 1.0, 3.0])
    assert checkpoint.fingerprint(a) != checkpoint.fingerprint(b)
