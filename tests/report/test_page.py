"""The report page: what it shows and escapes, that it needs nothing else, in a real browser."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from metarl.commands.main import evaluate, report, train
from metarl.experiment.evaluations import newest
from metarl.experiment.settings import read_config
from metarl.report.film import film
from metarl.report.page import DRAWN
from metarl.report.plots import figures
from metarl.report.view import RunView
from metarl.runtime.folder import RunFolder
from metarl.runtime.record import EvaluationRecord


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_settings: list[str]) -> Path:
    """Two finished toy runs, ``one`` and ``two``."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two")):
        arguments = ("--evaluation.tasks", "4", "--evaluation.inner_steps", "2")
        place = ("--folder", str(folder), "--name", name, "--seed", str(seed))
        published = ("--evaluation.published.scores", "[-1.5]")
        source = ("--evaluation.published.source", "<script>a paper</script>")
        assert train([*toy_settings, *arguments, *place, *published, *source]) == 0
    return folder


@pytest.fixture
def workplace(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs, as the working directory."""
    shutil.copytree(folder, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


HOSTILE = "<img src=x onerror=alert(1)>'\"&{{7*7}}"


@pytest.fixture(scope="module")
def reported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report, which prints a hostile name, command and commit."""
    run = shutil.copytree(folder / "one", tmp_path_factory.mktemp("reported") / HOSTILE)
    info = json.loads((run / "run.json").read_text())
    info |= {"command": ["<script>x</script>", HOSTILE], "git_commit": HOSTILE}
    (run / "run.json").write_text(json.dumps(info))
    assert report([str(run)]) == 0
    return run


def view(run: Path) -> RunView:
    folder = RunFolder.open(run)
    return newest(folder, read_config(folder))


class Reader(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_report_shows_the_run(reported: Path):
    page = Reader(reported / "report.html")
    result = json.loads((reported / "evaluation.json").read_text())
    for row in result["rows"]:
        assert f"{row['mean']:.2f} ± {row['ci95']:.2f}" in page.text
    assert "-1.50" in page.text  # the published one
    for returns in result["scores"]:
        for value in returns:
            assert f"{value:.2f}" in page.text
    assert (reported / "config.yaml").read_text().strip() in page.text  # all settings
    info = json.loads((reported / "run.json").read_text())
    assert info["packages"]["torch"] in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 5
    videos = [attributes["src"] for tag, attributes in page.tags if tag == "video"]
    files = [reported / f"report_files/task-{m}.mp4" for m in (1, 2, 3)]
    for source, file in zip(videos, files, strict=True):
        kind, _, data = str(source).partition(";base64,")
        assert (kind, base64.b64decode(data)) == ("data:video/mp4", file.read_bytes())
    kinds = {path.suffix for path in (reported / "report_files").iterdir()}
    assert kinds == {".svg", ".png", ".mp4", ".json"}


def test_a_page_needs_nothing_but_itself_and_escapes_what_it_prints(reported: Path):
    page = Reader(reported / "report.html")
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert HOSTILE in page.text
    assert "49" not in re.findall(r"onerror=alert\(1\)>'\"&(\S*)", page.text)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "data", "poster"):
                assert str(value).startswith(("data:", "#")), (tag, name, value)
    assert "@import" not in page.text
    assert not re.search(r"url\((?!#)", (reported / "report.html").read_text())


@pytest.mark.usefixtures("one_figure")
def test_several_runs_are_compared_on_the_same_tasks(workplace: Path):
    assert report(["one", "two"]) == 0
    assert not (workplace / "one/report.html").exists()
    page = Reader(workplace / "one/comparison.html")
    one, two = (json.loads((workplace / n / "evaluation.json").read_text()) for n in ("one", "two"))
    for row in one["rows"] + two["rows"]:
        assert f"{row['mean']:.2f} ± {row['ci95']:.2f}" in page.text
    for k in range(3):
        pairs = zip(one["scores"][k], two["scores"][k], strict=True)
        mean = sum(b - a for a, b in pairs) / len(one["tasks"])
        assert f"{mean:.2f} ± " in page.text
    assert len([tag for tag, _ in page.tags if tag == "video"]) == 2


@pytest.mark.usefixtures("one_figure")
def test_runs_with_protocols_of_their_own_are_compared_by_the_first_ones(
    workplace: Path, capsys, toy_settings
):
    arguments = ("--evaluation.seed", "7", "--evaluation.tasks", "3", "--seed", "2")
    assert train([*toy_settings, *arguments, "--folder", ".", "--name", "other"]) == 0
    own = (workplace / "other/evaluation.json").read_bytes()
    capsys.readouterr()
    assert report(["one", "other", "--videos", "0"]) == 0
    assert "evaluating other" in capsys.readouterr().out
    assert (workplace / "other/evaluation.json").read_bytes() == own
    text = Reader(workplace / "one/comparison.html").text
    assert "All: 4 held-out tasks" in text


def test_an_evaluation_by_other_settings_is_not_what_a_report_shows(workplace: Path, capsys):
    own = (workplace / "one/evaluation.json").read_bytes()
    for options in (["--tasks", "3"], ["--seed", "5"], ["--checkpoint", "1"], ["--steps", "1"]):
        assert evaluate(["one", *options]) == 0
        assert "not kept, because these settings or data differ" in capsys.readouterr().out
    assert evaluate(["one", "--env.goal_range", "[2,3]"]) == 0
    assert "NOT as trained" in capsys.readouterr().out
    assert (workplace / "one/evaluation.json").read_bytes() == own
    assert evaluate(["one", "--threads", "1"]) == 0
    assert "written to one/evaluation.json" in capsys.readouterr().out
    assert (workplace / "one/evaluation.json").read_bytes() == own


def test_an_evaluation_that_is_missing_old_or_damaged_is_made_again(workplace: Path, capsys):
    expected = (workplace / "one/evaluation.json").read_bytes()
    for damage in (
        (workplace / "one/evaluation.json").unlink,
        lambda: (workplace / "one/evaluation.json").write_text('{"rows": []}'),
        lambda: (workplace / "one/episodes.npz").write_bytes(b"PK"),
        lambda: (workplace / "one/evaluation.json").write_bytes(
            expected.replace(b'"iteration": 2', b'"iteration": 1')
        ),
    ):
        damage()
        assert view(Path("one")).evaluation == EvaluationRecord.from_json(expected)
        assert "evaluating one after 2 iterations" in capsys.readouterr().out
        assert (workplace / "one/evaluation.json").read_bytes() == expected
    view(Path("one"))
    assert "evaluating" not in capsys.readouterr().out


def test_without_opengl_there_is_a_report_without_videos_and_a_hint(
    workplace: Path, monkeypatch, capsys, toy_settings
):
    settings = ("--env", '{"family": "half-cheetah-velocity", "horizon": 5}')
    assert train([*toy_settings, *settings, "--folder", ".", "--name", "body"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("MUJOCO_GL", "glx-of-another-processes")
    monkeypatch.setattr(
        "metarl.report.page.figures", lambda views: {"velocity": figures(views)["velocity"]}
    )
    assert report(["body"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["report: body/report.html"]
    assert err.count("\n") == 1
    assert "no videos" in err
    assert "libegl1 and libgl1-mesa-dri, or libosmesa6" in err
    page = Reader(workplace / "body/report.html")
    assert not [tag for tag, _ in page.tags if tag == "video"]
    assert "velocity" in {path.stem for path in (workplace / "body/report_files").glob("*.svg")}
    # A point needs no OpenGL, and is filmed even so.
    assert len(film(view(Path("one")), 1, workplace)) == 1
    assert capsys.readouterr().err == ""


def test_a_video_that_fails_for_another_reason_says_which(workplace: Path, monkeypatch, capsys):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("metarl.report.film._try", lambda clip, library: "the family is broken")
    assert film(view(Path("one")), 1, workplace) == []
    assert capsys.readouterr().err == "metarl: warning: no videos: the family is broken\n"


def test_a_foreign_envs_in_the_working_directory_is_left_alone(workplace: Path, capsys):
    (workplace / "envs").mkdir()
    (workplace / "envs" / "__init__.py").write_text("raise SystemExit('not this one')")
    (filmed,) = film(view(Path("one")), 1, workplace)
    assert filmed.path.is_file()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("one_figure")
def test_a_smaller_report_leaves_nothing_of_a_larger_one(reported: Path, tmp_path: Path):
    run = shutil.copytree(reported, tmp_path / "one")
    files = run / "report_files"
    assert len([*files.glob("*.mp4")]) == 3
    assert report([str(run), "--videos", "1"]) == 0
    assert [path.name for path in files.glob("*.mp4")] == ["task-1.mp4"]


@pytest.mark.usefixtures("one_figure")
def test_a_report_deletes_nothing_that_it_did_not_draw(workplace: Path):
    """Neither beside its own files, nor one of theirs that was changed, nor elsewhere."""
    files = workplace / "page_files"
    own = [files / "holiday.png", files / "2026" / "beach.mp4", files / "task-9.mp4"]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    command = ["two", "--output", "page.html", "--videos", "0"]
    assert report(command) == 0
    drawn = json.loads((files / DRAWN).read_text())
    assert set(drawn) == {p.name for p in files.iterdir() if p.is_file()} - {
        *(path.name for path in own),
        DRAWN,
    }
    outside = workplace / "outside.png"
    outside.write_bytes(b"mine")
    mine = hashlib.sha256(b"mine").hexdigest()
    earlier = {"../outside.png": mine, str(outside): mine, "task-9.mp4": "0", "a\0b": mine}
    (files / "old.svg").write_bytes(b"mine")
    (files / DRAWN).write_text(json.dumps({**drawn, **earlier, "old.svg": mine}))
    assert report(command) == 0
    assert all(path.read_bytes() == b"mine" for path in (*own, outside))
    assert not (files / "old.svg").exists()
    assert json.loads((files / DRAWN).read_text()) == drawn


def test_a_report_writes_through_no_link(workplace: Path, capsys):
    album = workplace / "album"
    album.mkdir()
    (album / "training.png").write_bytes(b"mine")
    (workplace / "page_files").symlink_to(album)
    assert report(["two", "--output", "page.html", "--videos", "0"]) == 2
    assert "page_files is a link" in capsys.readouterr().err
    assert [p.read_bytes() for p in album.iterdir()] == [b"mine"]


@pytest.mark.usefixtures("one_figure")
@pytest.mark.parametrize("moment", ["adaptation.svg", "adaptation.png"])  # it draws, and films
def test_an_interrupted_report_leaves_no_half_file(workplace: Path, capsys, moment: str):
    run, ended = workplace / "one", threading.Event()

    def press_ctrl_c() -> None:
        while not (run / "report_files" / moment).exists() and not ended.is_set():
            time.sleep(0.005)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=press_ctrl_c)
    # A shell starts its background jobs with SIGINT ignored, and this may be one.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        user.start()
        assert report([str(run)]) == 130
    finally:
        ended.set()
        user.join()
        signal.signal(signal.SIGINT, previous)
    assert capsys.readouterr() == ("", "metarl report: interrupted\n")
    written = [p for p in run.rglob("*") if p.is_file()]
    assert not [p for p in written if p.suffix == ".tmp"]
    for path in written:
        if path.suffix in (".html", ".svg"):
            assert path.read_text().rstrip().endswith(("</html>", "</svg>"))


# --- in a browser


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"there is no browser here, none of {', '.join(names)}")
    return found


class Browser:
    """A page in headless Chromium, spoken to by its DevTools protocol."""

    def __init__(self, program: str, profile: Path, page: Path, width: int):
        from websockets.sync.client import connect

        flags = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--remote-debugging-port=0",
        ]
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if address := re.search(r"DevTools listening on (ws://\S+)", line):
                break
        self.socket = connect(address[1], max_size=None, proxy=None)
        self.events: list[dict[str, Any]] = []
        self.count, self.session = 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.receive()

    def receive(self) -> dict[str, Any]:
        message = json.loads(self.socket.recv())
        if "method" in message:
            self.events.append(message)
        return message

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        self.socket.send(
            json.dumps(message | ({"sessionId": self.session} if self.session else {}))
        )
        while (answer := self.receive()).get("id") != self.count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=[400, 1400])
def browser(
    request: pytest.FixtureRequest, chromium: str, reported: Path, tmp_path: Path
) -> Iterator[Browser]:
    browser = Browser(chromium, tmp_path / "profile", reported / "report.html", request.param)
    yield browser
    browser.close()


def test_a_browser_shows_the_page_and_plays_its_videos(browser: Browser):
    width = browser.evaluate("innerWidth")
    # Nothing but what scrolls by itself is wider than the window.
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.querySelectorAll('svg')].every(s => s.clientWidth > 200)")
    columns = browser.evaluate(
        "new Set([...document.querySelectorAll('video')].map(v => v.offsetLeft)).size"
    )
    assert columns == (1 if width < 600 else 2)
    played = browser.evaluate(
        "(async () => { const v = document.querySelector('video'); v.loop = false; await v.play();"
        " await new Promise(r => v.ontimeupdate = () => v.currentTime > 0.1 && r());"
        " return [v.currentTime, v.videoWidth]; })()"
    )
    assert played[0] > 0.1
    assert played[1] == 720
    # Dark where the reader's system is.
    for scheme, dark in (("light", False), ("dark", True)):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", features=features)
        colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour))) < 200) == dark
    methods = [event["method"] for event in browser.events]
    assert "Runtime.exceptionThrown" not in methods
    entries = [e["params"]["entry"] for e in browser.events if e["method"] == "Log.entryAdded"]
    assert not [entry for entry in entries if entry["level"] in ("error", "warning")]
    asked = [
        event["params"]["request"]["url"].partition(":")[0]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert set(asked) <= {"file", "data"}
