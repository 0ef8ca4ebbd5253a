"""Imports point one way, and nothing is unpickled: read from the source itself."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("metarl", "envs", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)

# A module imports of its own layer and of those before it.
LAYERS = (
    {"metarl.core"},
    {"metarl.runtime"},
    {"metarl.rl", "metarl.supervised", "metarl.report"},
    {"metarl.experiment"},
    {"metarl.commands", "metarl.__main__"},
    {"metarl.interface", "metarl.adapted_policy"},
    {"scripts"},
)
APART = ({"metarl.rl"}, {"metarl.supervised"})
USERS_OF_ENVS = {"metarl.experiment", "metarl.interface", "metarl.adapted_policy", "scripts"}
SELDOM_USED = {"wandb", "av", "matplotlib"}  # by trackers, videos and reports
LIBRARIES_OF_CORE = {"torch", "annotated_types"}


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[parts[0] == "envs" :]).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def layer(name: str) -> int:
    """0 for the core; the package itself, which holds the version, counts as such."""
    if name in ("metarl", "metarl.__version__"):
        return 0
    found = [number for number, layer in enumerate(LAYERS) if within(name, layer)]
    assert found, f"say in LAYERS where {name} belongs"
    return found[0]


def test_the_sources_are_found():
    names = {module_name(path) for path in SOURCES}
    assert {
        "metarl_envs.family",
        "metarl.core.adapt",
        "metarl.rl.learner",
        "scripts.train",
    } <= names


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[0] != "envs"], ids=str)
def test_imports_point_one_way(path: Path):
    name = module_name(path)
    for imported in imports(path):
        if within(imported, {"metarl", "scripts"}):
            lazily = name == "metarl"  # its interface, when it is first used
            assert lazily or layer(imported) <= layer(name), f"{name} imports {imported}"
            for one, other in (APART, APART[::-1]):
                assert not (within(name, one) and within(imported, other))
        if within(imported, {"metarl_envs"}):
            assert within(name, USERS_OF_ENVS), f"{name} imports {imported}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[0] == "envs"], ids=str)
def test_environments_know_no_torch(path: Path):
    assert not any(within(imported, {"torch", "metarl", "scripts"}) for imported in imports(path))


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[:2] == ("metarl", "core")], ids=str)
def test_the_core_knows_torch_only(path: Path):
    libraries = {imported.partition(".")[0] for imported in imports(path)} - {"metarl"}
    assert libraries <= LIBRARIES_OF_CORE | sys.stdlib_module_names


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_is_unpickled(path: Path):
    unsafe = {"pickle", "dill", "joblib", "shelve", "marshal"}
    assert not any(within(imported, unsafe) for imported in imports(path))
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Call):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            called = ast.unparse(node.func)
            assert called != "torch.load" or options.get("weights_only") == "True"
            assert called not in ("np.load", "numpy.load") or options.get("allow_pickle") != "True"
            assert called not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec")


def imported_by(code: str, folder: Path) -> set[str]:
    """Packages that a new Python has imported when it has run ``code`` in ``folder``."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "envs")])
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return {name.partition(".")[0] for name in result.stdout.splitlines()[-1].split()}


def test_the_core_is_used_without_what_it_does_not_need(tmp_path: Path):
    code = "from metarl.core import Functional, TaskMap, adapt\nassert callable(adapt)"
    found = imported_by(code, tmp_path)
    assert found & {"metarl", "torch"} == {"metarl", "torch"}
    assert not found & (SELDOM_USED | {"gymnasium", "mujoco", "metarl_envs"})


def test_the_package_alone_imports_nothing(tmp_path: Path):
    found = imported_by("import metarl", tmp_path)
    assert "metarl" in found
    assert not found & (SELDOM_USED | {"torch", "numpy", "gymnasium", "mujoco"})


def test_training_imports_trackers_videos_and_figures_only_where_it_uses_them(
    toy_settings: list[str], toy_supervised_settings: list[str], tmp_path: Path
):
    runs = {"policy": toy_settings, "model": toy_supervised_settings}
    words = [[*settings, "--iterations", "1", "--name", name] for name, settings in runs.items()]
    code = f"from metarl.commands.main import train\nassert [*map(train, {words!r})] == [0, 0]"
    assert not imported_by(code, tmp_path) & SELDOM_USED
    for name in runs:
        assert (tmp_path / "runs" / name / "evaluation.json").is_file()


def test_a_forbidden_import_would_be_found(tmp_path: Path, monkeypatch):
    """The reader of import statements sees every kind of them."""
    source = "import a.b\nfrom c import d, e\ndef f():\n    if f:\n        from g.h import i\n"
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "x.py").write_text(source)
    assert set(imports(Path("x.py"))) == {"a.b", "c.d", "c.e", "g.h.i"}
