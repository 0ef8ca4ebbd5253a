"""Labelled images: what is read, how it is split, and what is refused and how that is said."""

import io
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from metarl.runtime.errors import UserError
from metarl.supervised import download, omniglot
from metarl.supervised.glyphs import Glyphs
from metarl.supervised.images import ImageFolder, LabelledImages, decode, reading
from metarl.supervised.labelled import SPLITS, require_disjoint
from metarl.supervised.omniglot import Omniglot

REAL = Path(__file__).parents[3] / "shared" / "data" / "omniglot"

SETTINGS = Omniglot(train_classes=5, validation_classes=2)
"""For the eight characters of ``archives``."""

ALPHABETS = {
    "images_background": {"Greek": 2, "Latin": 3},
    "images_evaluation": {"Runes": 2, "Zapotec": 1},
}
DRAWINGS = 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    """The user's cache is left alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "metarl" / "omniglot"


def drawing(seed: int) -> Image.Image:
    """Ink on paper like Omniglot's: 105x105, one bit, another picture for every seed."""
    paper = np.random.default_rng(seed).random((15, 15)) < 0.8
    return Image.fromarray(np.kron(paper, np.ones((7, 7), bool)))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def members() -> dict[str, dict[str, Image.Image]]:
    """{archive: {path of a drawing in it: drawing}}, all drawings different."""
    found: dict[str, dict[str, Image.Image]] = {}
    for archive, alphabets in ALPHABETS.items():
        found[archive] = {}
        for alphabet, characters in alphabets.items():
            for c in range(1, characters + 1):
                for i in range(1, DRAWINGS + 1):
                    path = f"{archive}/{alphabet}/character{c:02}/{c:04}_{i:02}.png"
                    found[archive][path] = drawing(sum(map(len, found.values())))
    return found


