"""The benchmark runs; what it measures is never asserted."""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)


def test_every_number_is_measured_as_often_as_asked(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    result = run("--cases", "point-navigation", "--repeats", "1", "--json", str(output))
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report == json.loads(output.read_text())
    (case,) = report["cases"]
    assert case["peak memory, MB"] > 100
    assert all(len(v) == 1 and v[0] > 0 for v in case["numbers"].values())
    for name in ("sampler, env steps/s", "TRPO update, GFLOP/s", "iteration, s"):
        assert name in case["numbers"]
        assert name in result.stdout


def test_a_supervised_case_is_measured_eager_and_compiled(tmp_path: Path) -> None:
    result = run("--cases", "sinusoid", "--repeats", "1", "--seconds", "0.1")
    assert result.returncode == 0, result.stderr
    (case,) = json.loads(result.stdout.splitlines()[-1])["cases"]
    for name in ("eager, iterations/s", "compiled, iterations/s", "eager, tasks/s"):
        assert len(case["numbers"][name]) == 1
        assert case["numbers"][name][0] > 0
    assert "MFLOP a task" in case["case"]


def test_bad_arguments_are_one_line_before_any_work(tmp_path: Path) -> None:
    for arguments in (["--repeats", "0"], ["--threads", "-1"], ["--json", "/proc/none/x.json"]):
        result = run(*arguments)
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1].startswith("benchmark.py: error:")


# --- scaling


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_model_of_more_processes_by_hand() -> None:
    """2 s a task + 1 s; 10 us + 1 GB/s; two messages of a megabyte and an empty one."""
    parts = {"sampling": 1.5, "adaptation": 0.0, "update": 0.5}
    alone = {
        str(m): {part: [slope * m + (part == "update")] for part, slope in parts.items()}
        for m in (2, 4, 8)
    }
    sums = {str(size): 2 * 1e-5 + 8 * size / 1e9 for size in (1, 1000, 100_000)}
    measured = {"alone": alone, "sums": sums, "messages": [10**6, 10**6, 0]}
    measured["together"] = {"iteration": [18.0]}
    settings = {"measured_tasks": 16, "tasks": 64, "latency": None, "bandwidth": None}
    report = load("scaling").predict(measured, argparse.Namespace(**settings))
    two = 2 * (3e-5 + 1e6 / 1e9)  # passed on once in either direction, in halves
    assert report["check"]["predicted"] == pytest.approx(2 * 8 + 1 + two, rel=1e-6)
    assert report["check"]["error"] == pytest.approx((17 + two) / 18 - 1, rel=1e-6)
    rows = {row["ranks"]: row for row in report["rows"]}
    assert list(rows) == [1, 2, 4, 8, 16, 32, 64]
    eight = 2 * 8 + 1 + 2 * 7 * (3e-5 + 2e6 / 8e9)
    assert rows[8]["seconds"] == pytest.approx(eight, rel=1e-6)
    assert rows[8]["speed-up"] == pytest.approx(129 / eight, rel=1e-6)
    # 9 s with 16 processes, 5 with 32, 3 with 64: 5 / 3 is more than 1.5.
    assert report["pays up to"] == 64
    slow = {**settings, "latency": 0.1}
    report = load("scaling").predict(measured, argparse.Namespace(**slow))
    # 17 + 2 * 7 * .3 = 21.2 s with 8 and 9 + 2 * 15 * .3 = 18 s with 16
    assert report["pays up to"] == 8


def test_a_small_model_is_measured_and_shown() -> None:
    small = ("--family", "point-navigation", "--measured-tasks", "8", "--trajectories", "2")
    result = run("--scaling", *small, "--repeats", "1", "--tasks", "20")
    assert result.returncode == 0, result.stderr
    assert re.search(r"2 processes: predicted \S+ s, measured \S+ s \([+-]\d+%\)", result.stdout)
    assert "20 tasks an iteration" in result.stdout
