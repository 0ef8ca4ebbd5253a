"""The benchmark runs; what it measures is never asserted."""

import json
import subprocess
import sys
from pathlib import Path

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
