"""`main.py app`: what the page returns, by its own client; needs the extra `app`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
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
from commands.app.models import Models, Stopped
from files.images.decode import decode
from lightning_modules import EDSR
from lightning_modules.sampling.tiling import Tiling
from main import main
from tests.commands.stochastic import Noisy

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
    save_file(tensors, folder / "model.safetensors")


class Page:
    """The page, served in a thread, and a visitor.

    Args:
        runs: A folder of exports.
    """

    def __init__(self, runs: Path) -> None:
        import uvicorn

        from commands.app.page import application

        self.edsr, self.noisy = sorted(map(str, runs.iterdir()))
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        page = application(Models([self.edsr, self.noisy]))
        self._server = uvicorn.Server(uvicorn.Config(page, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
        self._thread.start()
        self._downloads = runs.with_name("downloads")
        self._downloads.mkdir()
        self.visitor = self.visit()

    def visit(self) -> Any:
        from gradio_client import Client

        folder = self._downloads / str(len([*self._downloads.iterdir()]))
        folder.mkdir()
        return Client(self.url, download_files=folder, verbose=False, analytics_enabled=False)

    def press(self, photo: Path, source: str, *settings: Any) -> Path:
        """Enlarge; return the PNG. The settings are scale, steps, tile, seed and the visitor."""
        *given, visitor = [*settings, *[None] * (5 - len(settings))]
        return self.press_all([photo], source, *given, "png", visitor=visitor)[0]

    def press_all(self, photos: list[Path], *given: Any, visitor: Any = None) -> list[Path]:
        from gradio_client import handle_file

        visitor = visitor or self.visitor
        files = [handle_file(photo) for photo in photos]
        _, _, made = visitor.predict(files, *given, api_name="/enlarge")
        return [*map(Path, made)]

    def close(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    folder = tmp_path_factory.mktemp("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setattr("commands.app.page.LARGEST_UPLOAD", "300kb")
        export(folder / "runs/edsr", "Regression", EDSR(2, blocks=1, channels=4))
        in_steps = {"sampling": {"steps": 4, "level": 0.2}}
        configure(folder / "runs/noisy", "tests.commands.stochastic.InSteps", in_steps)
        page = Page(folder / "runs")
        yield page
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
    made = page.press(photo, page.edsr)
    assert made.name == "photo_x2.png"
    assert decode(made.read_bytes(), "made").icc == PROFILE
    assert np.array_equal(np.asarray(Image.open(made)), model.enlarge(RGB))
    clear, deep = np.dstack([RGB, RGB[..., 0]]), RGB.astype(np.uint16) * 200
    Image.fromarray(clear).save(tmp_path / "clear.png")
    made = page.press(tmp_path / "clear.png", page.edsr)
    assert np.array_equal(np.asarray(Image.open(made)), model.enlarge(clear))
    Image.fromarray(clear[..., 2:]).save(tmp_path / "grey.png")
    made = page.press(tmp_path / "grey.png", page.edsr)
    assert np.array_equal(np.asarray(Image.open(made)), model.enlarge(clear[..., 2:]))
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    made = page.press(tmp_path / "deep.png", page.edsr)
    assert np.array_equal(decode(made.read_bytes(), "made").rgb, model.enlarge(deep))


def test_several_photographs_as_jpeg(page: Page, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(RGB[::-1]).save(other)
    clear, broken = tmp_path / "clear.png", tmp_path / "broken.png"
    Image.fromarray(np.dstack([RGB, np.zeros_like(RGB[..., 0])])).save(clear)
    broken.write_text("no image")  # which does not keep the others from being made
    photos = [photo, broken, other, clear]
    made = page.press_all(photos, page.edsr, None, None, None, None, "jpg")
    assert [file.name for file in made] == ["photo_x2.jpg", "other_x2.jpg", "clear_x2.jpg"]
    assert [Image.open(file).format for file in made] == ["JPEG"] * 3
    assert Image.open(made[2]).getextrema() == ((255, 255),) * 3


def test_steps_tiles_and_seed_are_those_of_python(page: Page, photo: Path) -> None:
    """Without steps they are the method's own, whatever the visitor before has set."""
    own = enlarger.load(page.noisy, device="cpu")
    few = enlarger.load(page.noisy, device="cpu", sampling={"steps": 2})
    tiled = {"seed": 5, "tiling": Tiling(size=40)}
    expected = [few.enlarge(RGB, **tiled), own.enlarge(RGB, **tiled), own.enlarge(RGB)]
    assert not any(np.array_equal(a, b) for a, b in pairwise(expected))
    settings = [(2, 2, 40, 5), (None, None, 40, 5), ()]
    for pixels, typed in zip(expected, settings, strict=True):
        made = page.press(photo, page.noisy, *typed)
        assert np.array_equal(np.asarray(Image.open(made)), pixels)


