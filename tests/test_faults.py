"""What goes wrong around a run: directories, disks, signals, processes; told, and nothing lost."""

import concurrent.futures
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import time
import types

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from dystress_jax import run
from dystress_jax.files import FileError
from dystress_jax.run import ConfigError, _environment, _train, _workdir, summary
from dystress_jax.training import checkpoint, processes
from dystress_jax.training.checkpoint import CheckpointError, _records, _restore
from dystress_jax.training.interrupt import StopRequest
from dystress_jax.training.processes import OtherProcessError
from tests.processes import (
    ROOT,
    command,
    curve,
    finish,
    free_address,
    join,
    lines,
    start,
    wait_for_step,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quick_processes"),
    # Orbax leaves a coroutine behind when what it writes fails.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    np.savez(path, train_images=pixels)
    return path


def settings(images, **fields):
    return {
        "data__source": "npz",
        "data__path": str(images),
        "data__holdout": 0.0,
        "batch_size": 8,
        "steps": 3,
        "log_every": 1,
        "checkpoint_every": 1,
        "knn_every": 0,
        "projector__out": 8,
        **fields,
    }


def train(workdir, images, **fields):
    changes = {name.replace("__", "."): v for name, v in settings(images, **fields).items()}
    return run.train(run.override(run.defaults(), changes), workdir)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images):
    workdir = tmp_path_factory.mktemp("finished")
    train(workdir, images)
    return workdir


def copied(finished, tmp_path):
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.ci
def test_a_finished_run_that_is_made_longer_is_not_complete(
    finished, tmp_path, images, monkeypatch, capsys
):
    workdir = copied(finished, tmp_path)
    before = (workdir / "summary.json").read_text()

    def interrupted(*_):
        raise KeyboardInterrupt

    train_steps = _train._train_steps
    monkeypatch.setattr(_train, "_train_steps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(workdir, images)
    assert (workdir / "summary.json").read_text() == before
    assert "last digits" not in capsys.readouterr().out
    monkeypatch.setattr(_train, "keeps_bits", lambda: False)  # as on a GPU
    with pytest.raises(KeyboardInterrupt):
        train(workdir, images, steps=5)
    assert (workdir / "summary.json").read_text() == before  # no step was done
    assert "the last digits can differ from a run without the break" in capsys.readouterr().out
    monkeypatch.setattr(_train, "_train_steps", train_steps)
    monkeypatch.setattr(_train, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(workdir, images, steps=5)
    assert not (workdir / "summary.json").exists()
    assert (workdir / "summary_3.json").read_text() == before


@pytest.mark.parametrize(
    ("platform", "flags", "keeps"),
    [
        ("cpu", None, True),
        ("tpu", "", True),
        ("gpu", None, False),
        ("gpu", "--xla_dump_to=d --xla_gpu_deterministic_ops=true", True),
        ("gpu", "--xla_gpu_deterministic_ops --xla_dump_to=d", True),
        ("gpu", "--xla_gpu_deterministic_ops=true --xla_gpu_deterministic_ops=false", False),
        ("gpu", "--xla_gpu_deterministic_ops_of_another_name=true", False),
    ],
)
def test_who_keeps_the_bits_of_a_step(monkeypatch, platform, flags, keeps):
    device = types.SimpleNamespace(platform=platform)
    monkeypatch.setattr(_environment.jax, "devices", lambda: [device])
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if flags is not None:
        monkeypatch.setenv("XLA_FLAGS", flags)
    assert _environment.keeps_bits() is keeps


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("checkpoints", "checkpoints cannot be read: Not a directory"),
        (".lock", ".lock cannot be written"),
        ("metrics.jsonl", "metrics.jsonl cannot be read: it is no file"),
        ("config.json", "config.json cannot be written: Is a directory"),
        ("skipped.txt", "skipped.txt cannot be deleted: Is a directory"),
    ],
)
def test_a_file_of_the_wrong_kind_is_told_before_the_first_step(tmp_path, images, name, said):
    if name == "checkpoints":
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises((ConfigError, FileError), match=re.escape(said)):
        train(tmp_path, images)


