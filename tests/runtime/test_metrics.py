"""Where metrics go: each sink is read back with its own reader and compared with metrics.jsonl."""

import contextlib
import io
import json
import math
import os
import pty
import re
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from metarl.commands.main import train
from metarl.commands.training import COLUMNS
from metarl.runtime.sinks import (
    ConsoleSink,
    JsonlSink,
    LoggingConfig,
    Sinks,
    read_metrics,
)
from metarl.runtime.trackers import TensorboardSink, WandbSink


def logged(run: Path) -> list[dict[str, Any]]:
    return read_metrics(run / "metrics.jsonl")


# --- metrics.jsonl


def test_every_iteration_is_a_line_that_is_there_at_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    for iteration in range(3):
        sink.log(iteration, {"a": 0.1 + iteration, "b": 1e-30})
        assert read_metrics(path)[-1] == {"iteration": iteration, "a": 0.1 + iteration, "b": 1e-30}
    sink.close()
    assert path.read_text().count("\n") == 3


def test_numbers_that_are_not_finite_become_null(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.log(0, {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "x": 1.0})
    sink.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row == {"iteration": 0, "nan": None, "inf": None, "-inf": None, "x": 1.0}


@pytest.mark.parametrize("end", ["", '{"iteration": 3, "a": 0.', "\0\0\0", "[3]\n", "{}\n", "ä\n"])
def test_a_resumed_file_loses_what_was_cut_off_or_will_be_repeated(tmp_path: Path, end: str):
    path = tmp_path / "metrics.jsonl"
    rows = [{"iteration": i, "a": i / 3, "b": None} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes((lines + end).encode("latin-1"))
    assert read_metrics(path) == rows
    sink = JsonlSink(path, start=2)
    assert read_metrics(path) == rows[:2]
    sink.log(2, {"a": 9.0})
    sink.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        *rows[:2],
        {"iteration": 2, "a": 9.0},
    ]


@pytest.mark.parametrize("fails", ["write_atomically", "FileIO"])
def test_rows_wait_for_room_on_the_disk_after_a_resume_too(
    tmp_path: Path, monkeypatch, capsys, fails: str
):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"iteration": 1}\n{"iteration": 2}\n')

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"metarl.runtime.sinks.{fails}", full)
        sink = JsonlSink(path, start=2)
        sink.log(2, {"a": 1.0})
    sink.log(3, {"a": 2.0})
    sink.close()
    assert [row["iteration"] for row in read_metrics(path)] == [0, 1, 2, 3]
    assert capsys.readouterr().err.count("cannot be written, and is once it can: No space") == 1


# --- several sinks


class Broken:
    """A sink that fails when it is used, or when it is opened or closed."""

    def __init__(self, at: str):
        self.at, self.calls = at, 0
        self._fail("open")

    def log(self, iteration: int, metrics: object) -> None:
        self.calls += 1
        self._fail("log")

    def show(self, iteration: int, media: object) -> None:
        self._fail("show")

    def close(self) -> None:
        self._fail("close")

    def _fail(self, moment: str) -> None:
        if moment == self.at:
            raise OSError(f"no\nspace at {moment}")


@pytest.mark.parametrize("moment", ["open", "log", "close"])
def test_a_failing_sink_warns_once_and_the_others_go_on(tmp_path: Path, moment: str, capsys):
    path = tmp_path / "metrics.jsonl"
    sinks = Sinks({"broken": lambda: Broken(moment), "jsonl": lambda: JsonlSink(path)})
    for iteration in range(3):
        sinks.log(iteration, {"a": 1.0})
    sinks.close()
    assert len(read_metrics(path)) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"metarl: warning: broken failed and is switched off: no space at {moment}\n"


def test_training_goes_on_when_metrics_cannot_be_written(toy, runs: Path, capsys):
    (runs / "run" / "metrics.jsonl").mkdir(parents=True)
    assert train(toy("run")) == 0
    out, err = capsys.readouterr()
    assert err.startswith("metarl: warning: metrics.jsonl failed and is switched off: ")
    assert "2/2" in out
    assert (runs / "run" / "checkpoints" / "iteration-000002.pt").is_file()


# --- console


