"""The benchmark runs; what it measures is never asserted."""

import argparse
import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import benchmark
import scaling
from benchmarks import limits, size, suites, tables
from benchmarks.cases import Settings, experiment
from benchmarks.compare import changes_between, judge, summary, table_of
from benchmarks.results import Limit, Number, Numbers, Result, read_results
from metarl.core.compile import Compiled, Traced

TOY = Settings(
    eager=True, repeats=2, seconds=0.01, threads=1, tasks=2, trajectories=3, horizon=4, width=5
)


# --- suites


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> float:
    """GFLOP/s of the machine, as it were: measuring them takes seconds."""
    monkeypatch.setattr(suites, "matrix_peak", lambda threads, device: 1e3)
    return 1e3


@pytest.mark.usefixtures("peak")
@pytest.mark.parametrize("case", ["point-navigation", "half-cheetah-velocity-port"])
@pytest.mark.parametrize("suite", ["physics", "sampler", "update", "iteration", "budget", "size"])
def test_every_number_is_measured_as_often_as_asked(suite: str, case: str) -> None:
    result = suites.run(suite, case, TOY)
    assert result.settings == (
        "M 2, N 3, T 4, 5x5 tanh, curvature of 0.1 by differences, eager, 1 threads, cpu"
    )
    memory = result.numbers.pop("peak memory, MB", Number([200.0]))
    assert memory.values[0] > 100
    assert len(result.numbers) > 1 or (suite, case) == ("physics", "point-navigation")
    for name, number in result.numbers.items():
        assert len(number.values) == TOY.repeats
        assert min(number.values) > 0
        assert len(number.limits) == (TOY.repeats if number.limit else 0)
        assert all(share > 0 for share in number.shares(name))


@pytest.mark.usefixtures("peak")
def test_physics_is_the_limit_where_there_is_any() -> None:
    limits = {
        case: {name: n.limit for name, n in suites.run("sampler", case, TOY).numbers.items()}
        for case in ("point-navigation", "half-cheetah-velocity")
    }
    sampler, evaluation = "sampler, env steps/s", "evaluation, env steps/s"
    assert limits["point-navigation"][sampler] is None
    assert limits["half-cheetah-velocity"][sampler] == "lock-step physics, env steps/s"
    assert limits["half-cheetah-velocity"][evaluation] == sampler


def test_the_arithmetic_of_an_update_by_hand(peak: float) -> None:
    """A policy of 2 -> 5 -> 5 -> 2 has 45 weights, a product and a sum of each an env step.

    The loss of the line search: the surrogate of the support data, its gradient (with respect to
    the weights 45, to both hidden layers 35) and the surrogate of the query data; of 2 tasks with 3
    trajectories of 4 env steps.
    """
    numbers = suites.run("update", "point-navigation", TOY).numbers
    flop = 2 * (45 + 45 + 35 + 45) * 2 * 3 * 4
    name = "loss of the line search"
    seconds, speed = numbers[f"{name}, s"], numbers[f"{name}, GFLOP/s"]
    for s, gflops in zip(seconds.values, speed.values, strict=True):
        assert s * gflops * 1e9 == pytest.approx(flop)
    assert seconds.limits == pytest.approx([flop / peak / 1e9] * 2)
    assert seconds.shares(f"{name}, s") == pytest.approx(speed.shares(f"{name}, GFLOP/s"))


def test_the_budget_knows_what_an_iteration_does() -> None:
    numbers = suites.run("budget", "half-cheetah-velocity", TOY).numbers
    calls = {n.removesuffix(", calls"): x.values[0] for n, x in numbers.items() if "calls" in n}
    once = ("adaptation", "surrogate gradient", "logging", "rest of the iteration")
    assert [calls[part] for part in once] == [1] * 4
    assert calls["baseline and GAE"] == calls["initial states"] == 2
    assert calls["physics"] == calls["policy forward"] == calls["observation and reward"] == 2 * 4
    assert calls["curvature products"] >= 1
    shown = text_of(tables.budget_table(Result("budget", "x", "", numbers)))
    assert all(part in shown for part in calls)


def test_algorithms_of_policies_are_measured_beside_maml(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: Path() for name in ("promp", "imaml")}
    monkeypatch.setattr(suites, "config_files", lambda folder: chosen)
    numbers = suites.run("algorithms", "point-navigation", TOY).numbers
    parts = [f"{n}, {part}, s" for n in ("maml", "promp") for part in suites.OF_AN_ITERATION]
    assert [*numbers] == ["peak memory, MB", *parts]
    for part in suites.OF_AN_ITERATION:
        number = numbers[f"promp, {part}, s"]
        assert (number.limit, len(number.limits)) == (f"maml, {part}, s", TOY.repeats)


