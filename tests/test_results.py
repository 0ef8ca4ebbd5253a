"""The trained runs in results/: whole, small, and as good as their evaluation says."""

import json
from pathlib import Path

import numpy as np
import pytest

from metarl.commands.main import evaluate
from metarl.experiment import evaluations, kept_runs
from metarl.experiment.settings import read_config
from metarl.runtime.folder import RunFolder

RESULTS = Path(__file__).parents[1] / "results"
NAMES = sorted(path.name for path in RESULTS.glob("*") if path.is_dir())


def size(run: Path) -> int:
    of_git = ("config.yaml", "run.json", "metrics.jsonl", "evaluation.json", "checkpoints/*")
    return sum(file.stat().st_size for pattern in of_git for file in run.glob(pattern))


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_run_loads(name: str):
    run = RunFolder.open(RESULTS / name)
    (checkpoint,) = run.checkpoints().all()
    trained = evaluations.load(run, read_config(run))
    assert trained.iteration == checkpoint.iteration
    assert size(run.path) <= kept_runs.LIMIT
    assert not [word for word in run.info()["command"] if word.startswith("/")]
    assert read_config(run).folder == "results"
    assert not {"directory", "modules"} & run.info().keys()
    assert f"| `{name}` |" in (RESULTS.parent / "docs" / "results.md").read_text()


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_oracle")])
def test_a_kept_run_evaluates_to_the_printed_digits(name: str, tmp_path: Path):
    """Of those that take a second: oracles are not adapted."""
    output = tmp_path / "again.json"
    assert evaluate([str(RESULTS / name), "--output", str(output)]) == 0
    one, other = (json.loads(p.read_text()) for p in (RESULTS / name / "evaluation.json", output))
    np.testing.assert_allclose(np.array(one["scores"]), np.array(other["scores"]), rtol=1e-3)
    means = [f"{result['rows'][0]['mean']:.2f}" for result in (one, other)]
    assert means[0] == means[1]