def test_without_a_terminal_there_is_a_plain_line_per_iteration(toy, runs: Path, capsys):
    assert train(toy("run", "--iterations", "3")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"run folder: {runs / 'run'}"
    for iteration, (row, line) in enumerate(zip(logged(runs / "run"), lines[1:4], strict=True)):
        shown = {name: column for name, column in COLUMNS.items() if name in row}
        values = "  ".join(f"{label} {row[name]:{spec}}" for name, (label, spec) in shown.items())
        expected = rf"{iteration + 1}/3  {re.escape(values)}  left \d:\d\d:\d\d"
        assert re.fullmatch(expected, line)
    assert "\x1b" not in "".join(lines)


def test_the_time_left_is_that_of_the_latest_iterations(monkeypatch, capsys):
    """Compiling takes a minute, then every iteration 2 s, and after a while 3 s."""
    ends = [60.0, 62.0, 64.0, *(64.0 + 3 * i for i in range(1, 31))]
    clock = iter([0.0, *ends])
    monkeypatch.setattr("metarl.runtime.sinks.time", SimpleNamespace(monotonic=lambda: next(clock)))
    sink = ConsoleSink(total=47, start=4, columns={})
    for iteration in range(4, 37):
        sink.log(iteration, {})
    left = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert left[:3] == ["0:42:00", "0:01:22", "0:01:20"]
    assert left[-1] == "0:00:30"


def test_the_first_time_left_is_that_of_the_iteration_shown(monkeypatch, capsys):
    """Of 500 iterations, the first of which was compiled, the metrics are the last one's."""
    clock = iter([0.0, 60.0])
    monkeypatch.setattr("metarl.runtime.sinks.time", SimpleNamespace(monotonic=lambda: next(clock)))
    ConsoleSink(total=5000, start=0, columns={}).log(499, {"seconds/iteration": 0.002})
    assert capsys.readouterr().out.endswith("left 0:00:09\n")


def test_metrics_that_are_absent_are_left_out_and_what_is_not_a_number_is_a_dash(capsys):
    sink = ConsoleSink(total=2, start=0, columns={"a": ("A", ".1f"), "b": ("B", ".2f")})
    sink.log(0, {"b": 2.0})
    sink.log(1, {"a": math.nan, "b": 2.0})
    sink.close()
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"1/2  B 2\.00  left 0:00:00", first)
    assert re.fullmatch(r"2/2  A –  B 2\.00  left 0:00:00", second)


def test_on_a_terminal_there_is_a_progress_bar(toy, start, script, runs: Path):
    ours, theirs = pty.openpty()
    arguments = toy("run", "--iterations", "3")
    process = start(script("train"), *arguments, output=theirs, TERM="xterm", COLUMNS="80")
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait() == 0
    frames = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode()).split("\r")
    assert any("/3" in frame for frame in frames)
    assert any("3/3 left 0:00:00" in frame for frame in frames)
    row = logged(runs / "run")[-1]
    before, after = row["return/before"], row["return/after"]
    assert any(f"before {before:.1f}  after {after:.1f}  ± " in frame for frame in frames)
    assert all(len(f.strip()) <= 80 for f in frames if "left" in f or "before" in f)
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")  # the cursor is shown again


# --- Weights & Biases


def wandb_records(folder: Path) -> Iterator[Any]:
    """Records of an offline run: a log of 32 KiB blocks of (crc, length, kind, part of record)."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("run-*.wandb")
    data, position, whole = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position < len(data):
        left_in_block = 2**15 - position % 2**15
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # all of a record, or its last part
            yield Record.FromString(whole)
            whole = b""


def wandb_session(folder: Path) -> tuple[Any, dict[str, Any], list[dict[str, Any]], bool]:
    """The run, its config, its history, and whether it was closed in order.

    Its service writes in its own time: what is closed at last is waited for.
    """
    while not (session := _wandb_session(folder))[-1]:
        time.sleep(0.1)
    return session


def _wandb_session(folder: Path) -> tuple[Any, dict[str, Any], list[dict[str, Any]], bool]:
    run, config, history, closed = None, {}, [], False
    for record in wandb_records(folder):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = record.history.item
            history.append(
                {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            )
        closed |= kind == "exit"
    return run, config, history, closed


def assert_history_is_what_was_logged(history: list[dict], rows: list[dict]) -> None:
    assert len(history) == len(rows)
    for logged_by_wandb, row in zip(history, rows, strict=True):
        row = dict(row)
        assert logged_by_wandb["_step"] == row.pop("iteration")
        media = ("_", "tables/", "figures/", "videos/")
        own = {k: v for k, v in logged_by_wandb.items() if not k.startswith(media)}
        assert {k: v for k, v in own.items() if row[k] is not None} == {
            k: v for k, v in row.items() if v is not None
        }
        assert own.keys() == row.keys()


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without an account; wandb's files of runs are in ``runs/*/wandb``."""
    module = pytest.importorskip("wandb")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setattr(WandbSink, "INIT_TIMEOUT", 2.0)
    # Nothing listens there: no test talks to a server.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    yield home
    module.teardown()


