"""Files from anywhere: whatever they hold, they are read or refused, in bounded time and memory.

``pytest tests/test_fuzz.py --fuzz 7000`` tries so many inputs of every kind.
"""

import hashlib
import io
import json
import os
import resource
import shutil
import sys
import zipfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from metarl.commands.main import train
from metarl.experiment.build import make_learner
from metarl.experiment.evaluations import newest
from metarl.experiment.resolution import resolve
from metarl.experiment.schema import RLExperiment, fixed_settings
from metarl.experiment.settings import read_config, read_settings
from metarl.report.tables import scores_table
from metarl.runtime.checkpoint import CheckpointFolder
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.record import EvaluationRecord
from metarl.runtime.trainer import load_into
from metarl.supervised.images import ImageFolder
from metarl.supervised.omniglot import read

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))

Mutation = tuple[str, float, bytes]

NASTY = st.sampled_from(
    [
        *(
            b"\x00",
            b"\xff" * 8,
            b"-1",
            b"1e400",
            b".nan",
            b"9" * 400,
            b"{",
            b"[" * 500,
            b"- " * 500,
        ),
        *(b"!!python/object/apply:os.system [touch hacked]", b"&a [*a]", b"*missing", b"<<: *a"),
        *(b"!!binary aGk=", b"null", b"~", b"'", b'"', b"\t", b"? ", b"---\n", b"%YAML 9\n"),
        *(b"\x1b[2J", b"\\e[2J", b"$\\frac{", b"010", b"1:30", b"\xe2\x80\xae", b"true"),
        *(b"../../../etc/passwd", b"<script>", b"\xf0\x9f\x92\xa5", b"\r\n", b": : :", b"#"),
    ]
)
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "zero"]),
        st.floats(0, 1),
        NASTY | st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=8,
)


def mutated(data: bytes, mutations: list[Mutation]) -> bytes:
    for kind, where, payload in mutations:
        i = int(where * len(data))
        if kind == "flip" and data[i:]:
            data = data[:i] + bytes([data[i] ^ (payload[0] or 1)]) + data[i + 1 :]
        elif kind == "cut":
            data = data[:i] + data[i + len(payload) ** 2 :]
        elif kind == "insert":
            data = data[:i] + payload + data[i:]
        elif kind == "repeat":
            data = data[:i] + data[max(0, i - 200) : i] * 3 + data[i:]
        elif kind == "zero":
            data = data[:i] + bytes(len(payload)) + data[i + len(payload) :]
    return data


