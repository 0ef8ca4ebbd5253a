"""Checkpoints: whole or absent, whatever happens while they are written or lie on the disk."""

import hashlib
import json
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.core.outer.adam import Adam
from metarl.core.params import like_tree, plain_tree
from metarl.runtime.checkpoint import Checkpoint, CheckpointFolder
from metarl.runtime.errors import UserError
from metarl.runtime.files import write_atomically

State = dict[str, object]


def state_after(iteration: int) -> State:
    generator = torch.Generator().manual_seed(iteration)
    return {
        "settings": {"tasks": 3, "rates": [0.1], "name": None},
        "learner": {"meta": {"w": torch.randn(64, generator=generator)}, "env_steps": iteration},
    }


def same(a: object, b: object) -> bool:
    """Equal to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """Three checkpoints, after 10, 20 and 30 iterations; the one after 10 is the best."""
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    for iteration, score in ((10, -1.0), (20, -3.0), (30, -2.0)):
        checkpoints.save(iteration, state_after(iteration), score)
    return checkpoints


def test_a_checkpoint_is_loaded_as_it_was_saved(folder: CheckpointFolder):
    for which, iteration in (("last", 30), ("best", 10), ("20", 20)):
        checkpoint, state = folder.load(which)
        assert checkpoint.iteration == iteration
        assert same(state, state_after(iteration))
    assert [c.iteration for c in folder.all()] == [30, 20, 10]
    assert sorted(p.suffix for p in folder.folder.iterdir()) == [".json"] * 3 + [".pt"] * 3


@pytest.mark.parametrize("which", ["15", "-1", "worst", ""])
def test_a_checkpoint_that_does_not_exist_is_refused(folder: CheckpointFolder, which: str):
    with pytest.raises(UserError, match=f"has no checkpoint {which}; there are: 30, 20, 10"):
        folder.load(which)


def test_an_empty_folder_has_nothing_to_load(tmp_path: Path):
    folder = CheckpointFolder(tmp_path / "never-made")
    assert folder.is_empty()
    with pytest.raises(UserError, match="there are: none"):
        folder.load()


# --- what is kept


@pytest.mark.parametrize(
    ("keep", "scores", "left"),
    [
        (1, [1, 2, 3, 4], [4]),
        (1, [1, 9, 3, 4], [4, 2]),
        (2, [1, 2, 3, 4], [4, 3]),
        (2, [9, 2, 3, 4], [4, 3, 1]),
        (2, [-float("inf")] * 4, [4, 3]),
        (9, [1, 2, 3, 4], [4, 3, 2, 1]),
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path: Path, keep: int, scores: list, left: list):
    folder = CheckpointFolder(tmp_path, keep)
    for iteration, score in enumerate(scores, start=1):
        folder.save(iteration, state_after(iteration), float(score))
    assert [c.iteration for c in folder.all()] == left
    assert len(list(tmp_path.iterdir())) == 2 * len(left)


def test_saving_after_a_resume_removes_what_came_later(folder: CheckpointFolder):
    """Else a damaged checkpoint would count as the newest, and the good ones would be removed."""
    damage(folder, 30, lambda data: data[:-1])
    folder.save(25, state_after(25), score=0.0)
    assert [c.iteration for c in folder.all()] == [25, 20, 10]
    assert folder.load("last")[0].iteration == folder.load("best")[0].iteration == 25


def test_saving_removes_no_later_checkpoint_that_is_intact(folder: CheckpointFolder):
    folder.save(15, state_after(15), score=0.0)
    assert [c.iteration for c in folder.all()] == [30, 20, 15, 10]


@pytest.mark.parametrize("key", ["step", "mean"])
def test_an_optimiser_whose_state_is_not_a_number_is_damaged(key: str):
    theta = torch.zeros(3)
    state = Adam().init(theta)
    broken = state._replace(**{key: getattr(state, key) * torch.nan})
    assert same(like_tree(plain_tree(state), state).step, state.step)
    with pytest.raises(ValueError, match="NaN"):
        like_tree(plain_tree(broken), state)


def test_more_than_a_million_iterations_are_in_order(tmp_path: Path):
    folder = CheckpointFolder(tmp_path)
    for iteration in (999_999, 1_000_000):
        folder.save(iteration, state_after(iteration), score=0.0)
    assert folder.load()[0].iteration == 1_000_000


# --- damage


def damage(folder: CheckpointFolder, iteration: int, change: Callable[[bytes], bytes]) -> None:
    path = folder.folder / f"iteration-{iteration:06d}.pt"
    path.write_bytes(change(path.read_bytes()))


def sign(path: Path) -> None:
    """Make the note fit the file, as somebody who tampers with it would."""
    note = json.loads(path.with_suffix(".json").read_text())
    note["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(note))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda pt: pt.write_bytes(b""),
    "truncated": lambda pt: os.truncate(pt, pt.stat().st_size // 2),
    "one byte more": lambda pt: pt.write_bytes(pt.read_bytes() + b"\0"),
    "one bit flipped": lambda pt: pt.write_bytes(pt.read_bytes()[:-1] + b"\1"),
    "a folder": lambda pt: (pt.unlink(), pt.mkdir()),
    "note missing": lambda pt: pt.with_suffix(".json").unlink(),
    "note cut off": lambda pt: os.truncate(pt.with_suffix(".json"), 9),
    "note empty": lambda pt: pt.with_suffix(".json").write_text("{}"),
    "note no object": lambda pt: pt.with_suffix(".json").write_text("[30]"),
    "note no text": lambda pt: pt.with_suffix(".json").write_bytes(b"\xff\0"),
    "note of another": lambda pt: pt.with_suffix(".json").write_bytes(
        pt.with_name("iteration-000020.json").read_bytes()
    ),
    "file of another": lambda pt: pt.write_bytes(pt.with_name("iteration-000020.pt").read_bytes()),
    "signed noise": lambda pt: (pt.write_bytes(b"noise" * 99), sign(pt)),
    "signed empty": lambda pt: (pt.write_bytes(b""), sign(pt)),
    "signed other type": lambda pt: (torch.save([1, 2], pt), sign(pt)),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_newest_intact_one(
    folder: CheckpointFolder, kind: str, capsys: pytest.CaptureFixture[str]
):
    DAMAGES[kind](folder.folder / "iteration-000030.pt")
    checkpoint, state = folder.load()
    assert checkpoint.iteration == 20
    assert same(state, state_after(20))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("metarl: warning: ")
    assert "iteration-000030.pt" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("which", ["last", "best", "20"])
def test_when_none_is_intact_that_is_said(folder: CheckpointFolder, which: str, capsys):
    for iteration in (10, 20, 30):
        damage(folder, iteration, lambda data: data[:-1])
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact"):
        folder.load(which)


def test_a_damaged_best_gives_way_to_the_next_best(folder: CheckpointFolder, capsys):
    damage(folder, 10, lambda data: data[:-1])
    assert folder.load("best")[0].iteration == 30


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_checkpoint_that_would_run_code_is_refused_unrun(
    folder: CheckpointFolder, tmp_path: Path, write: Callable[[object, Path], None], capsys
):
    marker, path = tmp_path / "executed", folder.folder / "iteration-000030.pt"
    write({"learner": Bomb(marker)}, path)
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert marker.exists()  # the bomb works
    marker.unlink()
    sign(path)
    assert folder.load()[0].iteration == 20
    assert not marker.exists()
    assert "iteration-000030.pt is damaged" in capsys.readouterr().err


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckpointFolder, bytes, bytes]:
    """A folder with one checkpoint, and the bytes of its two files."""
    folder = CheckpointFolder(tmp_path_factory.mktemp("one"))
    path = folder.save(7, state_after(7), score=0.5)
    return folder, path.read_bytes(), path.with_suffix(".json").read_bytes()


@settings(max_examples=150, deadline=None)
@given(
    flips=st.dictionaries(st.integers(0, 10**9), st.integers(1, 255), min_size=1, max_size=6),
    which=st.sampled_from(["file", "note", "signed file"]),
)
def test_flipped_bytes_are_never_loaded(one, flips: dict[int, int], which: str):
    folder, data, note = one
    path = folder.folder / "iteration-000007.pt"
    path.write_bytes(flipped(data, flips) if which != "note" else data)
    path.with_suffix(".json").write_bytes(flipped(note, flips) if which == "note" else note)
    if which == "signed file":
        sign(path)
    try:
        checkpoint, state = folder.load()
    except UserError:
        return
    assert which != "file"  # the checksum finds every change
    assert (checkpoint.iteration, type(state)) == (7, dict)
    if which == "note":  # flipped in the score, or in its white space
        assert same(state, state_after(7))


def flipped(data: bytes, flips: dict[int, int]) -> bytes:
    """Every byte is flipped at most once, so that flips never cancel out."""
    changed = bytearray(data)
    for place, bits in {place % len(data): bits for place, bits in flips.items()}.items():
        changed[place] ^= bits
    return bytes(changed)


# --- crashes while writing


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing further than this into a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
        write_atomically(path, b"n" * 2000)
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_fails_leaves_the_old_checkpoints(folder: CheckpointFolder):
    with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
        folder.save(40, state_after(40), score=9.0)
    for which, iteration in (("last", 30), ("best", 10)):
        checkpoint, state = folder.load(which)
        assert checkpoint.iteration == iteration
        assert same(state, state_after(iteration))


def killed_while(action: Callable[[], object], at: int) -> bool:
    """Run ``action`` in a process that is killed before its ``at``-th fsync, rename or unlink."""
    left = at

    def crash(frame: object, event: str, function: object) -> None:
        nonlocal left
        if event == "c_call" and function in (os.fsync, os.replace, os.unlink):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        sys.setprofile(crash)
        action()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_a_process_killed_at_any_moment_of_a_save_leaves_whole_checkpoints(tmp_path: Path, capsys):
    kills = 0
    while True:
        folder = CheckpointFolder(tmp_path / str(kills), keep=1)
        folder.save(1, state_after(1), score=1.0)
        folder.save(2, state_after(2), score=2.0)
        if not killed_while(lambda f=folder: f.save(3, state_after(3), score=3.0), at=kills + 1):
            break
        kills += 1
        checkpoint, state = folder.load()
        assert checkpoint.iteration in (2, 3)
        assert same(state, state_after(checkpoint.iteration))
        # The next save is not hindered by what the crash left behind.
        folder.save(3, state_after(3), score=3.0)
        assert folder.all() == [Checkpoint(folder.folder / "iteration-000003.pt", 3, 3.0)]
    assert kills == 2 * 3 + 2  # note and file: fsync, rename, fsync; then the old ones go
    assert capsys.readouterr().err == ""
