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
import time
from pathlib import Path
from typing import Any

from metarl.metrics import read_metrics
from metarl.run import RunFolder

TRAIN = [sys.executable, str(Path(__file__).parent / "train.py")]
SETTINGS = ["--config", "smoke", "--inner.algorithm", "meta-sgd", "--evaluation.every", "50"]
SETTINGS += ["--checkpoint.every", "3"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("settings", nargs="*", help=f"default: {' '.join(SETTINGS)}")
    args = parser.parse_args()
    settings = [*(args.settings or SETTINGS), "--logging.report", "false"]
    settings += ["--iterations", str(args.iterations)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = timed_training([*settings, "--folder", name, "--name", "whole"])
        start_up = timed_training([*settings, "--folder", name, "--iterations", "0"])
        # Most sessions are killed while they train, some before, and all together do the whole run.
        longest = start_up + 4 * (whole - start_up) / args.kills
        rng = random.Random(args.seed)
        done = 0
        for kill in range(args.kills):
            start = time.monotonic()
            killed = train_and_kill(settings, folder / "killed", rng.uniform(0, longest))
            rows = iterations(folder / "killed")
            moment = f"after {time.monotonic() - start:.2f} s"
            print(f"{kill + 1}: {'killed' if killed else 'ended'} {moment}, {rows} iterations")
            if rows < done - 3:
                print(f"it had {done} iterations before", file=sys.stderr)
                return 1
            done = rows
        timed_training(resume_or_start(settings, folder / "killed"))
        found, expected = (outcome(folder / run) for run in ("killed", "whole"))
        differing = [key for key in expected if found[key] != expected[key]]
        print(f"differing: {', '.join(differing)}" if differing else "the same, bit for bit")
    return int(bool(differing))


def timed_training(arguments: list[str]) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    subprocess.run([*TRAIN, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def resume_or_start(settings: list[str], run: Path) -> list[str]:
    if (run / "config.yaml").is_file():
        return ["--resume", str(run)]
    return [*settings, "--folder", str(run.parent), "--name", run.name]


def train_and_kill(settings: list[str], run: Path, seconds: float) -> bool:
    """Whether it was still running; ``seconds`` are those since it was started."""
    process = subprocess.Popen(
        [*TRAIN, *resume_or_start(settings, run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        raise SystemExit(f"a resumed run failed:\n{err}")
    return False


def iterations(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(read_metrics(file)) if file.is_file() else 0


def outcome(run: Path) -> dict[str, Any]:
    """Everything but clocks."""
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
