import concurrent.futures
import errno
import json
import math
import os
import secrets
import time

import jax
import jax.numpy as jnp
import pytest
import tqdm

from dystress_jax.files import FileError, write_json
from dystress_jax.training import log as log_module
from dystress_jax.training.log import DivergedError, Log

FINITE = {"gradient_norm": jnp.float32(1.0), "parameter_norm": jnp.float32(1.0)}


def run_steps(workdir, first, last, *, log_every=1, losses=None, knn_at=(), show=()):
    log = Log(workdir, first_step=first, total_steps=10, log_every=log_every, batch_size=4)
    try:
        for step in range(first + 1, last + 1):
            loss = (losses or {}).get(step, 1.0 / step)
            log.step(step, {"loss": jnp.float32(loss), **FINITE})
            if step in knn_at:
                log.add(show=show, knn=0.5)
        log.flush()
    finally:
        log.close()


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_every_logged_step_has_one_line(tmp_path):
    run_steps(tmp_path, 0, 7, log_every=3)
    assert [line["step"] for line in lines(tmp_path)] == [3, 6]
    assert lines(tmp_path)[0]["loss"] == pytest.approx(1 / 3)


def test_a_number_that_json_does_not_have_is_null(tmp_path):
    log = Log(tmp_path, first_step=0, total_steps=1, log_every=1, batch_size=4)
    log.step(1, {"loss": jnp.float32(1.0), **FINITE, "negative_similarity": jnp.float32(jnp.nan)})
    log.flush()
    log.close()
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    refuse = lambda name: pytest.fail(name)
    assert json.loads(line, parse_constant=refuse)["negative_similarity"] is None


def test_the_last_step_has_a_line_whatever_the_interval(tmp_path):
    run_steps(tmp_path, 0, 10, log_every=4)
    assert [line["step"] for line in lines(tmp_path)] == [4, 8, 10]


def test_an_evaluation_has_a_line_whatever_the_interval(tmp_path):
    run_steps(tmp_path, 0, 7, log_every=3, knn_at=(5,))
    assert [(line["step"], line.get("knn")) for line in lines(tmp_path)] == [
        (3, None),
        (5, 0.5),
        (6, None),
    ]


def test_a_restarted_run_writes_lost_steps_again_and_keeps_the_others(tmp_path):
    run_steps(tmp_path, 0, 6)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # the kill came in the middle of a line
    run_steps(tmp_path, 4, 8, losses={5: 50.0})
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))
    assert lines(tmp_path)[4]["loss"] == 50.0


@pytest.fixture
def bars(monkeypatch):
    """The progress bars that a log shows."""
    shown = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, **how):
            super().__init__(*args, **how)
            shown.append(self)

    monkeypatch.setattr(log_module.tqdm, "tqdm", Bar)
    return shown


def test_what_remains_says_nothing_of_the_step_that_compiles(tmp_path, bars):
    log = Log(tmp_path, first_step=4, total_steps=10, log_every=1, batch_size=4)
    time.sleep(1.0)  # it compiles
    for step in (5, 6, 7):
        log.step(step, {"loss": jnp.float32(1.0), **FINITE})
    log.flush()
    [bar] = bars
    assert (bar.initial, bar.n, bar.total) == (5, 7, 10)
    assert bar.format_dict["elapsed"] < 0.9
    log.close()


