"""Kill a run at random moments, resume it every time, and compare it with one that was left alone.

    python scripts/kill_and_resume.py --kills 100 [--seed 0] [-- settings of metarl train]

Exit code 0 when both end with the same parameters, metrics and evaluation, bit for bit.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import read_metrics

TRAIN = [sys.executable, str(Path(__file__).parent / "train.py")]
SETTINGS = ["--config", "smoke", "--inner.algorithm", "meta-sgd", "--evaluation.every", "50"]
SETTINGS += ["--checkpoint.every", "3"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--longest", type=float, default=8.0, help="seconds of a session")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("settings", nargs="*", help=f"default: {' '.join(SETTINGS)}")
    args = parser.parse_args()
    settings = [*(args.settings or SETTINGS), "--logging.report", "false"]
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        victim, whole = Path(name, "killed"), Path(name, "whole")
        for number in range(1, args.kills + 1):
            seconds = rng.uniform(0, args.longest)
            train_and_kill([*start(settings, victim), "--iterations", str(10**6)], seconds)
            print(f"kill {number}, after {seconds:.2f} s: {iterations(victim)} iterations")
        if not iterations(victim):
            print("no session was longer than it takes to start; see --longest", file=sys.stderr)
            return 1
        last = ["--iterations", str(iterations(victim) + 5)]
        train([*start(settings, victim), *last])
        train([*start(settings, whole), *last])
        result, reference = outcome(victim), outcome(whole)
    differing = [key for key in reference if result[key] != reference[key]]
    print(f"differing: {', '.join(differing)}" if differing else "the same, bit for bit")
    return int(bool(differing))


def start(settings: list[str], run: Path) -> list[str]:
    """The command that begins a run, or goes on with it."""
    if (run / "config.yaml").is_file():
        return [*TRAIN, "--resume", str(run)]
    return [*TRAIN, *settings, "--folder", str(run.parent), "--name", run.name]


def train(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def train_and_kill(command: list[str], seconds: float) -> None:
    """Start training, and kill it ``seconds`` later."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"it ended by itself: {' '.join(command)}")


def iterations(run: Path) -> int:
    """Return the number of iterations that are logged or in a checkpoint."""
    file = run / "metrics.jsonl"
    logged = [row["iteration"] + 1 for row in read_metrics(file)] if file.is_file() else []
    saved = [checkpoint.iteration for checkpoint in RunFolder(run).checkpoints().all()]
    return max([0, *logged, *saved])


def outcome(run: Path) -> dict[str, Any]:
    """Return the results of a run, without its clocks."""
    checkpoint, _ = RunFolder.open(run).checkpoints().load()
    rows = [
        {k: v for k, v in row.items() if not k.startswith(("seconds/", "env_steps_per"))}
        for row in read_metrics(run / "metrics.jsonl")
    ]
    evaluation = json.loads((run / "evaluation.json").read_text())
    return {
        "iterations": checkpoint.iteration,
        "parameters": hashlib.sha256(checkpoint.path.read_bytes()).hexdigest(),
        "metrics": rows,
        "evaluation": evaluation,
    }


if __name__ == "__main__":
    sys.exit(main())