def write_archives(folder: Path) -> Path:
    folder.mkdir()
    for archive, drawings in members().items():
        with zipfile.ZipFile(folder / f"{archive}.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for path, image in drawings.items():
                file.writestr(path, png(image))
    return folder


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A folder with small archives in the form of Omniglot's."""
    return write_archives(tmp_path / "archives")


def refusal(load: Callable[[], object]) -> str:
    """What a UserError says, in one line."""
    with pytest.raises(UserError) as error:
        load()
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same(one: dict[str, LabelledImages], other: dict[str, LabelledImages]) -> None:
    assert list(one) == list(other)
    for split in one:
        assert torch.equal(one[split].pixels, other[split].pixels)
        assert torch.equal(one[split].labels, other[split].labels)
        assert one[split].classes == other[split].classes


def assert_well_formed(images: dict[str, LabelledImages], channels: int, size: int) -> None:
    assert [split for split in SPLITS if split in images] == list(images)
    for pixels, labels, classes in images.values():
        assert pixels.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert pixels.shape == (len(labels), channels, size, size)
        assert sorted(set(labels.tolist())) == list(range(len(classes)))
    names = [name for split in images.values() for name in split.classes]
    assert len(set(names)) == len(names)


def of_class(images: dict[str, LabelledImages], name: str) -> np.ndarray:
    """[n, C, H, W] of a class, in whichever split it is."""
    [split] = [s for s in images.values() if name in s.classes]
    return split.pixels[split.labels == split.classes.index(name)].numpy()


# Omniglot


def test_a_drawing_is_inverted_and_resized(archives: Path):
    images = SETTINGS.load(archives)
    assert_well_formed(images, 1, 28)
    original = members()["images_background"]["images_background/Greek/character02/0002_03.png"]
    expected = ImageOps.invert(original.convert("L")).resize((28, 28), Image.Resampling.LANCZOS)
    found = of_class(images, "Greek/character02")
    assert found.shape == (DRAWINGS, 1, 28, 28)
    np.testing.assert_allclose(found[2, 0].astype(int), np.asarray(expected).astype(int), atol=1)


def test_a_drawing_of_its_own_size_keeps_every_pixel(archives: Path):
    images = Omniglot(train_classes=5, validation_classes=2, size=105).load(archives)
    for paths in members().values():
        for path, original in paths.items():
            _, alphabet, character, name = path.split("/")
            found = of_class(images, f"{alphabet}/{character}")[int(name[-6:-4]) - 1, 0]
            np.testing.assert_array_equal(found, np.where(np.asarray(original), 0, 255))


def test_rotations_are_classes_of_the_same_split(archives: Path):
    upright = Omniglot(train_classes=5, validation_classes=2, rotations=False).load(archives)
    turned = SETTINGS.load(archives)
    transposes = {
        "90": Image.Transpose.ROTATE_90,
        "180": Image.Transpose.ROTATE_180,
        "270": Image.Transpose.ROTATE_270,
    }
    for split, images in upright.items():
        names = [f"{name}/{angle}" for angle in transposes for name in images.classes]
        assert turned[split].classes == (*images.classes, *names)
        for name in names:
            character, _, angle = name.rpartition("/")
            for one, other in zip(
                of_class(upright, character), of_class(turned, name), strict=True
            ):
                expected = Image.fromarray(one[0]).transpose(transposes[angle])
                np.testing.assert_array_equal(other[0], np.asarray(expected))


def test_characters_are_shuffled_once_and_for_all(archives: Path):
    images = SETTINGS.load(archives)
    assert [len(images[split].classes) // 4 for split in SPLITS] == [3, 2, 3]
    # As it was when this was written: scores of different versions are to be comparable.
    assert images["validation"].classes[:2] == ("Runes/character02", "Greek/character02")
    assert_same(images, SETTINGS.load(archives))


def test_alphabets_are_not_split(archives: Path):
    images = Omniglot(split="alphabets", validation_classes=1, rotations=False).load(archives)
    assert_well_formed(images, 1, 28)
    alphabets = [{name.split("/")[0] for name in images[split].classes} for split in SPLITS]
    assert alphabets == [{"Greek"}, {"Latin"}, {"Runes", "Zapotec"}]


@pytest.mark.parametrize("split", ["characters", "alphabets"])
def test_there_may_be_no_validation_classes(archives: Path, split):
    images = Omniglot(split=split, train_classes=5, validation_classes=0).load(archives)
    assert list(images) == ["train", "test"]


def test_extracted_folders_are_the_same(archives: Path, tmp_path: Path):
    for archive in ALPHABETS:
        with zipfile.ZipFile(archives / f"{archive}.zip") as file:
            file.extractall(tmp_path / "extracted")
    (tmp_path / "extracted" / "images_background" / "Latin" / "strokes.txt").touch()
    assert_same(SETTINGS.load(archives), SETTINGS.load(tmp_path / "extracted"))


def test_files_that_archivers_add_are_left_alone(archives: Path, tmp_path: Path):
    expected = SETTINGS.load(archives)
    with zipfile.ZipFile(archives / "images_evaluation.zip", "a") as file:
        file.writestr("__MACOSX/images_evaluation/Runes/character01/._0001_01.png", b"x")
        file.writestr("images_evaluation/Runes/character01/._0001_01.png", b"x")
        file.writestr("images_evaluation/Runes/.DS_Store", b"x")
        file.mkdir("images_evaluation/Empty/character01")
    assert_same(expected, SETTINGS.load(archives))


def test_too_few_characters_are_refused(archives: Path):
    said = refusal(lambda: Omniglot().load(archives))
    assert "train_classes should be less than the 8 characters" in said
    said = refusal(lambda: Omniglot(split="alphabets").load(archives))
    assert "validation_classes" in said
    assert "5 characters of images_background" in said


def test_validation_classes_are_a_part_of_the_training_classes():
    with pytest.raises(ValueError, match="validation_classes should be less than train_classes"):
        Omniglot(train_classes=10, validation_classes=10)


@pytest.mark.parametrize("split", ["characters", "alphabets"])
@pytest.mark.parametrize("name", ["Greek/character01", "Latin/character02", "Latin/character03"])
def test_a_character_of_both_archives_is_refused(archives: Path, split, name):
    """Also when both would come into the same split."""
    with zipfile.ZipFile(archives / "images_evaluation.zip", "a") as file:
        file.writestr(f"images_evaluation/{name}/0000_01.png", png(drawing(0)))
    assert f"leak: {name} is in" in refusal(lambda: Omniglot(split, 7, 0).load(archives))


def test_a_split_that_leaks_would_be_refused(archives: Path, monkeypatch):
    leaky = {"train": ["Greek/character01"], "test": ["Latin/character01", "Greek/character01"]}
    monkeypatch.setattr(Omniglot, "_split_characters", lambda self, names: leaky)
    assert "leak: Greek/character01 is in" in refusal(lambda: SETTINGS.load(archives))


def test_a_folder_without_the_archives_is_refused(archives: Path, tmp_path: Path):
    assert f"there is no folder {tmp_path}/x" in refusal(lambda: SETTINGS.load(tmp_path / "x"))
    (archives / "images_evaluation.zip").unlink()
    assert "should hold images_evaluation.zip" in refusal(lambda: SETTINGS.load(archives))
    with zipfile.ZipFile(archives / "images_evaluation.zip", "w") as file:
        file.writestr("images_evaluation/README.txt", "nothing")
    assert "holds none" in refusal(lambda: SETTINGS.load(archives))


def test_a_truncated_archive_is_named(archives: Path):
    path = archives / "images_background.zip"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"cannot read {path}" in refusal(lambda: SETTINGS.load(archives))


def test_a_damaged_member_is_named(archives: Path):
    path = archives / "images_background.zip"
    data = bytearray(path.read_bytes())
    data[data.index(b"IHDR") + 40] ^= 255  # of the first drawing
    path.write_bytes(data)
    member = "images_background/Greek/character01/0001_01.png"
    assert f"cannot read {member} in {path}" in refusal(lambda: SETTINGS.load(archives))


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "not an image"), (b"x" * 99, "not an image"), (png(drawing(0))[:-60], "truncated")],
    ids=["empty", "garbage", "truncated"],
)
def test_a_drawing_that_is_no_image_is_named(archives: Path, tmp_path: Path, data, reason):
    path = archives / "images_background.zip"
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("images_background/Latin/character04/0004_01.png", data)
        file.extractall(archives)
    member = "images_background/Latin/character04/0004_01.png"
    said = refusal(lambda: SETTINGS.load(archives))
    assert f"cannot read {member} in {path}" in said
    assert reason in said
    path.unlink()  # now the folder is read
    assert f"cannot read {archives / member}" in refusal(lambda: SETTINGS.load(archives))


