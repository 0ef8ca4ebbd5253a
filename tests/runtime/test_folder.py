"""The records in a run's folder."""

from pathlib import Path

from metarl.runtime.folder import RunFolder
from metarl.runtime.record import SplitRecord


def test_a_record_of_data_that_is_a_link_is_none(workplace: Path):
    run = RunFolder.create(Path("run"), "iterations: 1\n", {})
    data = {split: SplitRecord({"a": 1}, "0") for split in ("train", "test")}
    run.write_data(data)
    assert run.load_data() == data
    run.data_file.rename("elsewhere.json")
    run.data_file.symlink_to(Path("elsewhere.json").absolute())
    assert run.load_data() == {}