@pytest.fixture(scope="module")
def cases(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``cases(test)``: run a hypothesis test with as many inputs as the command line says."""

    def run(test: Callable, share: float = 1) -> None:
        # Of one input, as hypothesis remembers all of them, which takes a gigabyte for thousands.
        test.hypothesis.inner_test = _in_little_memory(test.hypothesis.inner_test)
        settings(
            max_examples=round(share * request.config.getoption("--fuzz")),
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(test)()

    return run


def _in_little_memory(test: Callable) -> Callable:
    @wraps(test)
    def checked(*args: Any, **kwargs: Any) -> None:
        before = peak_memory()
        test(*args, **kwargs)
        assert peak_memory() < before + 0.2, "in gigabytes"

    return checked


def peak_memory() -> float:
    """Of this process until now, in gigabytes."""
    unit = 1e6 if sys.platform == "linux" else 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def read_or_refused(reader: Callable[[], Any]) -> None:
    said, code = "", 2
    try:
        reader()
    except UserError as error:
        said = str(error)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert "\n" not in said
    assert len(said) < 10_000


# --- configs


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        *("tasks", "env", "env.family", "policy", "inner", "inner.rate", "outer", "data", "model"),
        *("evaluation", "evaluation.published", "checkpoint", "logging", "seed", "name", "folder"),
        *("shots", "device", "advantage", "config", "resume", "chunk_size", "timeout", "compile"),
    ]
)


def test_configs_of_any_content_are_read_or_refused(cases, workplace: Path, capsys):
    path = workplace / "fuzzed.yaml"

    @given(st.sampled_from(CONFIGS), MUTATIONS)
    def damaged(config: Path, mutations: list[Mutation]) -> None:
        path.write_bytes(mutated(config.read_bytes(), mutations))
        read_or_refused(lambda: read_settings(["--config", str(path)]))

    @given(st.dictionaries(KEYS | st.text(max_size=10), TREES, max_size=5))
    def unlikely(values: dict[str, Any]) -> None:
        path.write_text(json.dumps(values))  # which is YAML too
        read_or_refused(lambda: read_settings(["--config", str(path)]))

    cases(damaged)
    cases(unlikely)
    capsys.readouterr()
    assert os.listdir(workplace) == ["fuzzed.yaml"], "nothing was executed"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: !!python/object/apply:os.system [touch hacked]", "tags are not allowed"),
        ("[" * 5000, "nests too deep"),
        ("a: " + "{a: " * 30 + "1" + "}" * 30, "nests too deep"),
        ("a: &a [*a]", "aliases are not allowed"),
        ("name: !!binary aGVsbG8=", "tags are not allowed"),
        ("env: !!set {a, b}", "tags are not allowed"),
        ("[1, 2]: 3", "unhashable"),
        ("seed: 010", 'seed should be an integer >= 0, got "010"'),
        ("seed: 1:30", 'seed should be an integer >= 0, got "1:30"'),
        ("inner.rate: 1:30.5", 'inner.rate should be a number > 0, got "1:30.5"'),
        ("tasks: true", "tasks should be an integer >= 1, got true"),
        ("seed: 1\nseed: 2", "seed is given twice"),
        ("outer.max_kl: 1\nouter: {max_kl: 2}", "outer.max_kl is given twice"),
        ('name: "a\\e[2J"', "control characters are not allowed"),
        ("env: &a {family: x}\nb: {<<: [*a, *a]}", "aliases are not allowed"),
        ("policy: {hidden_sizes: '[&a [1], *a]'}", "policy.hidden_sizes should be a list"),
        ("policy: /etc/passwd", 'policy should be a mapping, got "/etc/passwd"'),
        ("evaluation.published: other.yaml", "evaluation.published should be a mapping"),
        ("env: '{family: [&a [1], *a]}'", 'env should be a mapping, got "{family: '),
        ("inner: {rates: '" + "[" * 3000 + "'}", "inner.rates"),
        ("seed: 0\n" * 20_000, "more than 100,000 bytes"),
        (
            "l0: &l0 [x]\n" + "".join(f"l{i}: &l{i} [{f'*l{i - 1},' * 9}]\n" for i in range(1, 12)),
            "aliases are not allowed",
        ),
    ],
)
def test_hostile_configs_are_refused_at_once(refused, workplace: Path, content: str, said: str):
    (workplace / "hostile.yaml").write_text(content)
    assert said in refused(train, "--config", "hostile.yaml")


# --- checkpoints


@pytest.fixture(scope="module")
def policy() -> Any:
    config = RLExperiment(
        policy={"name": "gaussian-mlp", "hidden_sizes": [4]}, tasks=2, trajectories=1
    )
    return make_learner(config)


def keep(folder: Path, data: bytes) -> None:
    """As a checkpoint whose note says that it is intact."""
    (folder / "iteration-000001.pt").write_bytes(data)
    note = {"iteration": 1, "score": 0.0, "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "iteration-000001.json").write_text(json.dumps(note))


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_checkpoints_of_any_content_are_read_or_refused(cases, tmp_path: Path, policy, capsys):
    wanted = fixed_settings(resolve(RLExperiment()))
    whole = {"settings": wanted, "learner": policy.state_dict()}
    intact = saved(whole)
    entries = unzipped(intact)
    checkpoints = CheckpointFolder(tmp_path)

    def resume() -> None:
        _, state = checkpoints.load()
        load_into(policy, state, wanted, "the checkpoint")

    @given(MUTATIONS)
    def damaged(mutations: list[Mutation]) -> None:
        keep(tmp_path, mutated(intact, mutations))
        read_or_refused(resume)

    @given(MUTATIONS)
    def with_another_pickle(mutations: list[Mutation]) -> None:
        (name,) = (name for name in entries if name.endswith("data.pkl"))
        keep(tmp_path, zipped({**entries, name: mutated(entries[name], mutations)}))
        read_or_refused(resume)

    @given(
        st.dictionaries(st.sampled_from(["settings", "learner", "x"]), TREES),
        st.sampled_from(["meta", "env_steps", "rejected_updates"]),
        TREES,
    )
    def of_something_else(state: dict[str, Any], key: str, learner: Any) -> None:
        keep(tmp_path, saved(whole | state))
        read_or_refused(resume)
        changed = {**policy.state_dict(), key: learner}
        keep(tmp_path, saved({"settings": wanted, "learner": changed}))
        read_or_refused(resume)

    @given(MUTATIONS)
    def with_another_note(mutations: list[Mutation]) -> None:
        keep(tmp_path, intact)
        note = tmp_path / "iteration-000001.json"
        note.write_bytes(mutated(note.read_bytes(), mutations))
        read_or_refused(resume)

    keep(tmp_path, intact)
    resume()
    for test in (damaged, with_another_pickle, of_something_else, with_another_note):
        cases(test)
        capsys.readouterr()


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_a_checkpoint_that_would_unpack_to_gigabytes_is_refused(tmp_path: Path):
    entries = unzipped(saved({"settings": {}, "learner": {}}))
    (name,) = (name for name in entries if name.endswith("data.pkl"))
    bomb = zipped({**entries, name: bytes(2**28)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**20
    keep(tmp_path, bomb)
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact: .*would unpack to"):
        CheckpointFolder(tmp_path).load()


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_a_checkpoint_executes_nothing(workplace: Path):
    keep(workplace, saved({"settings": Hostile(), "learner": {}}))
    with pytest.raises(UserError, match=r"is intact: .*Weights only load failed"):
        CheckpointFolder(workplace).load()
    assert not (workplace / "hacked").exists()


def test_a_checkpoint_of_huge_tensors_is_refused(tmp_path: Path, policy):
    huge = torch.zeros(1).expand(10**12)
    like = dict.fromkeys(policy.meta, huge)
    keep(tmp_path, saved({"settings": {}, "learner": {**policy.state_dict(), "meta": like}}))
    _, state = CheckpointFolder(tmp_path).load()
    with pytest.raises(UserError, match="does not fit this run"):
        load_into(policy, state, {}, "the checkpoint")


def test_the_files_of_a_run_may_hold_anything(cases, toy, runs: Path, capsys):
    """What an evaluation's files have lost is evaluated again."""
    small = ("--evaluation.every", "0", "--evaluation.inner_steps", "1", "--env.horizon", "2")
    assert train(toy("run", *small, "--evaluation.tasks", "2", "--threads", "1")) == 0
    run = RunFolder.open(runs / "run")
    config = read_config(run)
    files = [run.evaluation_file, run.episodes_file, run.metrics_file, run.path / "run.json"]
    intact = {file: file.read_bytes() for file in files}

    @given(st.sampled_from(files), MUTATIONS)
    def damaged(chosen: Path, mutations: list[Mutation]) -> None:
        for file, data in intact.items():
            file.write_bytes(mutated(data, mutations) if file == chosen else data)
        view = newest(run, config)
        assert np.isfinite(view.scores).all()
        for seen in view.tests().values():
            scores_table(seen)
        view.series("return/after")

    @given(st.sampled_from(sorted(json.loads(intact[run.evaluation_file]))), TREES)
    def replaced(key: str, value: Any) -> None:
        content = json.dumps({**json.loads(intact[run.evaluation_file]), key: value})
        try:
            EvaluationRecord.from_json(content)
        except ValueError:
            return
        run.evaluation_file.write_text(content)
        for seen in newest(run, config).tests().values():
            scores_table(seen)

    @given(st.lists(st.dictionaries(st.just("iteration") | st.text(max_size=4), TREES)))
    def rows(content: list[dict[str, Any]]) -> None:
        run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in content))
        for row in run.metrics():
            assert row["iteration"] >= 0
            np.array([*row.values()], dtype=np.float64)  # numbers, or null

    cases(rows)
    cases(damaged, share=0.2)  # they take longest
    cases(replaced, share=0.5)