# The cache of decoded images


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The sources that were decoded, not found in the cache."""
    sources: list[Path] = []
    read = omniglot.read

    def noted(source: Path, size: int) -> LabelledImages:
        sources.append(source)
        return read(source, size)

    monkeypatch.setattr(omniglot, "read", noted)
    return sources


def test_images_are_decoded_once(archives: Path, decoded):
    first = SETTINGS.load(archives)
    assert len(decoded) == 2
    assert_same(first, SETTINGS.load(archives))
    assert len(decoded) == 2
    Omniglot(train_classes=5, validation_classes=2, size=20).load(archives)
    assert len(decoded) == 4  # another size, other images
    assert_same(first, SETTINGS.load(archives))
    assert len(decoded) == 4


def test_other_images_are_decoded_anew(archives: Path, decoded):
    before = SETTINGS.load(archives)
    with zipfile.ZipFile(archives / "images_evaluation.zip", "a") as file:
        file.writestr("images_evaluation/Runes/character01/0001_09.png", png(drawing(99)))
    after = SETTINGS.load(archives)
    assert [source.stem for source in decoded[2:]] == ["images_evaluation"]
    assert len(of_class(after, "Runes/character01")) == DRAWINGS + 1
    assert len(of_class(before, "Runes/character01")) == DRAWINGS


def test_another_drawing_in_a_folder_is_seen(archives: Path, decoded):
    for archive in ALPHABETS:
        with zipfile.ZipFile(archives / f"{archive}.zip") as file:
            file.extractall(archives)
        (archives / f"{archive}.zip").unlink()
    settings = Omniglot(train_classes=5, validation_classes=2, size=105)
    changed = archives / "images_background" / "Greek" / "character01" / "0001_01.png"
    for seed, loads in ((98, 2), (99, 3)):
        changed.write_bytes(png(drawing(seed)).ljust(1000, b"\0"))  # as long as the other
        for _ in range(2):
            found = of_class(settings.load(archives), "Greek/character01")
            np.testing.assert_array_equal(found[0, 0] == 0, np.asarray(drawing(seed)))
            assert len(decoded) == loads


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped", "other"])
def test_a_damaged_cache_is_written_anew(archives: Path, cache: Path, decoded, damage):
    expected = SETTINGS.load(archives)
    kept = sorted(cache.glob("*.npz"))
    assert len(kept) == 2
    whole = [path.read_bytes() for path in kept]
    flipped = bytearray(whole[0])
    flipped[2000] ^= 1  # a pixel
    other = io.BytesIO()
    np.savez(other, pixels=np.zeros((3, 1, 28, 28)), labels=np.zeros(2), classes=np.array(["A"]))
    kept[0].write_bytes(
        {
            "garbage": b"x" * 100,
            "truncated": whole[0][:-10],
            "flipped": bytes(flipped),
            "other": other.getvalue(),
        }[damage]
    )
    assert_same(expected, SETTINGS.load(archives))
    assert len(decoded) == 3
    assert_same(expected, SETTINGS.load(archives))
    assert len(decoded) == 3


def test_a_cache_that_cannot_be_written_is_no_error(archives: Path, tmp_path: Path, capsys):
    expected = SETTINGS.load(archives)
    for path in (tmp_path / "cache" / "metarl" / "omniglot").iterdir():
        path.unlink()
    (tmp_path / "cache" / "metarl" / "omniglot").rmdir()
    (tmp_path / "cache" / "metarl" / "omniglot").touch()  # a file where the folder should be
    assert_same(expected, SETTINGS.load(archives))
    assert "cannot keep decoded images" in capsys.readouterr().err


def test_a_user_without_a_home_has_no_cache(archives: Path, monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    expected = SETTINGS.load(archives)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", homeless)
    assert_same(expected, SETTINGS.load(archives))
    assert "XDG_CACHE_HOME" in refusal(lambda: SETTINGS.load(None))


# Download


class Server(BaseHTTPRequestHandler):
    """Serves ``files`` with Range, and notes what it was asked for."""

    files: dict[str, bytes]
    asked: list[tuple[str, str | None]]
    ranges = True
    breaks_after: int | None = None  # bytes of a body

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.asked.append((self.path, asked))
        body = self.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if start and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: self.breaks_after])

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(archives: Path, monkeypatch) -> Iterator[type[Server]]:
    """A server of ``archives``, in the place of the official one."""
    files = {f"/python/{path.name}": path.read_bytes() for path in archives.iterdir()}
    handler = type("Handler", (Server,), {"files": files, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=partial(http.serve_forever, poll_interval=0.01))
        thread.start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(omniglot, "URL", f"http://127.0.0.1:{http.server_port}/python/")
        for archive in ALPHABETS:
            path = archives / f"{archive}.zip"
            monkeypatch.setitem(omniglot.ARCHIVES, archive, download._md5(path))
        yield handler
        http.shutdown()
        thread.join()


NAMES = ["/python/images_background.zip", "/python/images_evaluation.zip"]


def test_the_official_archives_are_expected():
    assert omniglot.URL == "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
    assert omniglot.ARCHIVES == {
        "images_background": "68d2efa1b9178cc56df9314c21c6e718",
        "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
    }


def test_archives_are_downloaded_once(archives: Path, server, cache: Path, capsys):
    expected = SETTINGS.load(archives)
    assert_same(expected, SETTINGS.load(None))
    assert "downloading" in capsys.readouterr().err
    assert server.asked == [(name, None) for name in NAMES]
    assert_same(expected, SETTINGS.load(None))
    assert len(server.asked) == 2
    assert not list(cache.glob("*.part"))


def test_a_broken_download_is_continued(archives: Path, server, cache: Path):
    server.breaks_after = 1000
    missing = len(server.files[NAMES[0]]) - 1000
    said = refusal(lambda: SETTINGS.load(None))
    assert f"broke {missing} bytes before the end" in said
    assert not (cache / "images_background.zip").exists()
    server.breaks_after = None
    images = SETTINGS.load(None)
    assert server.asked[1:] == [(NAMES[0], "bytes=1000-"), (NAMES[1], None)]
    assert_same(images, SETTINGS.load(archives))


def test_a_server_without_ranges_sends_all_again(archives: Path, server, cache: Path):
    server.ranges = False
    cache.mkdir(parents=True)
    (cache / "images_background.zip.part").write_bytes(server.files[NAMES[0]][:500])
    assert_same(SETTINGS.load(None), SETTINGS.load(archives))
    assert server.asked == [(NAMES[0], "bytes=500-"), (NAMES[1], None)]


@pytest.mark.parametrize("length", [500, 10**5], ids=["shorter", "longer"])
def test_a_beginning_of_another_file_is_dropped(archives: Path, server, cache: Path, length):
    cache.mkdir(parents=True)
    (cache / "images_background.zip.part").write_bytes(b"x" * length)
    assert_same(SETTINGS.load(None), SETTINGS.load(archives))
    assert [name for name, _ in server.asked] == [NAMES[0], NAMES[0], NAMES[1]]


def test_a_whole_file_under_its_temporary_name_is_kept(archives: Path, server, cache: Path):
    cache.mkdir(parents=True)
    (cache / "images_background.zip.part").write_bytes(server.files[NAMES[0]])
    assert_same(SETTINGS.load(None), SETTINGS.load(archives))
    assert [name for name, _ in server.asked] == NAMES


def test_a_wrong_checksum_is_refused(archives: Path, server, cache: Path):
    right = server.files[NAMES[1]]
    server.files[NAMES[1]] = right[:-1] + b"x"
    said = refusal(lambda: SETTINGS.load(None))
    assert re.search(r"images_evaluation\.zip is damaged: its MD5 .* --data_folder", said)
    assert [path.name for path in cache.glob("*evaluation.zip*")] == ["images_evaluation.zip.lock"]
    server.files[NAMES[1]] = right
    assert_same(SETTINGS.load(None), SETTINGS.load(archives))


def test_a_file_damaged_on_the_disk_is_downloaded_again(archives: Path, server, cache: Path):
    expected = SETTINGS.load(None)
    path = cache / "images_background.zip"
    path.write_bytes(path.read_bytes()[:-1])
    assert_same(expected, SETTINGS.load(None))
    assert [name for name, _ in server.asked] == [*NAMES, NAMES[0]]


def test_two_that_want_the_same_file_download_it_once(archives: Path, server):
    found: list[dict[str, LabelledImages]] = []
    threads = [threading.Thread(target=lambda: found.append(SETTINGS.load(None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert [name for name, _ in server.asked] == NAMES


def test_an_archive_of_ones_own_needs_no_checksum(archives: Path, monkeypatch):
    monkeypatch.setitem(omniglot.ARCHIVES, "images_background", "0" * 32)
    assert SETTINGS.load(archives)


def test_a_missing_page_and_no_connection_are_one_line(server, monkeypatch, cache: Path):
    del server.files[NAMES[0]]
    said = refusal(lambda: SETTINGS.load(None))
    assert "images_background.zip: HTTP Error 404" in said
    assert "--data_folder" in said
    monkeypatch.setattr(omniglot, "URL", "http://127.0.0.1:9/")  # nobody listens
    said = refusal(lambda: SETTINGS.load(None))
    assert re.search(r"cannot download http://127.0.0.1:9/images_background.zip: .*refused", said)
    assert "<" not in said
    wanted = "images_background.zip and images_evaluation.zip by other means"
    assert said.endswith(f"; download {wanted} and give their folder by --data_folder")


# The real data

needs_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"there is no {REAL}")


@needs_data
def test_all_of_omniglot_by_characters(own_cache: str, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", own_cache)
    images = Omniglot().load(REAL)
    assert_well_formed(images, 1, 28)
    assert [len(images[split].classes) for split in SPLITS] == [4 * 1100, 4 * 100, 4 * 423]
    sides = [{re.sub(r"/\d+$", "", name) for name in images[split].classes} for split in SPLITS]
    assert [len(side) for side in sides] == [1100, 100, 423]
    assert len(set.union(*sides)) == 1623  # none is on two sides, whichever way up
    for split in SPLITS:
        assert (torch.bincount(images[split].labels) == 20).all()
        # Lines on paper: little is ink.
        assert 0.03 < images[split].pixels.float().mean() / 255 < 0.15


@needs_data
def test_all_of_omniglot_by_alphabets(own_cache: str, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", own_cache)
    images = Omniglot(split="alphabets", rotations=False).load(REAL)
    assert_well_formed(images, 1, 28)
    alphabets = [{name.split("/")[0] for name in images[split].classes} for split in SPLITS]
    assert [len(names) for names in alphabets] == [26, 4, 20]
    assert [len(images[split].classes) for split in SPLITS] == [827, 137, 659]
    assert sum(map(len, alphabets)) == len(set.union(*alphabets))


# Folders of images

COLOURS = {"ape": (200, 30, 20), "bee": (240, 220, 0), "cat": (90, 90, 90), "dog": (10, 80, 160)}
SPLIT_OF = {"ape": "train", "bee": "train", "cat": "val", "dog": "test"}


def photo(name: str) -> Image.Image:
    return Image.new("RGB", (60, 40), COLOURS[name])


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train/, val/ and test/ with class folders; two images of each class."""
    for name, split in SPLIT_OF.items():
        folder = tmp_path / "set" / split / name
        folder.mkdir(parents=True)
        photo(name).save(folder / "1.png")
        photo(name).save(folder / "2.JPG", "JPEG")
        (folder / "notes.txt").touch()
        (folder / "._1.png").touch()
    return tmp_path / "set"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """images/ with an image of each class, for a CSV beside it."""
    (tmp_path / "csv" / "images").mkdir(parents=True)
    for name in COLOURS:
        photo(name).save(tmp_path / "csv" / "images" / f"{name}.png")
    return tmp_path / "csv"


