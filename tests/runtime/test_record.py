"""The record of an evaluation and its episodes: what the schema says, or damaged."""

import copy
import json
from typing import Any

import numpy as np
import pytest

from metarl.rl.evaluate import RecordedRollouts
from metarl.runtime.record import EvaluationRecord
from metarl.supervised.evaluate import RecordedExamples

ROW = {"inner_steps": 0, "mean": 1.0, "ci95": 0.5, "median": None, "diverged": 0.0}
RECORD: dict[str, Any] = {
    "test": "",
    "measure": "return",
    "rows": [ROW, {**ROW, "inner_steps": 1}],
    "inner_rates": [0.1],
    "validation": [],
    "task_fields": ["x"],
    "tasks": [[0.5], [1.5]],
    "scores": [[1.0, None], [2.0, 3.0]],
    "lengths": [[5.0, 5.0], [5.0, 4.0]],
    "others": [],
    "main_test": "",
    "problem": "env",
    "protocol": {
        **{"problem": {"family": "f"}, "tasks": 2, "seed": 0, "inner_rates": [0.1]},
        "candidates": [],
    },
    "iteration": 3,
    "published": {"source": "MAML", "test": "", "scores": [None, 1.0]},
    "episodes_sha256": "",
}


def changed(path: str, value: Any) -> str:
    content = copy.deepcopy(RECORD)
    *groups, key = path.split(".")
    inner: Any = content
    for group in groups:
        inner = inner[int(group) if group.isdigit() else group]
    inner[int(key) if key.isdigit() else key] = value
    return json.dumps(content)


def test_a_record_is_read_as_it_was_written():
    record = EvaluationRecord.from_json(json.dumps(RECORD))
    assert EvaluationRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("iteration", [3]),
        ("iteration", True),
        ("rows.0.mean", [1.0]),
        ("rows.0.mean", "1.0"),
        ("rows.0.more", 1.0),
        ("more", 1),
        ("protocol.more", 1),
        ("published.more", 1),
        ("scores.0", [1.0]),
        ("scores.1.0", float("nan")),
        ("scores", [[1.0, 2.0]]),
        ("lengths", [[5.0, 5.0]]),
        ("lengths.1", [5.0, 5.0, 5.0]),
        ("success", [[1.0], [1.0]]),
        ("tasks.0", [1.0, 2.0]),
        ("task_fields.0", "x\x1b[2J"),
        ("published.source", "a\nb"),
        ("protocol.problem", {"family\x07": "f"}),
        ("measure", "x" * 3_000_000 + "\x00"),
        ("rows", "x" * 3_000_000),
    ],
)
def test_whatever_differs_from_the_schema_is_damage_in_one_short_line(path: str, value: Any):
    with pytest.raises(ValueError, match=r"not the record|should|different") as error:
        EvaluationRecord.from_json(changed(path, value))
    assert len(str(error.value)) < 500


def test_recorded_episodes_have_the_shapes_of_their_evaluation():
    qpos, rewards = np.zeros((2, 1, 2, 4, 3), np.float32), np.zeros((2, 1, 2, 3), np.float32)
    lengths = np.full((2, 1, 2), 3)
    whole = RecordedRollouts(qpos, rewards, lengths)
    assert whole.fits(2, 1)
    assert not whole.fits(3, 1)
    assert not whole._replace(qpos=qpos[..., 0]).fits(2, 1)
    assert not whole._replace(rewards=rewards[..., :2]).fits(2, 1)
    assert not whole._replace(lengths=lengths + 1).fits(2, 1)
    assert not whole._replace(lengths=lengths.astype("U1")).fits(2, 1)


def test_recorded_examples_have_the_shapes_of_their_evaluation():
    points, outputs = np.zeros((2, 5, 1)), np.zeros((3, 2, 5, 1))
    whole = RecordedExamples(points, points, points, points, outputs)
    assert whole.fits(3, 2)
    assert not whole.fits(2, 2)
    assert not whole.fits(3, 1)
    assert not whole._replace(query_targets=points[:, :4]).fits(3, 2)
    assert not whole._replace(support_inputs=np.zeros((2, 4, 1))).fits(3, 2)
    assert not whole._replace(outputs=np.full((3, 2, 5, 1), "x")).fits(3, 2)
    assert not whole._replace(outputs=np.zeros(())).fits(3, 2)
