"""Few-shot tasks of labelled images."""

import numpy as np
import pytest
import torch

from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose
from metarl.supervised.fewshot import FewShot
from metarl.supervised.labelled import LabelledTensors
from metarl.supervised.task_data import TaskRequest

TRAIN = TaskRequest(seed=0, purpose=Purpose.TRAIN_TASKS, iteration=3, tasks=50, shots=2, queries=3)
TEST = TRAIN._replace(purpose=Purpose.EVALUATION_TASKS)


def examples(classes: int, each: int, start: int) -> LabelledTensors:
    """Images of one pixel, which says class and number: start + 10 * class + number."""
    labels = torch.arange(classes).repeat(each)
    number = torch.arange(each).repeat_interleave(classes)
    pixels = (start + 10 * labels + number).to(torch.uint8)[:, None, None, None]
    return LabelledTensors(pixels, labels, tuple(f"class {c}" for c in range(classes)))


@pytest.fixture
def source() -> FewShot:
    splits = {"train": examples(8, 6, 0), "test": examples(7, 6, 100)}
    return FewShot(splits, ways=4)


@pytest.mark.parametrize(("what", "start"), [(TRAIN, 0), (TEST, 100)])
def test_an_episode_has_its_classes_and_no_image_twice(
    source: FewShot, what: TaskRequest, start: int
):
    tasks, episode = source.draw(what)
    assert tasks.shape == (50, 4)
    assert source.input_shape == (1, 1, 1)
    seen = []
    for batch, each in zip(episode, (2, 3), strict=True):
        assert batch.inputs.shape == (50, 4 * each, 1, 1, 1)
        assert batch.inputs.dtype == torch.float32
        code = (batch.inputs.flatten(1) * 255).round().numpy() - start
        classes = np.take_along_axis(tasks, batch.targets.numpy(), axis=1)
        np.testing.assert_array_equal(code // 10, classes)
        for n in range(4):
            assert (batch.targets == n).sum(1).tolist() == [each] * 50
        seen.append(code)
    for of_task in np.concatenate(seen, axis=1):
        assert len(set(of_task)) == 4 * 5


def test_every_class_gets_every_number(source: FewShot):
    tasks, _ = source.draw(TRAIN._replace(tasks=400))
    counts = [[(tasks[:, n] == c).sum() for n in range(4)] for c in range(8)]
    assert np.min(counts) > 25
    assert all(len(set(row)) == 4 for row in tasks)


def test_a_task_depends_on_seed_iteration_and_its_number_only(source: FewShot):
    tasks, episode = source.draw(TRAIN)
    fewer, part = source.draw(TRAIN._replace(tasks=20))
    np.testing.assert_array_equal(fewer, tasks[:20])
    assert torch.equal(part.query.inputs, episode.query.inputs[:20])
    for other in (TRAIN._replace(seed=1), TRAIN._replace(iteration=4)):
        assert (source.draw(other).tasks != tasks).any()


def test_floating_point_inputs_of_any_shape_stay_as_they_are():
    x = torch.randn(12, 5)
    found = LabelledTensors(x, torch.arange(3).repeat(4), ("a", "b", "c"))
    source = FewShot({"train": found}, ways=2)
    _, episode = source.draw(TRAIN._replace(tasks=1, shots=1, queries=1))
    assert all(any(torch.equal(row, y) for y in x) for row in episode.support.inputs[0])


@pytest.mark.parametrize(
    ("ways", "what", "message"),
    [
        (8, TEST, "data.ways is 8, more than the 7 classes of the test split"),
        (
            4,
            TEST._replace(queries=5),
            "more than the 6 examples of class class 0 in the test split",
        ),
        (4, TEST._replace(purpose=Purpose.VALIDATION_TASKS), "there are no validation examples"),
    ],
)
def test_tasks_that_cannot_be_drawn_are_refused(
    source: FewShot, ways: int, what: TaskRequest, message: str
):
    other = FewShot(source.splits, ways=ways)
    with pytest.raises(UserError, match=message):
        other.require(what)
    source.require(TEST)