def write_table(path: Path, header: str, *rows: str, encoding: str = "utf-8") -> None:
    path.write_text("\n".join([header, *rows]), encoding=encoding)


def assert_colours(images: dict[str, LabelledImages], atol: int = 0) -> None:
    assert {s: v.classes for s, v in images.items()} == {
        "train": ("ape", "bee"),
        "validation": ("cat",),
        "test": ("dog",),
    }
    for name, colour in COLOURS.items():
        for pixels in of_class(images, name).astype(int):
            expected = np.broadcast_to(np.array(colour)[:, None, None], pixels.shape)
            np.testing.assert_allclose(pixels, expected, atol=atol)


def test_class_folders(folders: Path):
    images = ImageFolder(size=10).load(folders)
    assert_well_formed(images, 3, 10)
    assert_colours(images, atol=3)  # of JPEG
    assert all((torch.bincount(split.labels) == 2).all() for split in images.values())
    assert_same(images, ImageFolder(size=10).load(folders))


def test_class_folders_may_have_folders(folders: Path):
    expected = ImageFolder(size=10).load(folders)
    nested = folders / "train" / "ape" / "images"
    nested.mkdir()
    for file in ("1.png", "2.JPG"):
        (nested.parent / file).rename(nested / file)
    assert_same(expected, ImageFolder(size=10).load(folders))


