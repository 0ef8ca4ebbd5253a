"""What the terminal gets: one line for every end, and nothing that controls it."""

import builtins
import io
import sys
from pathlib import Path

import pytest

from metarl.__main__ import main
from metarl.commands.command import command
from metarl.commands.training import COLUMNS, Training
from metarl.core.processes import ALONE
from metarl.experiment.schema import RLExperiment
from metarl.runtime.console import complain, prepare, printable
from metarl.runtime.errors import UserError, described, warn
from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import ConsoleSink

FULL = "/dev/full"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch):
    """``full(name)``: a stream becomes a log on a full disk; returned: how to give it room."""

    def fill(name: str) -> io.TextIOWrapper:
        stream = open(FULL, "w", encoding="utf-8")  # noqa: SIM115
        monkeypatch.setattr(sys, name, stream)
        return stream

    return fill


def test_a_warning_never_raises(full, monkeypatch):
    full("stderr")
    warn("the disk is full")
    monkeypatch.setattr(sys, "stderr", None)
    warn("nobody listens")


def test_a_console_that_failed_tries_again(capsys, monkeypatch):
    sink = ConsoleSink(4, 0, COLUMNS)
    real, failures = builtins.print, iter([True, True])

    def fail(*values: object, **options: object) -> None:
        if options.get("file") is None and next(failures, False):
            raise OSError(28, "No space left on device")
        real(*values, **options)

    monkeypatch.setattr(builtins, "print", fail)
    for iteration in range(4):
        sink.log(iteration, {"loss/after": 1.0})
    out, err = capsys.readouterr()
    assert [line.partition(" ")[0] for line in out.splitlines()] == ["3/4", "4/4"]
    assert err.count("standard output cannot be written, and is once it can: No space left") == 1


@pytest.mark.parametrize("words", [["--help"], ["list", "algorithms"], ["train", "--print_config"]])
def test_results_that_cannot_be_printed_are_one_line_and_a_failure(full, capsys, words: list[str]):
    stream = full("stdout")
    assert main(words) == 1
    assert capsys.readouterr().err.count("\n") == 1
    stream.close()  # nothing waits that could not be written


def test_control_characters_do_not_reach_the_terminal(capsys):
    hostile = "a\x1b[2J\x07\u202eb\nc"
    assert printable(hostile) == "a\\x1b[2J\\x07\\u202eb\\nc"
    assert printable("a ± – ö") == "a ± – ö"
    assert str(UserError(hostile)) == "a\\x1b[2J\\x07\\u202eb c"
    assert "\x1b" not in described(ValueError(hostile))
    warn(hostile)
    complain(hostile)
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.count("\n") == 2


def test_a_console_of_ascii_gets_ascii(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    prepare()
    print("1 ± 2 – α ─ 漢")
    sys.stdout.flush()
    assert buffer.getvalue() == b"1 +- 2 - alpha - ?\n"


@pytest.mark.parametrize("library", ["nonsense", "egl"])
def test_a_library_to_draw_with_that_cannot_work_is_one_line(refused, monkeypatch, library: str):
    monkeypatch.setenv("MUJOCO_GL", library)
    imported = builtins.__import__

    def fail(name: str, *arguments: object) -> object:
        if name == "mujoco":
            raise RuntimeError("invalid value for\nenvironment variable")
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", fail)
    said = refused(main, "--help")
    assert f"MUJOCO_GL={library} does not work here (invalid value for environment" in said


def test_ctrl_c_while_it_imports_is_one_line(monkeypatch, capsys):
    imported = builtins.__import__

    def interrupt(name: str, *arguments: object) -> object:
        if name == "metarl.commands":
            raise KeyboardInterrupt
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", interrupt)
    assert main(["--help"]) == 130
    assert capsys.readouterr() == ("", "metarl: interrupted\n")


def test_what_the_disk_does_to_a_command_is_one_line(capsys):
    @command()
    def write(argv):
        """Write."""
        raise OSError(28, "No space left on device", "x")

    assert write([]) == 1
    assert capsys.readouterr().err == (
        "metarl write: error: OSError: [Errno 28] No space left on device: 'x'\n"
    )


@pytest.mark.parametrize(("was", "said"), [(True, "began compiled and goes on"), (False, "")])
def test_going_on_without_the_compiler_says_that_rounding_differs(
    tmp_path: Path, capsys, was: bool, said: str
):
    training = Training(RLExperiment(compile=False), RunFolder(tmp_path), None, ALONE)
    training._warn_of_rounding(was)
    err = capsys.readouterr().err
    assert said in err
    assert bool(err) == was