@pytest.mark.usefixtures("peak")
def test_environments_are_measured_beside_bare_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "BareGymnasium", lambda config: lambda: 1e3)
    numbers = suites.workers(replace(experiment("cartpole-upright", TOY), workers=0), TOY)
    for kind in ("environments", "sampler"):
        number = numbers[f"{kind}, env steps/s"]
        assert number.limit == "bare gymnasium, env steps/s"
        assert len(number.values) == TOY.repeats
        assert min(number.values) > 0


def test_bare_environments_take_every_env_step() -> None:
    limits._make_environments({"family": "cartpole", "horizon": 4}, 3)
    assert limits._step_environments(0) == 12


@pytest.mark.usefixtures("peak")
def test_a_supervised_case_is_measured_compiled_and_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compiled, "_finish", Traced._finish)  # a compiler would take seconds
    numbers = suites.run("supervised", "sinusoid", TOY).numbers
    for kind in ("not compiled", "compiled"):
        for unit in ("iterations/s", "tasks/s", "GFLOP/s"):
            assert len(numbers[f"{kind}, {unit}"].values) == len(numbers[f"{kind}, {unit}"].limits)
        speeds = (numbers[f"{kind}, {unit}"].values[0] for unit in ("tasks/s", "iterations/s"))
        assert next(speeds) == pytest.approx(2 * next(speeds))


# --- tables


def text_of(table: Any) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def numbers_of(**values: list[float]) -> Numbers:
    return Numbers({f"{name}, s": Number(values) for name, values in values.items()})


def test_the_ratio_is_the_median_of_the_repeats_ratios() -> None:
    numbers = Numbers()
    for speed, limit in ((50.0, 100.0), (90.0, 300.0), (10.0, 50.0)):  # 50, 30 and 20 %
        numbers.add("work, env steps/s", speed, Limit("bound, env steps/s", limit))
    for seconds, limit in ((4.0, 1.0), (2.0, 1.0), (8.0, 1.0)):  # 25, 50 and 12.5 %
        numbers.add("work, s", seconds, Limit("bound, s", limit))
    rows = text_of(tables.table_of(Result("s", "c", "", numbers))).splitlines()
    speed, seconds = ([x.strip() for x in row.split("│")[1:-1]] for row in rows if "work" in row)
    assert speed == ["work, env steps/s", "50.00", "10.00 - 90.00", "bound 100", "30%"]
    assert seconds == ["work, s", "4.00", "2.00 - 8.00", "bound 1.00", "25%"]


def test_the_cost_of_a_unit_by_hand() -> None:
    numbers = {n: numbers_of(iteration=[s]) for n, s in ((10, 2.0), (20, 3.0), (40, 10.0))}
    for of in numbers.values():
        of.add("peak memory, MB", 321.0)
    results = {value: Result("size", "c", "", of) for value, of in numbers.items()}
    shown = text_of(size.table_of("c", "tasks", results))
    assert [re.findall(r"\d+%", row) for row in shown.splitlines() if "%" in row] == [
        ["100%"],
        ["75%"],  # 150 ms a task after 200
        ["125%"],
    ]
    shown = text_of(size.table_of("c", "threads", results))
    assert re.findall(r"\d+%", shown) == ["100%", "300%", "2000%"]


def test_what_is_varied_is_varied_alone() -> None:
    settings = Settings(threads=1, tasks=4)
    by_tasks = size.points("half-cheetah-velocity", settings, "tasks", [2, 4])
    by_width = size.points("half-cheetah-velocity", settings, "width", [50, 100])
    assert by_tasks[4] == by_width[100]
    assert by_tasks[2] == Settings(threads=1, tasks=2, trajectories=20, horizon=200, width=100)


# --- comparing


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1.0, 1.1, 1.2], [1.3, 1.4, 1.5], -1),  # 27 % more and apart
        ([1.0, 1.1, 1.2], [1.15, 1.4, 1.5], 0),  # ranges overlap
        ([1.00, 1.01, 1.02], [1.03, 1.04, 1.05], 0),  # apart, and 3 % more
        ([1.3, 1.4, 1.5], [1.0, 1.1, 1.2], 1),
        ([1.0], [1.2], -1),
        ([1.0], [1.09], 0),
    ],
)
def test_the_rule_of_noise(before: list[float], after: list[float], verdict: int) -> None:
    assert judge(before, after, less_is_better=True) == verdict
    assert judge(before, after, less_is_better=False) == -verdict