def test_an_image_is_resized_as_pillow_does_it(folders: Path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    for file in (folders / "test" / "dog").glob("[12]*"):
        file.unlink()
    Image.fromarray(noise).save(folders / "test" / "dog" / "1.bmp")
    small = Image.fromarray(noise).resize((16, 16), Image.Resampling.LANCZOS)
    found = ImageFolder(size=16).load(folders)["test"].pixels[0]
    np.testing.assert_array_equal(found.permute(1, 2, 0), np.asarray(small))
    grey = ImageFolder(size=16, channels=1).load(folders)["test"].pixels
    assert grey.shape == (1, 1, 16, 16)
    expected = np.asarray(small) @ [0.299, 0.587, 0.114]  # ITU-R 601-2 luma
    np.testing.assert_allclose(grey[0, 0], expected, atol=2)


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_one_csv_per_split(files: Path, validation):
    write_table(files / "train.csv", "filename,label", "ape.png,ape", "bee.png,bee")
    write_table(files / f"{validation}.csv", "filename,label", "cat.png,cat")
    write_table(files / "test.csv", "filename,label", "dog.png,dog")
    images = ImageFolder(size=10).load(files)
    assert_well_formed(images, 3, 10)
    assert_colours(images)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("file,label,split", "{name}.png,{name},{split}"),
        ("split, filename, label, photographer", "{split}, {name}.png, {name}, Ann"),
        ("file,label,split", '"images/{name}.png","{name}",{split}'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_one_csv(files: Path, header, row, encoding):
    rows = [row.format(name=name, split=split) for name, split in SPLIT_OF.items()]
    write_table(files / "whatever.csv", header, *rows, encoding=encoding)
    assert_colours(ImageFolder(size=10).load(files))


def test_a_set_may_have_no_validation_images(files: Path):
    write_table(files / "labels.csv", "file,label,split", "ape.png,a,train", "dog.png,d,test")
    assert list(ImageFolder(size=10).load(files)) == ["train", "test"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["ape.png,a,train", "bee.png,a,test"], "leak: a is in train and in test"),
        (["ape.png,a,train", "ape.png,b,test"], "ape.png is listed 2 times"),
        (["ape.png,a,train", "ape.png,a,train", "dog.png,d,test"], "ape.png is listed 2 times"),
        (["ape.png,a,train"], "has no test images"),
        (["ape.png,a,test"], "has no train images"),
        ([], "has no train images"),
        (["ape.png,a,train", "eel.png,e,test"], "line 3: there is no file"),
        (["ape.png,a,training"], "line 2: split should be one of train, validation, val, test"),
        (["ape.png,,train"], "line 2: there is no label"),
        ([",a,train"], "line 2: there is no filename or file"),
        (["ape.png,a"], "line 2: there is no split"),
    ],
)
def test_a_wrong_csv_is_refused(files: Path, rows, said):
    write_table(files / "labels.csv", "file,label,split", *rows)
    assert said in refusal(lambda: ImageFolder().load(files))