def test_an_offline_run_holds_config_and_history_also_after_a_resume(
    wandb, toy, runs: Path, capsys
):
    run = runs / "run"
    assert train(toy("run", "--iterations", "3", "--logging.wandb", "auto")) == 0
    assert train(["--resume", str(run), "--iterations", "5"]) == 0
    assert capsys.readouterr().err == ""

    tracking_id = json.loads((run / "run.json").read_text())["tracking_id"]
    rows = logged(run)
    assert len(rows) == 5
    sessions = sorted((run / "wandb").glob("offline-run-*"))
    assert len(sessions) == 2
    for folder, part, iterations in zip(sessions, (rows[:3], rows[3:]), (3, 5), strict=True):
        info, config, history, closed = wandb_session(folder)
        assert (info.run_id, info.display_name, info.project) == (tracking_id, "run", "metarl")
        assert (config["env"]["family"], config["env"]["horizon"]) == ("point-navigation", 5)
        assert (config["outer"]["cg_iterations"], config["iterations"]) == (2, iterations)
        assert_history_is_what_was_logged(history, part)
        assert closed
    assert {"return/before", "return/after_ci95", "outer/kl", "seconds/update"} <= rows[0].keys()
    # All that wandb leaves elsewhere are its own debug logs, and tables it would upload.
    others = {p.parent.name for p in wandb.rglob("*") if p.is_file() and p.suffix != ".log"}
    assert others <= {"staging"}


@pytest.mark.usefixtures("one_figure")
def test_pictures_of_every_evaluation_reach_the_trackers(wandb, toy, runs: Path, capsys):
    run = runs / "run"
    arguments = ("--logging.wandb", "offline", "--logging.tensorboard", "true")
    drawing = ("--logging.report", "true", "--logging.videos", "1", "--evaluation.every", "2")
    assert train(toy("run", *arguments, *drawing, "--iterations", "3")) == 0
    assert capsys.readouterr().err == ""
    drawn = {path.stem for path in (run / "report_files").glob("*.png")}
    assert drawn == {"adaptation"}

    (folder,) = (run / "wandb").glob("offline-run-*")
    _, _, history, _ = wandb_session(folder)
    rows = logged(run)
    assert_history_is_what_was_logged(history, rows)
    figures = {f"figures/{name}/_type": "image-file" for name in drawn}
    expected = {
        **figures,
        "videos/task-1/_type": "video-file",
        "tables/returns/_type": "table-file",
    }
    for row in history:
        media = {k: v for k, v in row.items() if k in expected}
        assert media == (expected if row["_step"] in (1, 2) else {})
    (kept,) = {row["tables/returns/nrows"] for row in history if "tables/returns/nrows" in row}
    assert kept == 2  # before and after one inner step
    files = folder / "files"
    for row in (row for row in history if row["_step"] == 2):
        video = files / row["videos/task-1/path"]
        assert video.read_bytes() == (run / "report_files" / "task-1.mp4").read_bytes()
        table = json.loads((files / row["tables/returns/path"]).read_text())
        assert table["columns"][:3] == ["inner_steps", "mean", "ci95"]
        scores = json.loads((run / "evaluation.json").read_text())["rows"]
        assert [r[1] for r in table["data"]] == [s["mean"] for s in scores]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    images = {f"figures/{name}" for name in drawn} | {"videos/task-1"}
    assert set(events.Tags()["images"]) == images
    for name in images:
        assert [image.step for image in events.Images(name)] == [1, 2]
    animated = Image.open(io.BytesIO(events.Images("videos/task-1")[-1].encoded_image_string))
    assert (animated.format, animated.size) == ("GIF", (360, 158))
    (text,) = events.Tensors("tables/returns/text_summary")[-1].tensor_proto.string_val
    assert text.decode().splitlines()[0].startswith("inner_steps|mean|ci95")