# --- data


@pytest.fixture(scope="module")
def drawing() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def test_archives_of_any_content_are_read_or_refused(cases, tmp_path: Path, drawing: bytes):
    names = [f"images/{a}/{c}/{d}.png" for a in "AB" for c in "12" for d in "xy"]
    entries = dict.fromkeys(names, drawing)
    archive, outside = tmp_path / "in" / "images.zip", tmp_path / "in"
    outside.mkdir()

    @given(MUTATIONS)
    def damaged(mutations: list[Mutation]) -> None:
        archive.write_bytes(mutated(zipped(entries), mutations))
        read_or_refused(lambda: read(archive, 28))

    @given(MUTATIONS, st.text(max_size=30))
    def with_another_entry(mutations: list[Mutation], name: str) -> None:
        strange = {f"../../{name}/b/c.png": mutated(drawing, mutations)}
        archive.write_bytes(zipped(entries | strange, zipfile.ZIP_DEFLATED))
        read_or_refused(lambda: read(archive, 28))

    assert len(read(write(archive, zipped(entries)), 28).labels) == 8
    cases(damaged)
    cases(with_another_entry)
    assert os.listdir(tmp_path) == ["in"], "nothing is unpacked"
    assert os.listdir(outside) == ["images.zip"]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_image_folders_of_any_content_are_read_or_refused(cases, tmp_path: Path, drawing: bytes):
    table = b"filename,label\n" + b"".join(b"%d.png,%d\n" % (i, i // 2) for i in range(4))

    def fill(folder: Path, tables: bytes, image: bytes) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for split, first in (("train", b""), ("test", b"t")):
            (folder / "images").mkdir(parents=True, exist_ok=True)
            (folder / f"{split}.csv").write_bytes(
                tables.replace(b"\n", b"\n" + first)[: len(tables) + 40]
            )
        for i in range(4):
            for first in ("", "t"):
                (folder / "images" / f"{first}{i}.png").write_bytes(image)

    @given(MUTATIONS, st.booleans())
    def damaged(mutations: list[Mutation], in_the_table: bool) -> None:
        tables = mutated(table, mutations) if in_the_table else table
        image = drawing if in_the_table else mutated(drawing, mutations)
        fill(tmp_path / "set", tables, image)
        read_or_refused(lambda: ImageFolder(size=8, channels=1).load(tmp_path / "set"))

    cases(damaged)


@pytest.mark.parametrize("side", [5000, 30_000])
def test_an_image_larger_than_memory_should_be_is_refused(tmp_path: Path, side: int):
    bomb = tmp_path / "A" / "1" / "bomb.png"
    bomb.parent.mkdir(parents=True)
    Image.new("1", (side, side)).save(bomb)
    assert bomb.stat().st_size < 200_000
    with pytest.raises(UserError, match=r"cannot read .*bomb.png: .*pixels"):
        read(tmp_path, 28)


def test_an_archive_that_would_unpack_to_gigabytes_is_refused(tmp_path: Path):
    bomb = zipped({"images/A/1/x.png": bytes(2**27)}, zipfile.ZIP_DEFLATED)
    archive = write(tmp_path / "images.zip", bomb)
    with pytest.raises(UserError, match=r"x.png in .*: it would unpack to 134217728 bytes"):
        read(archive, 28)