def test_a_csv_that_is_no_text_is_refused(files: Path):
    photo("ape").save(files / "labels.csv", "PNG")
    assert f"cannot read {files}/labels.csv" in refusal(lambda: ImageFolder().load(files))


def test_a_leak_between_csv_files_is_refused(files: Path):
    write_table(files / "train.csv", "filename,label", "ape.png,ape", "bee.png,bee")
    write_table(files / "test.csv", "filename,label", "dog.png,bee")
    said = refusal(lambda: ImageFolder().load(files))
    assert "leak: bee is in train and in test" in said


def test_a_leak_between_folders_is_refused(folders: Path):
    (folders / "val" / "cat").rename(folders / "val" / "dog")
    said = refusal(lambda: ImageFolder().load(folders))
    assert "leak: dog is in validation and in test" in said


def test_a_folder_in_no_known_order_is_refused(folders: Path, files: Path, tmp_path: Path):
    assert "--data_folder" in refusal(lambda: ImageFolder().load(None))
    assert "there is no folder" in refusal(lambda: ImageFolder().load(tmp_path / "x"))
    assert "it holds 0 CSV files" in refusal(lambda: ImageFolder().load(files))
    (files / "a.csv").touch()
    (files / "b.csv").touch()
    assert "it holds 2 CSV files" in refusal(lambda: ImageFolder().load(files))
    (folders / "validation").mkdir()
    assert "one of validation and val" in refusal(lambda: ImageFolder().load(folders))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_refused(folders: Path, split):
    (folders / split).rename(folders / "elsewhere")
    assert f"has no {split} images" in refusal(lambda: ImageFolder().load(folders))


