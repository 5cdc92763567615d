"""`main.py app`: visits and what they get, over HTTP and in a browser; needs the extra `app`."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageCms
from safetensors.torch import save_file
from torch import Tensor, nn

import enlarger
from commands.app.app import models_to_offer
from commands.app.models import Models
from files.images.decode import decode
from lightning_modules import EDSR
from lightning_modules.sampling.tiling import Tiling
from tests.callbacks.accessibility import problems
from tests.callbacks.browser import Browser, chromium
from tests.commands.stochastic import Noisy
from tests.conftest import REPO
from tests.datamodules.profiles import rgb_profile, srgb_of_rgb

DRAWS = np.random.default_rng(0)
RGB = DRAWS.integers(0, 256, (24, 44, 3), dtype=np.uint8)
SMALL = {"width": 8, "multipliers": [1], "blocks": 1, "size": 32, "swin_width": 8, "heads": 2}
INIT = {
    "Regression": {
        "network": {
            "class_path": "lightning_modules.EDSR",
            "init_args": {"blocks": 1, "channels": 4},
        }
    },
    "ResShift": {
        "network": {
            "class_path": "lightning_modules.SwinUNet",
            "init_args": {**SMALL, "condition_factor": 0.5},
        },
        "space": "lightning_modules.PixelSpace",
        "process": {"class_path": "lightning_modules.ResidualShift", "init_args": {"steps": 4}},
    },
}


def configure(folder: Path, class_path: str, init_args: dict[str, Any]) -> None:
    """Write the configuration of a run or an export."""
    folder.mkdir(parents=True)
    model = {"class_path": class_path, "init_args": init_args}
    data = {"class_path": "datamodules.SRDataModule", "init_args": {"scale": 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))


def export(folder: Path, name: str, network: nn.Module) -> None:
    """Write a method as `export` does."""
    configure(folder, f"lightning_modules.{name}", INIT[name])
    tensors = {
        f"network.{key}": 0.1 * torch.randn_like(value) if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    about = {"enlarger": "0", "model": f"lightning_modules.{name}", "scale": "2"}
    about["init_args"] = json.dumps(INIT[name])
    save_file(tensors, folder / "model.safetensors", about)


def wait(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


class Visitor:
    """A visit of the page.

    Args:
        url: The page's address.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.visit = f"{url}/visits/{json.loads(ask(f'{url}/visits', b''))['id']}"

    def upload(self, photo: Path) -> dict[str, Any]:
        path = f"{self.visit}/photographs?name={photo.name}"
        return json.loads(ask(path, photo.read_bytes()))["photographs"][-1]

    def post(self, path: str, **content: Any) -> dict[str, Any]:
        return json.loads(ask(self.visit + path, json.dumps({**EMPTY, **content}).encode()))

    def state(self) -> dict[str, Any]:
        return json.loads(ask(self.visit))

    def finish(self) -> list[dict[str, Any]]:
        """Wait until nothing is to be done."""

        def is_done() -> bool:
            photographs = self.state()["photographs"]
            return not any(one["waits"] or one["progress"] is not None for one in photographs)

        wait(is_done)
        return self.state()["photographs"]

    def progress(self) -> float | None:
        return self.state()["photographs"][0]["progress"]

    def enlarge(self, photo: Path, source: str, **settings: Any) -> bytes:
        """Return the file of a photograph."""
        number = self.upload(photo)["number"]
        self.post("/enlarge", source=source, **settings)
        assert [one["error"] for one in self.finish() if one["number"] == number] == [""]
        return self.get(number, "output")

    def get(self, number: int, path: str) -> bytes:
        return ask(f"{self.visit}/photographs/{number}/{path}")


EMPTY = {"scale": "", "steps": "", "tile": "", "seed": "0", "strength": "100", "format": "png"}


def ask(url: str, data: bytes | None = None, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as reply:
        return reply.read()


def refusal(url: str, data: bytes | None = None, **headers: str) -> str:
    with pytest.raises(urllib.error.HTTPError) as raised:
        ask(url, data, **headers)
    return f"{raised.value.code} {raised.value.read().decode()}"


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)))