@pytest.mark.parametrize(("begin", "resume"), [(0, None), (3, "allow")])
def test_only_a_resumed_run_may_exist_already(wandb, tmp_path: Path, begin: int, resume: str):
    import wandb as module

    sink = WandbSink(tmp_path, "some-id", "run", {}, LoggingConfig(wandb="offline"), begin)
    assert (module.run.id, module.run.settings.resume) == ("some-id", resume)
    sink.close()


def test_a_run_that_is_asked_to_stop_is_closed_in_order(wandb, befalls, runs: Path):
    run = runs / "run"

    def events():
        while not (run / "metrics.jsonl").exists() or len(logged(run)) < 2:
            yield
        os.kill(os.getpid(), signal.SIGINT)

    assert train([*befalls(events), "--logging.wandb", "offline"]) == 0
    (folder,) = (run / "wandb").glob("offline-run-*")
    _, _, history, closed = wandb_session(folder)
    assert_history_is_what_was_logged(history, logged(run))
    assert closed


@pytest.mark.parametrize("key", [None, "0" * 40])
def test_without_key_or_network_an_online_run_becomes_an_offline_run(
    wandb, toy, runs: Path, monkeypatch, capsys, key: str | None
):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert train(toy("run", "--logging.wandb", "online")) == 0
    warnings = [w for w in capsys.readouterr().err.splitlines() if w.startswith("metarl: ")]
    assert len(warnings) == 1
    assert "wandb cannot go online, so this run is logged offline: " in warnings[0]
    (folder,) = (runs / "run" / "wandb").glob("offline-run-*")
    assert_history_is_what_was_logged(wandb_session(folder)[2], logged(runs / "run"))


@pytest.mark.parametrize(
    ("choice", "environment", "netrc", "mode"),
    [
        ("auto", {}, "", "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "", None),
        ("auto", {"WANDB_API_KEY": ""}, "", "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "", None),
        ("auto", {}, "machine 127.0.0.1:9 login user password k", None),
        ("auto", {}, "machine example.org login user password k", "offline"),
        ("auto", {}, "nonsense", "offline"),
        ("online", {}, "", "online"),
        ("offline", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, "", "offline"),
    ],
)
def test_the_mode_is_what_was_asked_for_else_what_the_account_allows(
    wandb: Path, monkeypatch, choice: str, environment: dict, netrc: str, mode: str | None
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (wandb / ".netrc").write_text(netrc)
    (wandb / ".netrc").chmod(0o600)
    assert WandbSink._mode(choice) == mode


def test_wandb_mode_of_the_environment_is_obeyed(wandb, toy, runs: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert train(toy("run", "--logging.wandb", "auto")) == 0
    assert capsys.readouterr().err == ""
    assert not list(runs.rglob("*.wandb"))


# --- TensorBoard


def test_tensorboard_gets_every_metric_also_after_a_resume(toy, runs: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = runs / "run"
    assert train(toy("run", "--logging.tensorboard", "true")) == 0
    assert train(["--resume", str(run), "--iterations", "4"]) == 0
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    rows = logged(run)
    assert len(rows) == 4
    assert set(events.Tags()["scalars"]) == rows[0].keys() - {"iteration"}
    for name in events.Tags()["scalars"]:
        scalars = events.Scalars(name)
        assert [s.step for s in scalars] == [0, 1, 2, 3]
        expected = [math.nan if row[name] is None else row[name] for row in rows]
        assert [s.value for s in scalars] == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_tensorboard_forgets_what_a_resume_repeats(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, values in ((0, [1.0, 2.0, 3.0]), (1, [20.0])):
        sink = TensorboardSink(tmp_path, start)
        for iteration, value in enumerate(values, start):
            sink.log(iteration, {"a": value})
        sink.close()
    scalars = EventAccumulator(str(tmp_path)).Reload().Scalars("a")
    assert [(s.step, s.value) for s in scalars] == [(0, 1.0), (1, 20.0)]


def test_tensorboard_is_an_extra(toy, runs: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if not installed
    assert train(toy("run", "--logging.tensorboard", "true")) == 0
    assert capsys.readouterr().err.startswith("metarl: warning: tensorboard failed and is switched")
    assert len(logged(runs / "run")) == 2