def test_a_class_without_images_is_refused(folders: Path):
    (folders / "train" / "emu").mkdir()
    (folders / "train" / "emu" / "1.txt").touch()
    assert f"{folders}/train/emu holds no images" in refusal(lambda: ImageFolder().load(folders))


def test_an_unreadable_image_is_named(folders: Path):
    path = folders / "train" / "bee" / "2.JPG"
    path.write_bytes(path.read_bytes()[:-40])
    assert f"cannot read {path}: " in refusal(lambda: ImageFolder().load(folders))
    path.write_text("not one")
    assert refusal(lambda: ImageFolder().load(folders)) == f"cannot read {path}: not an image"
    Image.fromarray(np.ones((9, 9), np.float32)).save(path, "TIFF")
    assert "8 bits per channel" in refusal(lambda: ImageFolder().load(folders))


def in_mode(mode: str, **saved: Any) -> Image.Image:
    """An image file: black on the left, and on the right transparent or a grey of its own."""
    kinds: dict[str, Callable[[], Image.Image]] = {
        "RGBA": lambda: Image.new("RGBA", (2, 2), (0, 0, 0, 0)),
        "LA": lambda: Image.new("LA", (2, 2), (0, 0)),
        "P": lambda: Image.new("P", (2, 2), 1),  # 0 is black, 1 is transparent
        "L": lambda: Image.new("L", (2, 2), 7),
        "I;16": lambda: Image.fromarray(np.full((2, 2), 2570, np.uint16)),
    }
    image = kinds[mode]()
    if mode == "P":
        image.putpalette([0, 0, 0, 90, 90, 90])
    ink: Any = {"RGBA": (0, 0, 0, 255), "LA": (0, 255)}.get(mode, 0)
    for y in range(2):
        image.putpixel((0, y), ink)
    file = io.BytesIO()
    image.save(file, **{"format": "PNG", **saved})
    return Image.open(file)


@pytest.mark.parametrize(
    ("image", "right"),
    [
        (in_mode("RGBA"), 255),
        (in_mode("LA"), 255),
        (in_mode("P", transparency=1), 255),
        (in_mode("P", transparency=1, format="GIF"), 255),
        (in_mode("L", transparency=7), 255),
        (in_mode("P"), 90),
        (in_mode("L"), 7),
        (in_mode("I;16"), 10),
        (in_mode("I;16", format="TIFF"), 10),
        (in_mode("I;16", format="PPM"), 10),
        (in_mode("I;16", transparency=2570), 255),
    ],
    ids=lambda each: f"{each.format}-{each.mode}" if isinstance(each, Image.Image) else str(each),
)
def test_an_image_is_as_a_viewer_shows_it(image: Image.Image, right: int):
    for channels in (1, 3):
        file = io.BytesIO(image.fp.getvalue())  # type: ignore[union-attr]
        assert decode(file, channels, 2).tolist() == [[[0, right]] * 2] * channels


def test_an_image_is_upright():
    file = io.BytesIO()
    image = Image.new("L", (2, 1))
    image.putpixel((1, 0), 200)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3  # upside down
    image.save(file, "PNG", exif=exif)
    assert decode(file, 1, 2)[0, 0].tolist() == [200, 0]