def result_of(limit: float, speed: float, seconds: float, settings: str = "M 2") -> Result:
    numbers = numbers_of(start=[seconds])
    bound = Limit("physics, env steps/s", limit)
    numbers.add(*bound)
    numbers.add("sampler, env steps/s", speed, bound)
    numbers.add("peak memory, MB", 100 * seconds)
    numbers.add("outer, calls", seconds)
    return Result("sampler", "c", settings, numbers)


def test_a_number_with_a_limit_is_judged_by_its_share() -> None:
    """The machine got half as fast, and the sampler with it, which is no fault of its."""
    changes = {c.name: c for c in changes_between([result_of(100, 80, 1)], [result_of(50, 40, 2)])}
    verdicts = {name: change.verdict for name, change in changes.items()}
    assert verdicts == {
        "start, s": "slower",
        "physics, env steps/s": "the machine",
        "sampler, env steps/s": "",
        "peak memory, MB": "more",
    }
    assert changes["sampler, env steps/s"].shares == (0.8, 0.8)
    assert changes["sampler, env steps/s"][2:4] == (80, 40)
    shown = text_of(table_of(list(changes.values())))
    assert "-50%" in shown
    assert "+100%" in shown
    assert summary(list(changes.values())) == (
        "4 numbers compared, 2 worse beyond noise: "
        "sampler: c, start, s; sampler: c, peak memory, MB"
    )


def test_the_same_speed_on_a_faster_machine_is_slower() -> None:
    (found,) = [
        change
        for change in changes_between([result_of(100, 80, 1)], [result_of(200, 80, 1)])
        if change.name == "sampler, env steps/s"
    ]
    assert (found.verdict, found.shares) == ("slower", (0.8, 0.4))


def test_other_sizes_are_not_compared() -> None:
    assert changes_between([result_of(1, 1, 1)], [result_of(1, 1, 1, "M 3")]) == []
    assert "nothing to compare" in summary([])


GOOD = {"values": [1.0], "limit": None, "limits": []}


def report_with(**number: Any) -> dict[str, Any]:
    result = {"suite": "s", "case": "c", "settings": "", "numbers": {"x, s": GOOD | number}}
    return {"results": [result]}