@pytest.mark.parametrize("below", ["", "run/below"])
def test_a_directory_that_is_a_file_is_told_before_the_images_are_opened(tmp_path, images, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^--workdir: .*/file is a file; allowed: a directory"):
        train(tmp_path / "file" / below, tmp_path / "no_such_images.npz")


@pytest.mark.ci
def test_settings_that_nest_too_deeply_are_told_in_one_line(finished, tmp_path, images):
    workdir = copied(finished, tmp_path)
    (workdir / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"config.json: found no settings .* nested too deeply"):
        train(workdir, images)


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_at(monkeypatch):
    """Some checkpoints for which the disk has no room."""

    def fill(*steps):
        save = ocp.save_checkpointables_async
        full_or_save = lambda path, *args, **given: (
            full() if int(pathlib.Path(path).name) in steps else save(path, *args, **given)
        )
        monkeypatch.setattr(ocp, "save_checkpointables_async", full_or_save)

    return fill


@pytest.mark.ci
def test_a_checkpoint_that_fails_does_not_end_the_run(tmp_path, images, full_at, capsys):
    full_at(2)
    train(tmp_path, images)
    assert checkpoint.steps(tmp_path / "checkpoints") == [1, 3]
    assert (tmp_path / "summary.json").exists()
    assert "checkpoint 2 cannot be written (OSError: [Errno 28] No space" in capsys.readouterr().out


@pytest.mark.ci
@pytest.mark.parametrize(("steps", "on_error"), [((3,), "continue"), ((2,), "raise")])
def test_a_run_without_its_last_checkpoint_ends_with_the_reason(
    tmp_path, images, full_at, steps, on_error
):
    full_at(*steps)
    with pytest.raises(CheckpointError, match=rf"checkpoint {steps[0]} .*No space left on device"):
        train(tmp_path, images, checkpoint_on_error=on_error)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.ci
@pytest.mark.parametrize("every", [1, pytest.param(0, marks=pytest.mark.ci)])
def test_a_directory_that_is_removed_while_the_run_goes_on_is_told(
    tmp_path, images, monkeypatch, every
):
    add = _train.Log.step

    def remove(log, step, metrics):
        add(log, step, metrics)
        if step == 2:
            while (tmp_path / "run").exists():  # a checkpoint may still be on its way into it
                shutil.rmtree(tmp_path / "run", ignore_errors=True)

    monkeypatch.setattr(_train.Log, "step", remove)
    with pytest.raises(FileError, match=r"was removed or emptied while the run was going on"):
        train(tmp_path / "run", images, checkpoint_every=every)


@pytest.mark.ci
@pytest.mark.parametrize(
    "strict", [lambda: jax.numpy_dtype_promotion("strict"), lambda: jax.transfer_guard("disallow")]
)
def test_a_run_works_in_the_strict_modes_of_jax(tmp_path, images, strict):
    with strict():
        assert train(tmp_path, images)["steps"] == 3


def test_a_platform_that_is_not_there_is_told_in_one_line(tmp_path, images, monkeypatch):
    def missing():
        raise RuntimeError("Unable to initialize backend 'cuda': no GPU.\nand more")

    monkeypatch.setattr(_environment.jax, "devices", missing)
    with pytest.raises(ConfigError, match=r"JAX_PLATFORMS: .*backend 'cuda': no GPU\. Allowed: "):
        train(tmp_path, images)


def test_processes_with_other_settings_are_refused_before_the_first_step(
    tmp_path, images, monkeypatch
):
    def another(topic, mine):
        if topic != "settings":
            return [mine]
        settings, there = json.loads(json.dumps(mine))
        settings["seed"], there["checkpoints in --workdir"] = 1, [5]
        settings["data"]["path"] = settings["init_from"] = "/another/disk"
        settings["eval_on"]["more"]["path"] = "/another/disk"
        there["config.eval_on.more"] = "other images"
        return [mine, (settings, there)]

    monkeypatch.setattr(_train, "exchange", another)
    said = (
        r"processes 0 and 1 differ: config.seed: 0 and 1; config.eval_on.more: '.*' and 'other "
        r"images'; checkpoints in --workdir: \[\] and \[5\]\. "
    )
    with pytest.raises(ConfigError, match=said):
        train(tmp_path, images, eval_on={"more": {"source": "npz", "path": str(images)}})


def test_going_on_reads_the_record_of_each_older_checkpoint_once(
    finished, tmp_path, images, monkeypatch
):
    workdir, read, seen = copied(finished, tmp_path), _records.read, []

    def counted(directory, step):
        seen.append(step)
        return read(directory, step)

    for module in (_records, _restore):
        monkeypatch.setattr(module, "read", counted)
    older, newest = checkpoint.steps(workdir / "checkpoints")
    train(workdir, images, steps=4)
    assert seen.count(older) == 1
    assert seen.count(newest) <= 3  # it says first whether the run may go on


def refused(monkeypatch, name):
    """Something that goes wrong once the directory of a run is there."""

    def refuse(*_):
        raise ConfigError("refused")

    monkeypatch.setattr(_train, name, refuse)


@pytest.mark.parametrize("late", ["_compare_processes", "_start", "open_loggers"])
def test_a_refused_start_leaves_nothing_behind(tmp_path, images, monkeypatch, late):
    refused(monkeypatch, late)
    with pytest.raises(ConfigError, match="refused"):
        train(tmp_path / "runs" / "new", images)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_start_leaves_what_was_there_before(tmp_path, images, monkeypatch):
    refused(monkeypatch, "_start")
    (tmp_path / "runs" / "new").mkdir(parents=True)
    (tmp_path / "runs" / "new" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="refused"):
        train(tmp_path / "runs" / "new", images)
    assert (tmp_path / "runs" / "new" / "notes.txt").read_text() == "mine"


def test_a_directory_that_another_run_has_taken_meanwhile_is_left_to_it(
    tmp_path, images, monkeypatch
):
    def taken(*_, **__):
        raise _workdir.filelock.Timeout(".lock")

    monkeypatch.setattr(_workdir.filelock.FileLock, "acquire", taken)
    with pytest.raises(ConfigError, match="another run is writing to"):
        train(tmp_path / "new", images)
    assert (tmp_path / "new").is_dir()


def test_where_another_process_cannot_begin_this_one_does_not(monkeypatch):
    monkeypatch.setattr(processes, "exchange", lambda topic, mine: [mine, "the data are not there"])
    with (
        pytest.raises(OtherProcessError, match="process 1 cannot begin: the data are not there"),
        processes.together("beginning"),
    ):
        pass


@pytest.fixture
def handlers():
    """Leave no handler behind."""
    before = {number: signal.getsignal(number) for number in (*signal.Signals,)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
@pytest.mark.usefixtures("handlers")
def test_a_signal_is_remembered_once_there_is_something_to_save(name):
    heard, told, number = [], [], signal.Signals[name]
    signal.signal(number, lambda *_: heard.append(name))
    with StopRequest(told.append) as stop:
        os.kill(os.getpid(), number)
        assert (heard, stop.reached(1)) == ([name], None)
        stop.listen()
        os.kill(os.getpid(), number)
        assert (heard, stop.reached(1)) == ([name], name)
        assert f"{name}: finishing the step, then saving" in told[0]
        os.kill(os.getpid(), number)  # again: Ctrl-C quits, schedulers repeat themselves
        assert len(heard) == (2 if name == "SIGINT" else 1)
    os.kill(os.getpid(), number)
    assert heard[1:]
    assert len(told) == 1


def test_a_run_in_which_nothing_moves_is_ended_by_a_signal_and_says_where_it_hangs():
    code = """
import os, signal, threading
from dystress_jax.training import interrupt
interrupt.PATIENCE = 0.5
with interrupt.StopRequest(print) as stop:
    stop.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
"""
    output = finish(start([sys.executable, "-c", code]), code=1, seconds=60)
    assert "SIGTERM: no step has ended for 0 s; ended without saving. It hangs in" in output
    assert "(wait)" in output


def test_to_measure_and_to_save_may_take_as_long_as_it_takes():
    code = """
import os, signal, threading, time
from dystress_jax.training import interrupt
interrupt.PATIENCE = 0.2
with interrupt.StopRequest(print) as stop:
    stop.listen()
    with stop.busy():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    print("measured", stop.reached(1))
with interrupt.StopRequest(print) as stop:
    stop.listen()
    with stop.busy():
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
"""
    output = finish(start([sys.executable, "-c", code]), code=1, seconds=60)
    assert "measured SIGTERM" in output
    assert output.count("no step has ended") == 1


@pytest.mark.usefixtures("handlers")
def test_a_signal_after_the_last_step_is_known_when_all_is_saved():
    with StopRequest(lambda _: None) as stop:
        stop.listen()
        assert stop.reached(1, last=True) is None
        with stop.busy():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked() == "SIGTERM"


def test_a_thread_trains_without_listening_to_signals():
    def listen():
        with StopRequest(print) as stop:
            stop.listen()
            return stop.reached(1)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert pool.submit(listen).result() is None


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_is_ignored_stays_so():
    """As SIGHUP below nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest(print) as stop:
        stop.listen()
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.reached(1) is None


def test_results_of_other_settings_and_other_checkpoints_stay(tmp_path):
    def keep(checkpoint="newest", step=10, **settings):
        numbers = {"checkpoint_step": step, "settings": settings}
        return summary.keep_result(tmp_path, "knn", checkpoint, numbers).name

    assert [keep(), keep(), keep(step=20), keep(step=20, seed=1)] == [
        "knn.json",
        "knn.json",
        "knn.json",
        "knn_seed=1.json",
    ]
    assert keep("best", **{"knn.k": 20, "data.path": "/a b/c"}).startswith(
        "knn_best_knn.k=20_data.path=a-b-c-"
    )
    assert len(keep(**{"zero_shot.prompts": "a photo " * 50})) < 40
    assert len(keep(**{"on.path": "/data/" + 84 * "照"}).encode()) < 40  # 255 bytes are the most
    steps = {
        path.name: json.loads(path.read_text())["checkpoint_step"] for path in tmp_path.iterdir()
    }
    assert (steps["knn.json"], steps["knn_10.json"], len(steps)) == (20, 10, 6)
    (tmp_path / "knn.json").write_text("half a fi")
    assert keep(step=30) == "knn.json"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("zero_shot.prompts", ["a photo of {}", "a photo of {}!", "[a photo of] {}", "", "-"]),
        ("evaluation_options.shift", [1, -1, (1, -1), 0.5]),
        ("on.path", ["/a/photos", "/b/photos", "photos"]),
    ],
)
def test_results_of_settings_that_look_alike_stay(tmp_path, field, values):
    for value in values:
        numbers = {"checkpoint_step": 10, "settings": {field: value}}
        summary.keep_result(tmp_path, "own", "newest", numbers)
    assert len(list(tmp_path.iterdir())) == len(values)


def test_a_fault_of_ours_keeps_its_traceback(tmp_path, images, monkeypatch):
    """Only what is said of the user's files is the user's."""

    def missing(*_, **__):
        return open("/nowhere/internal.txt")

    monkeypatch.setattr(_train, "make_train_step", missing)
    with pytest.raises(FileNotFoundError) as error:
        train(tmp_path, images)
    assert not isinstance(error.value, FileError)


# From here on as a person uses them.


def script(*arguments, name="train.py"):
    return [sys.executable, str(ROOT / name), *map(str, arguments)]


@pytest.mark.ci
@pytest.mark.parametrize("flag", ["--help", "-help", "--helpshort", "--helpfull"])
def test_help_is_no_error(flag):
    assert "config" in finish(start(script(flag)))


BASE = """from dystress_jax import run
def get_config():
    config = run.defaults()
    config.steps = 1
    config.batch_size = 0
    return config
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "variant.py",
            "import base\n\n\ndef get_config():\n    return base.get_config()\n",
            "config.batch_size: found 0",  # so it has been imported
        ),
        ("nothing.py", "settings = {}\n", "nothing.py has no function get_config"),
        ("typo.py", "def get_config(:\n", "typo.py, line 1: invalid syntax"),
        ("missing.py", "\nimport no_such_module\n", "missing.py, line 2: No module named"),
        ("other.py", "def get_config():\n    return [1]\n", "get_config gives a list"),
        ("config.json", '{"seed": false}\n', "config.json: config.seed: found False; allowed: a"),
        ("run.json", '{"seed": 0}\n', "run.json; allowed: a Python file"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_told_in_one_line(tmp_path, name, text, said):
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / name).write_text(text)
    output = finish(start(script(f"--config={tmp_path / name}", f"--workdir={tmp_path}")), code=1)
    assert said in output
    assert len(output.splitlines()) <= 2


@pytest.mark.ci
@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.3, 1.8])
def test_ctrl_c_while_a_run_is_being_made_ends_it_at_once(tmp_path, images, seconds):
    """During the imports, while data is opened, while it compiles."""
    fields = settings(images, steps=100_000, model__name="resnet50")
    process = start(command("train.py", tmp_path, **fields))
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    finish(process, code=-signal.SIGINT, seconds=5)
    assert checkpoint.steps(tmp_path / "checkpoints") == []