def test_classes_that_show_nothing_and_files_left_out_are_said(folders: Path, capsys):
    for name in ("ape", "bee"):
        image = photo(name)
        for file in ("1.png", "2.JPG"):
            if name == "ape" or file == "1.png":  # all of bee are the same
                image.putpixel((0, int(file[0])), (0, 0, 0))
            image.save(folders / "train" / name / file, "PNG")
    (folders / "train" / "stray.png").touch()
    ImageFolder(size=60).load(folders)
    left, dull = capsys.readouterr().err.splitlines()
    assert f"5 files in {folders} are left out, as they are not images in a folder of their" in left
    assert (
        f"in {folders}, images of 3 classes (bee, cat, dog) are of one colour or all the same"
        in dull
    )


def test_folders_in_folders_are_classes_as_the_setting_says(folders: Path, capsys):
    expected = ImageFolder(size=10).load(folders)
    for name in ("old", "new"):
        (folders / "train" / "ape" / name).mkdir()
    (folders / "train" / "ape" / "1.png").rename(folders / "train" / "ape" / "old" / "1.png")
    (folders / "train" / "ape" / "2.JPG").rename(folders / "train" / "ape" / "new" / "2.JPG")
    said = (
        f"in {folders}/train, the images of 1 class (ape) are in several folders; with "
        "--data.class_folders deepest each of these is a class"
    )
    assert said not in capsys.readouterr().err
    first = ImageFolder(size=10).load(folders)
    assert said in capsys.readouterr().err
    assert first["train"].classes == expected["train"].classes
    assert len(first["train"].labels) == len(expected["train"].labels)
    deepest = ImageFolder(size=10, class_folders="deepest").load(folders)
    assert deepest["train"].classes == ("ape/new", "ape/old", "bee")
    assert deepest["test"].classes == ("dog",)
    assert said not in capsys.readouterr().err


# Glyphs


def test_glyphs_are_the_same_always():
    images = Glyphs(train_classes=6, validation_classes=2, test_classes=3).load(None)
    assert_well_formed(images, 1, 28)
    assert [len(images[split].classes) for split in SPLITS] == [6, 2, 3]
    assert_same(images, Glyphs(train_classes=6, validation_classes=2, test_classes=3).load(None))
    # As they were when this was written, up to rounding.
    means = [images[split].pixels.float().mean().item() for split in SPLITS]
    assert means == pytest.approx([35.9, 28.4, 27.3], abs=0.2)


def test_more_glyphs_leave_the_others_alone():
    few = Glyphs(train_classes=2, validation_classes=0, test_classes=2, drawings=3).load(None)
    many = Glyphs(train_classes=4, validation_classes=1, test_classes=2, drawings=5).load(None)
    assert list(few) == ["train", "test"]
    for split in few:
        for name in few[split].classes:
            np.testing.assert_array_equal(of_class(few, name), of_class(many, name)[:3])


def test_drawings_of_a_glyph_differ_less_than_glyphs():
    """The nearest class mean of ten drawings tells most of the other drawings apart."""
    images = Glyphs(test_classes=20).load(None)["test"]
    drawings = images.pixels.float().reshape(20, 20, -1)
    blurred = torch.nn.functional.avg_pool2d(drawings.reshape(400, 1, 28, 28), 4)
    blurred = blurred.reshape(20, 20, -1)
    means = blurred[:, :10].mean(1)
    nearest = torch.cdist(blurred[:, 10:].reshape(200, -1), means).argmin(1).reshape(20, 10)
    assert (nearest == torch.arange(20)[:, None]).float().mean() > 0.9
    assert len(torch.unique(drawings.reshape(400, -1), dim=0)) == 400
    assert drawings.max() == 255
    assert drawings.min() == 0


def test_glyphs_have_no_folder(tmp_path: Path):
    assert "--data_folder" in refusal(lambda: Glyphs().load(tmp_path))


# All


def test_a_class_in_two_splits_is_refused():
    require_disjoint({"train": ["a", "b"], "validation": [], "test": ["c"]})
    said = refusal(lambda: require_disjoint({"train": ["a", "b"], "test": ["c", "b"]}))
    assert "leak: b is in train and in test" in said


def test_an_image_that_another_program_would_have_to_open_is_refused(tmp_path: Path) -> None:
    """Pillow goes by the content, and hands PostScript to Ghostscript."""
    file = io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="not an image"), reading("x.png"):
        decode(file, 1, 28)