def test_a_good_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps(report_with(values=[1, 2.5])))
    assert read_results(file) == [Result("s", "c", "", numbers_of(x=[1.0, 2.5]))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        "[" * 100_000,
        '{"results": {}}',
        '{"results": [1]}',
        '{"results": [{"suite": "s", "case": "c", "numbers": {}}]}',
        '{"results": [{"suite": 1, "case": "c", "settings": "", "numbers": {}}]}',
        '{"results": [{"suite": "s", "case": "c", "settings": "", "numbers": []}]}',
        '{"results": [{"suite": "s", "case": "c", "settings": "", "numbers": {"a\\nb": 1}}]}',
        *(
            json.dumps(report_with(**number))
            for number in (
                {"values": []},
                {"values": 1},
                {"values": [float("nan")]},
                {"values": [float("inf")]},
                {"values": [0]},
                {"values": [True]},
                {"values": ["1"]},
                {"values": [10**400]},
                {"limit": 3},
                {"limit": "y", "limits": []},
                {"limit": "y", "limits": [0.0]},
                {"limit": None, "limits": [1.0]},
            )
        ),
    ],
)
def test_a_bad_file_is_one_line_before_any_work(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(benchmark, "measure")
    file = tmp_path / "old.json"
    file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--compare", str(file)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"benchmark.py: error: {file} is no output of --json: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--non\nsense"],
        ["--repeats", "0"],
        ["--repeats", "9" * 5000],
        ["--threads", "-1"],
        ["--seconds", "nan"],
        ["--json", "/proc/none/x.json"],
        ["--markdown", "/proc/none/x.md"],
        ["--compare", "/none.json"],
        ["--compare", "/"],
        ["update", "--profile"],
        ["update", "--vary", "tasks=3"],
        ["size", "--vary", "noise=3"],
        ["size", "--vary", "tasks="],
        ["update", "--cases", "sinusoid"],
        ["update", "scaling"],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_one_line_before_any_work(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(benchmark, "measure")
    with pytest.raises(SystemExit) as ended:
        benchmark.main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmark.py: error: ")


def test_tables_in_markdown_have_every_cell() -> None:
    numbers = numbers_of(work=[1.0, 3.0, 2.0])
    table = tables.table_of(Result("physics", "ant-direction", "M 2", numbers))
    title, blank, head, rule, row = tables.as_markdown([table]).splitlines()
    assert (title, blank) == ("**physics: ant-direction (M 2)**", "")
    assert [cell.strip() for cell in head.split("|")][2:4] == ["median", "range"]
    assert set(rule) <= set("|:- ")
    assert [cell.strip() for cell in row.split("|")][1:3] == ["work, s", "2.00"]


# --- the whole command


def test_a_case_of_its_own_process_is_measured_shown_written_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first of two; the second is measured in this process, without its imports."""
    real = subprocess.run

    def process(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if json.loads(command[-1])["suite"] == "physics":
            return real(command, **options)
        with redirect_stdout(io.StringIO()) as out:
            code = benchmark.main(command[2:])
        return subprocess.CompletedProcess(command, code, out.getvalue())

    monkeypatch.setattr(Traced, "from_call", Traced.from_call)  # a job sets it
    processes = SimpleNamespace(run=process, PIPE=subprocess.PIPE)
    monkeypatch.setattr(benchmark, "subprocess", processes)
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    toy = ("--tasks", "2", "--trajectories", "2", "--horizon", "5", "--width", "4")
    toy = (*toy, "--threads", "1", "--repeats", "1", "--cases", "half-cheetah-velocity", "--eager")
    settings = "M 2, N 2, T 5, 4x4 relu, curvature of 0.1 by differences, eager, 1 threads, cpu"
    numbers = {"environments, env steps/s": GOOD | {"values": [1e-3]}}
    result = {"suite": "physics", "case": "half-cheetah-velocity", "settings": settings}
    old.write_text(json.dumps({"results": [result | {"numbers": numbers}]}))
    page = tmp_path / "page.md"
    files = ("--compare", str(old), "--json", str(new), "--markdown", str(page))
    assert benchmark.main(["physics", "size", *toy, "--vary", "tasks=2", *files]) == 0
    shown = capfd.readouterr().out
    report = json.loads(shown.splitlines()[-1])
    assert report == json.loads(new.read_text())
    assert [(r["suite"], r["settings"]) for r in report["results"]] == [
        ("physics", settings),
        ("size", settings),
    ]
    assert "peak memory, MB" in shown
    assert "size: half-cheetah-velocity, tasks" in shown
    assert "1 numbers compared, 0 worse beyond noise" in shown
    assert read_results(new)[0].numbers["environments, env steps/s"].values[0] > 0
    titles = [line for line in page.read_text().splitlines() if line.startswith("**")]
    assert titles == [
        f"**physics: half-cheetah-velocity ({settings})**",
        "**size: half-cheetah-velocity, tasks**",
    ]


def test_a_suite_that_fails_is_said_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = numbers_of(x=[1.0])

    def process(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        job = json.loads(command[-1])
        result = {"suite": job["suite"], "case": job["case"], "settings": "", "numbers": {}}
        result["numbers"] = {name: vars(number) for name, number in numbers.items()}
        return subprocess.CompletedProcess(command, job["suite"] == "physics", json.dumps(result))

    processes = SimpleNamespace(run=process, PIPE=subprocess.PIPE)
    monkeypatch.setattr(benchmark, "subprocess", processes)
    assert benchmark.main(["physics", "update", "--cases", "ant-direction"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "benchmark.py: physics of ant-direction failed, see above\n"
    (result,) = json.loads(captured.out.splitlines()[-1])["results"]
    assert result["suite"] == "update"


# --- scaling


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
    report = scaling.predict(measured, argparse.Namespace(**settings))
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
    report = scaling.predict(measured, argparse.Namespace(**slow))
    # 17 + 2 * 7 * .3 = 21.2 s with 8 and 9 + 2 * 15 * .3 = 18 s with 16
    assert report["pays up to"] == 8


def test_scaling_is_a_script_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def process(command: list[Any], check: bool) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(run=process))
    assert benchmark.main(["scaling", "--tasks", "20"]) == 3
    assert started == [[sys.executable, Path(scaling.__file__), "--tasks", "20"]]


def test_a_small_model_is_measured_and_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], start_torchrun
) -> None:
    small = ("--family", "point-navigation", "--measured-tasks", "8", "--trajectories", "2")
    words = ["scaling.py", *small, "--repeats", "1", "--tasks", "20"]
    monkeypatch.setattr(sys, "argv", words)

    def process(command: list[str], **_: Any) -> None:
        assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
        launched = start_torchrun(*command[3:])
        said = launched.communicate()
        assert launched.returncode == 0, said

    monkeypatch.setattr(scaling, "subprocess", SimpleNamespace(run=process))
    assert scaling.main() == 0
    shown = capfd.readouterr().out
    assert re.search(r"2 processes: predicted \S+ s, measured \S+ s \([+-]\d+%\)", shown)
    assert "20 tasks an iteration" in shown
    assert re.search(r"peak memory of a process: \d{3,} MB", shown)