class Page:
    """The page, served in a thread.

    Args:
        runs: A folder of exports.
    """

    def __init__(self, runs: Path) -> None:
        import uvicorn

        from commands.app.page import application

        self.edsr, self.noisy, self.stuck = sorted(map(str, runs.iterdir()))
        self.files = runs.with_name("visits")
        self.files.mkdir()
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        models = Models([self.edsr, self.noisy, self.stuck, "realesr-general-x4"])
        page = application(models, self.files)
        self._server = uvicorn.Server(uvicorn.Config(page, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


class Stuck(Noisy):
    """Makes one tile, and waits in the next one."""

    released = threading.Event()

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.layer = nn.Identity()
        self.tiles = 0

    def restore(self, batch: Any, noise: Any) -> Tensor:
        self.tiles += 1
        while self.tiles > 1 and not self.released.wait(0.01):
            self.layer(batch["lr"])
        return super().restore(batch, noise)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    pytest.importorskip("uvicorn", reason="the extra 'app' is not installed")
    folder = tmp_path_factory.mktemp("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("commands.app.page.LARGEST_UPLOAD", 300_000)
        patch.setattr("commands.app.visits.LEFT", 0.5)
        patch.setattr("commands.app.page.MOST_VISITS", 100)
        patch.setattr("callbacks.weights.place_of", lambda entry: None)
        export(folder / "runs/edsr", "Regression", EDSR(2, blocks=1, channels=4))
        in_steps = {"sampling": {"steps": 4, "level": 0.2}}
        configure(folder / "runs/noisy", "tests.commands.stochastic.InSteps", in_steps)
        configure(folder / "runs/stuck", "tests.commands.test_app.Stuck", {})
        page = Page(folder / "runs")
        yield page
        Stuck.released.set()
        page.close()


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(RGB).save(path, icc_profile=PROFILE)
    return path


def test_the_file_is_what_python_gives(page: Page, photo: Path, tmp_path: Path) -> None:
    """Bit for bit, with the profile; also with alpha, and of 16 bits."""
    model = enlarger.load(page.edsr, device="cpu")
    visitor = Visitor(page.url)
    file = visitor.enlarge(photo, page.edsr)
    assert decode(file, "photo").icc == PROFILE
    assert np.array_equal(pixels(file), model.enlarge(RGB))
    file = visitor.enlarge(photo, page.edsr, scale="1.5", strength="50")
    assert pixels(file).shape == (36, 66, 3)
    assert np.array_equal(pixels(file), model.enlarge(RGB, scale=1.5, strength=0.5))
    clear, deep = np.dstack([RGB, RGB[..., 0]]), RGB.astype(np.uint16) * 200
    for name, levels in (("clear", clear), ("grey", clear[..., 2:])):
        Image.fromarray(levels).save(tmp_path / f"{name}.png")
        file = visitor.enlarge(tmp_path / f"{name}.png", page.edsr)
        assert np.array_equal(pixels(file), model.enlarge(levels))
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    file = visitor.enlarge(tmp_path / "deep.png", page.edsr)
    assert np.array_equal(decode(file, "deep").rgb, model.enlarge(deep))


def test_several_photographs_are_one_archive(page: Page, photo: Path, tmp_path: Path) -> None:
    """As JPEG on white; one that is no image keeps none of the others from being made."""
    clear, broken = tmp_path / "clear.png", tmp_path / "words.png"
    Image.fromarray(np.dstack([RGB, np.zeros_like(RGB[..., 0])])).save(clear)
    broken.write_text("no image")
    visitor = Visitor(page.url)
    for file in (photo, clear, photo):
        visitor.upload(file)
    assert "words.png: not an image" in refusal(
        f"{visitor.visit}/photographs?name=words.png", broken.read_bytes()
    )
    visitor.post("/enlarge", source=page.edsr, format="jpg")
    visitor.finish()
    archive = zipfile.ZipFile(io.BytesIO(ask(visitor.visit + "/enlarged.zip")))
    assert archive.namelist() == ["photo_x2.jpg", "clear_x2.jpg", "3_photo_x2.jpg"]
    assert (pixels(archive.read("clear_x2.jpg")) == 255).all()


def test_steps_tiles_and_seed_are_those_of_python(page: Page, photo: Path) -> None:
    """Without steps they are the method's own, whatever the visitor before has set."""
    own = enlarger.load(page.noisy, device="cpu")
    few = enlarger.load(page.noisy, device="cpu", sampling={"steps": 2})
    tiled = {"seed": 5, "tiling": Tiling(size=40)}
    expected = [few.enlarge(RGB, **tiled), own.enlarge(RGB, **tiled), own.enlarge(RGB)]
    assert not any(np.array_equal(a, b) for a, b in pairwise(expected))
    settings = [{"steps": "2", "tile": "40", "seed": "5"}, {"tile": "40", "seed": "5"}, {}]
    for levels, typed in zip(expected, settings, strict=True):
        file = Visitor(page.url).enlarge(photo, page.noisy, **typed)
        assert np.array_equal(pixels(file), levels)


def test_what_is_wrong_is_said(page: Page, photo: Path) -> None:
    visitor = Visitor(page.url)
    upload = f"{visitor.visit}/photographs?name=cut.png"
    assert "cut.png: the file is truncated" in refusal(upload, photo.read_bytes()[:2000])
    visitor.upload(photo)
    for settings, text in (({"source": "/etc"}, "/etc"), ({"scale": "0.5"}, "at least 1")):
        content = json.dumps({**EMPTY, "source": page.edsr, **settings}).encode()
        assert text in refusal(visitor.visit + "/enlarge", content)
    visitor.post("/enlarge", source=page.edsr, scale="3")
    assert visitor.finish()[0]["output"]["note"] == "from x2 by bicubic"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("commands.app.queue.LARGEST_OUTPUT", 10_000)
        visitor.post("/enlarge", source=page.edsr, scale="4")
        assert "lower Scale" in visitor.finish()[0]["error"]
    large = {"Content-Length": "1000000"}
    assert "too large" in refusal(visitor.visit + "/enlarge", b"{}", **large)


def test_only_our_own_host_and_origin(page: Page) -> None:
    port = page.url.rpartition(":")[2]
    assert refusal(page.url, Host=f"evil.example:{port}").startswith("403")
    assert refusal(f"{page.url}/visits", b"", Origin="http://evil.example").startswith("403")
    ask(f"{page.url}/visits", b"", Origin=f"http://localhost:{port}", Host=f"localhost:{port}")


def test_a_file_is_shown_in_srgb_before_a_checkerboard(page: Page, tmp_path: Path) -> None:
    red = np.full((40, 60, 4), (200, 30, 40, 255), np.uint8)
    red[:, 30:, 3] = 0
    Image.fromarray(red).save(tmp_path / "red.png", icc_profile=rgb_profile())
    visitor = Visitor(page.url)
    number = visitor.upload(tmp_path / "red.png")["number"]
    part = pixels(visitor.get(number, "before/part.jpg?top=0&left=10&height=40&width=50"))
    assert part.shape == (40, 50, 3)
    expected = srgb_of_rgb(red[0, 0, :3])
    assert np.abs(expected - red[0, 0, :3]).max() > 15
    assert np.abs(part[:, :16] - expected).max() < 8
    assert {204, 255} <= set(part[:, 30:].ravel().tolist())


def test_a_preview_enlarges_the_square_that_was_clicked(page: Page, tmp_path: Path) -> None:
    large = DRAWS.integers(0, 256, (200, 330, 3), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    visitor = Visitor(page.url)
    number = visitor.upload(tmp_path / "large.png")["number"]
    visitor.post("/preview", source=page.edsr, number=number, x=0.9, y=0.5)
    square = next(one for one in visitor.finish() if one["number"] == 0)
    assert square["corner"] == [4, 138]
    expected = enlarger.load(page.edsr, device="cpu").enlarge(large[4:196, 138:])
    assert np.array_equal(pixels(visitor.get(0, "output")), expected)


def test_a_job_is_its_visitors(page: Page, photo: Path) -> None:
    """Who waits sees his place, and ends no work but his own; a closed page ends its own."""
    first, second = Visitor(page.url), Visitor(page.url)
    settings = {"source": page.stuck, "tile": "40"}
    for visitor in (first, second):
        for _ in range(2):
            visitor.upload(photo)
        visitor.post("/enlarge", **settings)
    wait(first.progress)
    assert first.progress() == pytest.approx(0.5, abs=0.1)
    assert second.state()["before"] == 1
    second.post("/stop")
    assert not second.state()["photographs"][0]["waits"]
    assert first.progress()
    second.post("/enlarge", source=page.edsr)
    ask(first.visit + "/leave", b"")
    second.finish()
    assert pixels(second.get(1, "output")).shape == (48, 88, 3)
    wait(lambda: not (page.files / first.visit.rpartition("/")[2]).exists())
    assert refusal(first.visit).startswith("410")


def test_a_model_is_its_visitors(page: Page, photo: Path) -> None:
    """One that was uploaded is deleted with the visit."""
    first, second = Visitor(page.url), Visitor(page.url)
    weights = Path(page.edsr, "model.safetensors").read_bytes()
    models = json.loads(ask(first.visit + "/models?name=my.safetensors", weights))["models"]
    assert models == [{"source": "own/my.safetensors", "name": "my.safetensors", "scale": 2}]
    assert first.enlarge(photo, "own/my.safetensors") == second.enlarge(photo, page.edsr)
    content = json.dumps({**EMPTY, "source": "own/my.safetensors"}).encode()
    assert "404" in refusal(second.visit + "/enlarge", content)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(1_000_000))
    bad = {"a.pth": b"no model", "b.safetensors": weights[:500], "c.pth": zipped.getvalue()}
    for name, data in bad.items():
        sentence = refusal(first.visit + f"/models?name={name}", data)
        assert sentence.startswith(f'400 {{"error":"{name}')
    folders = list((page.files / first.visit.rpartition("/")[2]).glob("*/*.safetensors"))
    ask(first.visit + "/models?name=my.safetensors", weights)
    assert len(folders) == 1
    assert not folders[0].exists()
    ask(first.visit + "/leave", b"")
    wait(lambda: not (page.files / first.visit.rpartition("/")[2]).exists())


@pytest.mark.parametrize(
    "network",
    [
        {"class_path": "lightning_modules.Spandrel", "init_args": {"path": "/etc/passwd"}},
        {"class_path": "lightning_modules.Spandrel", "init_args": {"path": "$HOME"}},
        {"class_path": "lightning_modules.Spandrel", "init_args": {"path": "tests"}},  # a folder
        {"class_path": "tests.commands.stochastic.Noisy"},
        "tests.commands.stochastic.Noisy",
        "vgg16",  # published, and not on this machine
    ],
)
def test_a_visitors_model_names_nothing_of_the_machine(
    page: Page, network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    file = tmp_path / "my.safetensors"
    about = {"enlarger": "0", "model": "lightning_modules.Regression", "scale": "2"}
    save_file({"x": torch.ones(1)}, file, {**about, "init_args": json.dumps({"network": network})})
    sentence = refusal(Visitor(page.url).visit + f"/models?name={file.name}", file.read_bytes())
    assert "my.safetensors needs" in sentence


def test_stop_ends_the_waiting_for_a_model(
    page: Page, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next visitor does not wait for it, and it is not loaded twice."""
    downloads = threading.Event()
    loads = []

    def load_when_downloaded(source: str) -> enlarger.Enlarger:
        if source == page.noisy:
            loads.append(source)
            downloads.wait()
        return enlarger.load(source)

    monkeypatch.setattr("commands.interface.models.load", load_when_downloaded)
    first, second = Visitor(page.url), Visitor(page.url)
    first.upload(photo)
    for _ in range(2):
        first.post("/enlarge", source=page.noisy)
        wait(lambda: first.state()["photographs"][0]["loads"])
        first.post("/stop")
    second.enlarge(photo, page.edsr)
    first.post("/enlarge", source=page.noisy)
    wait(lambda: first.state()["photographs"][0]["loads"])
    downloads.set()
    first.finish()
    assert pixels(first.get(1, "output")).shape == (48, 88, 3)
    assert len(loads) == 1


def test_who_comes_when_all_places_are_taken(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = Visitor(page.url)
    monkeypatch.setattr("commands.app.page.MOST_VISITS", 1)
    assert "begins by itself" in refusal(f"{page.url}/visits", b"")
    assert visitor.state()["error"] == ""


def test_a_folder_of_models_is_offered(page: Page, tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors"):
        (tmp_path / name).write_bytes(Path(page.edsr, "model.safetensors").read_bytes())
    (tmp_path / "notes.txt").touch()
    names = [offer.name for offer in models_to_offer([str(tmp_path)]).offers()]
    assert names[:2] == ["a.safetensors", "b.safetensors"]


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="needs chromium and chromedriver on the PATH")
def test_in_a_browser(page: Page, tmp_path: Path) -> None:
    """A reload keeps the visit; a click shows both at 100 %; nothing fails WCAG AA."""
    large = DRAWS.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    photos = [tmp_path / "one.jpg", tmp_path / "two.jpg"]
    for path in photos:
        Image.fromarray(large).save(path, quality=50)

    def see(condition: str) -> None:
        wait(lambda: browser.run(f"return {condition}"))

    status = "document.getElementById('status').textContent"
    with Browser(tmp_path / "profile") as browser:
        browser.open(page.url)
        browser.choose_files("#files", *photos)
        see("document.querySelectorAll('.photograph').length === 2")
        browser.click(".primary")
        browser.open(page.url)
        see(f"{status} === '2 of 2 enlarged'")
        browser.open(page.url)
        see("document.querySelector('#whole .stage')")
        browser.click_at("#whole .stage", -60, 40)
        parts = "[...document.querySelectorAll('#parts img')]"
        see(f"{parts}.every((image) => image.naturalWidth > 100)")
        ratios = browser.run(f"return {parts}.map((image) => image.width / image.naturalWidth)")
        assert ratios == [1, 1]
        assert not problems(browser)
        browser.choose_files("#files", Path(page.edsr, "model.safetensors"))
        see("document.querySelector('[name=source]').value === 'own/model.safetensors'")
        assert not browser.log("browser")
        browser.run("document.querySelector('[name=source]').selectedIndex = 3; choose()")
        assert "releases/download" in browser.run(
            "return document.getElementById('missing').textContent"
        )


def test_only_runs_that_enlarge_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("edsr", "edsr/export", "moved/export"):  # a run that is there has one line
        export(tmp_path / folder, "Regression", EDSR(2, blocks=1, channels=4))
    for name in ("Diffusion", "NoSuchClass", "Regression"):
        configure(tmp_path / name, f"lightning_modules.{name}", {})
        if name != "Regression":  # which has no weights
            (tmp_path / name / "model.safetensors").touch()
    place_of = "commands.interface.models.place_of"
    monkeypatch.setattr(place_of, lambda entry: "x3" in entry["file"] or None)
    expected = [str(tmp_path / "edsr"), str(tmp_path / "moved/export"), "imdn-x3"]
    assert enlarger.sources(tmp_path) == expected


def test_sigterm_ends_it_in_the_middle_of_a_photograph_and_leaves_nothing(
    page: Page, photo: Path, tmp_path: Path
) -> None:
    command = [sys.executable, REPO / "main.py", "app", page.stuck, "--port", "0"]
    place = {"cwd": REPO, "env": os.environ | {"TMPDIR": str(tmp_path)}}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **place, **pipes) as process:
        visitor = Visitor(process.stdout.readline().split()[0])
        visitor.upload(photo)
        visitor.post("/enlarge", source=page.stuck, tile="40")
        wait(visitor.progress)
        assert [path.name[:13] for path in tmp_path.iterdir()] == ["enlarger-app-"]
        process.terminate()
        assert process.wait(20) == 0
        assert "stopped by SIGTERM\n" in process.stderr.read()
    assert not [*tmp_path.iterdir()]