def test_what_is_wrong_is_said_on_the_page(page: Page, photo: Path, tmp_path: Path) -> None:
    from gradio_client.exceptions import AppError

    def said(photo: Path, source: str, *settings: Any) -> str:
        with pytest.raises(AppError) as raised:
            page.press(photo, source, *settings)
        return str(raised.value)

    broken, cut = tmp_path / "words.png", tmp_path / "cut.png"
    broken.write_text("no image")
    cut.write_bytes(photo.read_bytes()[:2000])
    assert said(broken, page.edsr).startswith("words.png: not an image")
    assert "cut.png: the file is truncated" in said(cut, page.edsr)
    assert "/etc" in said(photo, "/etc")  # none of those that are offered


def test_the_scale_of_a_released_model_is_locked(page: Page) -> None:
    """Without its file, too."""
    from commands.app.page import application

    blocks: Any = application(Models(["imdn-x2", page.edsr])).routes[-1]
    [choose] = [e.fn for e in blocks.app.get_blocks().fns.values() if e.targets[0][1] == "load"]
    fields = [next(choose(source))[0] for source in ("imdn-x2", page.edsr)]
    assert [(field.value, field.interactive) for field in fields] == [(2, False), (2, True)]


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


class Stuck(Noisy):
    """Makes one tile, and waits in the next one."""

    released = threading.Event()
    tiles = 0

    def restore(self, batch: Any, noise: Any) -> Tensor:
        self.tiles += 1
        if self.tiles > 1:
            self.released.wait()
        return super().restore(batch, noise)


def test_sigterm_ends_it_in_the_middle_of_a_photograph_and_leaves_nothing(
    page: Page,
    photo: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Its progress is shown until then, as the share of the tiles."""
    from gradio_client import Client, handle_file

    stuck, temporary = tmp_path / "runs/stuck", tmp_path / "temporary"
    configure(stuck, "tests.commands.test_app.Stuck", {})
    temporary.mkdir()
    found: list[Any] = []

    def visit() -> None:
        while not (printed := capfd.readouterr().out).startswith("http"):
            time.sleep(0.05)
        visitor = Client(printed.split()[0], verbose=False, analytics_enabled=False)
        given = [handle_file(photo)], str(stuck), 2, None, 40, 0, "png"
        job = visitor.submit(*given, api_name="/enlarge")
        while not (shown := job.status().progress_data) or not shown[0].index:
            time.sleep(0.05)
        found.append(shown[0].index / shown[0].length)
        found.append([path.name[:13] for path in temporary.iterdir()])
        os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=visit)
    visitor.start()
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        patch.setattr("os.environ", os.environ.copy())
        patch.setattr("os._exit", sys.exit)  # which, by itself, would wait for the tile
        try:
            with pytest.raises(SystemExit) as ended:
                main(["app", str(stuck), "--port", "0"])
        finally:
            Stuck.released.set()
    visitor.join()
    assert ended.value.code == 0
    assert "\nstopped by SIGTERM\n" in f"\n{capfd.readouterr().err}"
    assert 0.4 < found[0] < 0.6  # one of two tiles
    assert found[1] == ["enlarger-app-"]
    assert not [*temporary.iterdir()]


def test_stop_ends_the_enlargement_at_its_next_layer() -> None:
    models, network = Models([]), nn.Identity()
    ended: dict[str, bool] = {}
    inside = threading.Event()

    def work(name: str) -> None:
        try:
            with models.stoppable():
                for _ in range(10_000):
                    network(RGB)
                    inside.set()
                    time.sleep(0.001)
        except Stopped:
            ended[name] = True

    for name, stop in (("stopped", models.stop), ("followed", lambda: work_once(models))):
        inside.clear()
        thread = threading.Thread(target=work, args=(name,))
        thread.start()
        assert inside.wait(10)
        network(RGB)  # another thread is not affected
        stop()
        thread.join(5)
        assert ended.pop(name)
    network(RGB)


def work_once(models: Models) -> None:
    with models.stoppable():
        nn.Identity()(RGB)