def test_a_number_beside_the_bar_says_of_which_step_it_is(tmp_path, bars):
    run_steps(tmp_path, 0, 7, knn_at=(3,), show=("knn",))
    [bar] = bars
    assert "knn=0.500 at 3" in bar.postfix
    assert bar.n == 7


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 3, "note": "\xe2\x82\n', b"17\n", b"null\n", b"[" * 100_000 + b"\n", b"\xff\xfe\n"],
)
def test_a_damaged_line_is_told_and_left_out(tmp_path, damage, capsys):
    run_steps(tmp_path, 0, 2)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(damage)
    run_steps(tmp_path, 2, 4)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert "metrics.jsonl: left out what is no line of a log: 3" in capsys.readouterr().out


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: os.mkfifo(path)])
def test_a_log_that_is_no_file_is_told_in_one_line(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(FileError, match=r"metrics.jsonl cannot be read: it is no file"):
        run_steps(tmp_path, 0, 2)


def test_lines_that_a_full_disk_refuses_are_written_when_there_is_room(tmp_path, monkeypatch):
    said = []
    written = log_module._Lines(tmp_path / "metrics.jsonl", said.append)
    written.write("one\n")
    file, room = written._file, [2, 0, 0, 100, 100]

    class Full:
        def write(self, content):
            free = room.pop(0)
            if not free:
                raise OSError(errno.ENOSPC, "No space left on device")
            return file.write(content[:free])

        def close(self):
            file.close()

    written._file = Full()
    for line in ("two\n", "three\n", "four\n"):
        written.write(line)
    written.close()
    assert (tmp_path / "metrics.jsonl").read_text() == "one\ntwo\nthree\nfour\n"
    assert len(said) == 1
    assert "No space left on device" in said[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path, bad):
    with pytest.raises(DivergedError, match=r"loss is .* at step 5"):
        run_steps(tmp_path, 0, 7, log_every=3, losses={5: bad})
    assert [line["step"] for line in lines(tmp_path)] == [3]


@pytest.mark.parametrize("name", ["gradient_norm", "parameter_norm"])
def test_a_step_that_leaves_the_finite_numbers_stops_the_run(tmp_path, name):
    log = Log(tmp_path, first_step=0, total_steps=3, log_every=1, batch_size=4)
    log.step(1, {"loss": jnp.float32(1.0), **FINITE, name: jnp.float32(jnp.nan)})
    with pytest.raises(DivergedError, match=f"{name} is nan at step 1"):
        log.flush()
    log.close()


def test_the_speed_leaves_out_the_first_step_and_pauses(tmp_path):
    log = Log(tmp_path, first_step=0, total_steps=3, log_every=1, batch_size=4)
    finite = {"loss": jnp.float32(1.0), **FINITE}
    for step in (1, 2, 3):
        time.sleep(0.3 if step == 1 else 0.01)
        log.step(step, finite)
        with log.paused():
            time.sleep(0.3)
    log.flush()
    log.close()
    first, *rest = lines(tmp_path)
    assert "images_per_second" not in first
    assert all(line["images_per_second"] > 4 / 0.25 for line in rest)


def test_a_step_is_read_when_the_next_has_been_handed_to_the_devices(tmp_path, monkeypatch):
    read, fetch = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: read.append(int(x["loss"])) or fetch(x))
    log = Log(tmp_path, first_step=0, total_steps=3, log_every=1, batch_size=4)
    for step in (1, 2, 3):
        log.step(step, {"loss": jnp.float32(step), **FINITE})
        assert read == list(range(1, step))
    log.flush()
    assert read == [1, 2, 3]
    log.close()


def test_a_json_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_two_that_write_one_file_leave_it_whole(tmp_path):
    path, parts = tmp_path / "a.json", [str(i) * 50_000 for i in range(2)]
    write_json(path, parts[0])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = [pool.submit(write_json, path, parts[i % 2]) for i in range(100)]
        for one in done:
            assert json.loads(path.read_text()) in parts
            one.result()
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_draft_does_not_follow_a_link(tmp_path, monkeypatch):
    mine, path = tmp_path / "mine.txt", tmp_path / "a.json"
    mine.write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda _: "known")
    (tmp_path / ".known.draft").symlink_to(mine)
    with pytest.raises(FileError, match=r"cannot be written"):
        write_json(path, {"a": 0})
    assert mine.read_text() == "precious"
    monkeypatch.undo()
    write_json(path, {"a": 1})
    assert mine.read_text() == "precious"
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.glob("*.draft")) == []


def test_what_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(FileError, match=r"a\.json cannot be written: Is a directory"):
        write_json(tmp_path / "a.json", {})