@pytest.mark.ci
def test_sigterm_before_the_first_step_does_not_wait_for_it(tmp_path, images, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    fields = settings(images, model__name="resnet101")
    process = start(command("train.py", tmp_path, **fields))
    while "steps of" not in process.stdout.readline():
        pass
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    finish(process, code=-signal.SIGTERM, seconds=3)


@pytest.mark.ci
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_what_slurm_and_closed_terminals_send_saves_and_leaves(tmp_path, images, number):
    fields = settings(images, steps=100_000, checkpoint_every=100_000)
    process = start(command("train.py", tmp_path, **fields))
    wait_for_step(process, tmp_path, 3)
    process.send_signal(number)
    assert f"{number.name}: stopped after step" in finish(process)
    assert lines(tmp_path)[-1]["step"] in checkpoint.steps(tmp_path / "checkpoints")


@pytest.mark.ci
def test_a_second_ctrl_c_leaves_at_once(tmp_path, images):
    fields = settings(images, steps=100_000, checkpoint_every=1)
    process = start(command("train.py", tmp_path, **fields))
    wait_for_step(process, tmp_path, 3)
    process.send_signal(signal.SIGSTOP)  # both are there before the step ends
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGINT)  # 0: it was quicker


@pytest.mark.ci
def test_compiled_programs_are_kept_for_the_next_run(tmp_path, images, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run_once = command("train.py", tmp_path / "none", **settings(images))
    output = finish(start([*run_once, "--nocompilation_cache"]))
    assert "compiled programs: not kept" in output
    assert not (tmp_path / "cache").exists()
    output = finish(start(command("train.py", tmp_path / "kept", **settings(images))))
    assert f"compiled programs: kept in {tmp_path / 'cache' / 'dystress_jax'}" in output
    assert list((tmp_path / "cache").rglob("jit_*"))
    finish(start(command("train.py", tmp_path / "again", **settings(images))))
    assert curve(tmp_path / "none") == curve(tmp_path / "kept") == curve(tmp_path / "again")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")  # read back, those of several could hang
    output = finish(start(command("train.py", tmp_path / "two", **settings(images))))
    assert "compiled programs: not kept (with several CPU devices" in output


@pytest.mark.ci
def test_warnings_as_errors_do_not_end_a_run(tmp_path, images, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    finish(start(command("train.py", tmp_path, **settings(images))))


@pytest.mark.ci
def test_many_checkpoints_leave_no_files_threads_or_memory_behind(tmp_path, images):
    """600 steps with a checkpoint every 4; nothing grows with their number."""
    fields = settings(images, steps=600, checkpoint_every=4)
    process = start(command("train.py", tmp_path, **fields))
    proc, seen = pathlib.Path("/proc", str(process.pid)), []
    while process.poll() is None:
        time.sleep(0.2)
        try:
            steps = (tmp_path / "metrics.jsonl").read_bytes().count(b"\n")
            status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
            files = len(list((proc / "fd").iterdir()))
            kib = int(status["VmRSS"].split()[0])
        except (OSError, KeyError):  # not begun, or over
            continue
        seen.append((steps, files, int(status["Threads"]), kib))
    finish(process)
    assert checkpoint.steps(tmp_path / "checkpoints") == [596, 600]
    early = np.array([row for row in seen if 100 <= row[0] <= 250])
    late = np.array([row for row in seen if row[0] >= 450])
    assert len(early) > 5
    assert len(late) > 5
    print("steps, files, threads, KiB at most:", early.max(axis=0), late.max(axis=0))
    _, files, threads, memory = late.max(axis=0) - early.max(axis=0)
    assert files <= 10
    assert threads <= 4
    assert memory <= 0.1 * early[:, 3].max()


@pytest.mark.ci
class TestProcesses:
    """Two processes of one run."""

    def test_one_that_is_refused_ends_the_other(self, tmp_path, images):
        address = free_address()
        arguments = [
            command("train.py", tmp_path / "run", **settings(path))
            for path in (images, "nowhere.npz")
        ]
        first, second = (
            start([*each, *join(address, number)]) for number, each in enumerate(arguments)
        )
        assert "nowhere.npz" in finish(second, code=1, seconds=60)
        assert "process 1 cannot begin: config.data.path" in finish(first, code=1, seconds=60)
        assert list(tmp_path.iterdir()) == []

    def test_each_may_have_its_weights_and_further_images_elsewhere(self, tmp_path, images):
        for seed, name in enumerate(("weights", "others")):
            train(tmp_path / name, images, seed=seed, steps=1)
        shutil.copytree(tmp_path / "weights", tmp_path / "copy")
        elsewhere = shutil.copy(images, tmp_path / "elsewhere.npz")

        def in_two(workdir, second_source, code):
            address, pair = free_address(), []
            places = (tmp_path / "weights", images), (second_source, elsewhere)
            for number, (source, file) in enumerate(places):
                more = {"source": "npz", "path": str(file)}
                fields = {f"eval_on__more__{name}": value for name, value in more.items()}
                arguments = command(
                    "train.py", workdir, **settings(file, init_from=source, **fields)
                )
                pair.append(start([*arguments, *join(address, number)]))
            return [finish(process, code=code, seconds=120) for process in pair]

        first, _ = in_two(tmp_path / "run", tmp_path / "copy", 0)
        assert "started from" in first
        for output in in_two(tmp_path / "refused", tmp_path / "others", 1):
            assert "config.init_from: processes 0 and 1 have other weights: " in output

    def test_those_whose_settings_differ_are_refused(self, tmp_path, images):
        address = free_address()
        pair = [
            start([*command("train.py", tmp_path, **settings(images, seed=n)), *join(address, n)])
            for n in range(2)
        ]
        for process in pair:
            output = finish(process, code=1, seconds=60)
            assert "processes 0 and 1 differ: config.seed: 0 and 1" in output

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
    def test_a_signal_to_one_stops_both_and_is_called_by_its_name(self, tmp_path, images, number):
        fields, address = settings(images, steps=100_000), free_address()
        pair = [
            start([*command("train.py", tmp_path, **fields), *join(address, n)]) for n in range(2)
        ]
        wait_for_step(pair[0], tmp_path, 3)
        pair[1].send_signal(number)
        finish(pair[1], seconds=60)
        assert f"{number.name}: stopped after step" in finish(pair[0], seconds=60)

    def test_a_full_disk_at_one_ends_both_with_the_reason(self, tmp_path, images):
        limited = (
            "import resource, runpy, sys; sys.argv = sys.argv[1:]; "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        address = free_address()
        fields = settings(images, steps=100_000, checkpoint_every=20)
        python, *rest = command("train.py", tmp_path, **fields)
        first = start([python, "-c", limited, *rest, *join(address, 0)])
        second = start([python, *rest, *join(address, 1)])
        assert "CheckpointError: checkpoint 20 cannot be" in finish(first, code=1, seconds=120)
        assert "ended: process 0: checkpoint 20" in finish(second, code=1, seconds=60)

    @pytest.mark.parametrize(
        ("address", "said"),
        [
            ("localhost", "found 'localhost'; allowed: HOST:PORT"),
            ("no-such-host.invalid:1234", "'no-such-host.invalid' is not known here"),
            (None, "has not answered at"),
        ],
    )
    def test_a_coordinator_that_cannot_be_reached_is_told(self, tmp_path, images, address, said):
        arguments = command("train.py", tmp_path, **settings(images))
        address = address or free_address()
        process = start([*arguments, *join(address, 1), "--join_timeout=2"])
        output = finish(process, code=1, seconds=30)
        assert said in output
        assert len(output.splitlines()) <= 2
