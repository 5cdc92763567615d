"""`main.py app`: the page's functions, its server, and both in a browser; needs the extra `app`."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

import enlarger
from lightning_modules import Bicubic
from tests.browser import Visitor, chromium, wait
from tests.conftest import REPO

NOISE = np.random.default_rng(0).integers(0, 256, (500, 2500, 3), dtype=np.uint8)
RGB = NOISE[:24, :44]


class Held(Bicubic):
    """Bicubic, which waits while ``free`` is not set."""

    begun = threading.Event()
    free = threading.Event()

    def restore(self, batch, noise):
        self.begun.set()
        self.free.wait(60)
        return super().restore(batch, noise)


PHONE = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
MODELS = {"held": enlarger.Enlarger(Held(2), "cpu"), "other": enlarger.Enlarger(Bicubic(2), "cpu")}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    # Here, because its import takes seconds, which only the process that runs these tests needs.
    from commands.app import Page

    folder = str(tmp_path_factory.mktemp("app"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        patch.setattr("commands.interface.models.load", lambda source: MODELS[source])
        yield Page([*MODELS])


@pytest.fixture(scope="module")
def url(page):
    """Serve the page in a thread."""
    import uvicorn

    from commands.app import application

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application(page, "127.0.0.1"), log_level="error")
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def photos(tmp_path):
    paths = [str(tmp_path / "one.png"), str(tmp_path / "two.png")]
    for path in paths:
        Image.fromarray(RGB).save(path)
    return paths


def values_of(page, paths, **settings):
    """What Gradio gives to the functions of the page: the value of each component."""
    values = {
        "paths": paths,
        "secret": "secret",
        "source": "other",
        "own": None,
        "scale": 0,
        "side": 0,
        "format": "png",
        "strength": 100,
        "exif": False,
        **settings,
    }
    return {getattr(page, name): value for name, value in values.items()}


def enlarged(page, paths, **settings):
    """Lines, archive, files and slider, as a press of Enlarge leaves them in the page.

    The Mock stands for Gradio's progress bar.
    """
    return list(page.enlarge(values_of(page, paths, **settings), Mock()))[-1]


def kinds(files):
    return [(Image.open(file).size, Path(file).suffix) for file in files]


# ------------------------------------------------------------------------------------ its functions


def test_a_press_of_enlarge_keeps_its_settings_when_another_visitor_presses(page, photos):
    """All visitors share one page object: settings kept in it would be those of the last press."""
    values_of_ann = values_of(page, photos, scale=2, format="png", secret="Ann")
    shown_to_ann = page.enlarge(values_of_ann, Mock())
    next(shown_to_ann)  # the first of her two photographs is done
    _, _, files_of_bob, _ = enlarged(page, photos, scale=3, format="jpg", secret="Bob")
    _, _, files_of_ann, _ = list(shown_to_ann)[-1]
    assert kinds(files_of_ann) == [((88, 48), ".png")] * 2  # 44 x 24, times 2
    assert kinds(files_of_bob) == [((132, 72), ".jpg")] * 2  # times 3


def test_a_refused_file_has_a_line_and_the_others_are_enlarged(page, photos, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("no image")

    text, archive, files, _ = enlarged(page, [photos[0], str(words), photos[1]], side=100)

    lines = text.splitlines()
    assert lines[0] == "one.png: 100 x 55 pixels"  # of 44 x 24: the longer side becomes 100
    assert lines[1].startswith("words.txt: not enlarged: words.txt: not an image")
    assert str(tmp_path) not in text  # a visitor sees no folder of the machine
    assert [Path(file).name for file in files] == ["one_enlarged.png", "two_enlarged.png"]
    names = zipfile.ZipFile(archive.value["path"]).namelist()
    assert names == ["1_one_enlarged.png", "2_two_enlarged.png"]


def test_both_sides_of_a_preview_are_of_the_square_around_a_click(page, tmp_path):
    """They are bicubic and the model's output, at its scale of 2."""
    path = tmp_path / "large.png"
    Image.fromarray(NOISE).save(path)
    values = values_of(page, [], look=str(path))

    # The page shows 2,500 x 500 pixels as 2,000 x 400: its longest side is callbacks' screen.SIDE.
    before, after = page.preview(values, Mock(index=(1900, 200)))  # column and row of the click

    # Of the image, (1900, 200) / 0.8 = (2375, 250). The preview has 640 pixels (screen.SQUARE), so
    # the square has 320: rows 250 - 160 to 250 + 160, and the last 320 columns, as 2375 + 160 is
    # beyond the edge.
    square = NOISE[90:410, 2180:2500]
    larger = Image.fromarray(square).resize((640, 640), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(Image.open(before)), np.asarray(larger))
    assert np.array_equal(np.asarray(Image.open(after)), MODELS["other"].enlarge(square))


def test_a_visitor_may_upload_weights_as_pth_and_in_no_other_format(page):
    """Others, such as Enlarger's exports, name the class to build: a visitor would choose code."""
    import gradio as gr

    assert page.own.file_types == [".pth"]
    with pytest.raises(gr.Error, match="Invalid file type"):
        page.own.preprocess(gr.FileData(path="my.safetensors"))


# --------------------------------------------------------------------------------------- its server


JSON = {"Content-Type": "application/json"}


def status(url, **headers):
    """The status of a POST."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}", headers)) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_refuses_requests_that_another_website_makes_in_the_users_browser(url):
    """A website that is open beside the page could enlarge and read photographs otherwise."""
    path = f"{url}/gradio_api/reset"
    port = url.rpartition(":")[2]
    # The page's own request reaches Gradio, which misses a field in it.
    assert status(path, **JSON, Origin=url) == 422
    assert status(path, **JSON, Origin="http://evil.example") == 403
    assert status(path, **JSON, Origin="null") == 403  # as browsers say for a sandboxed frame
    # DNS rebinding: the website's own name leads to 127.0.0.1.
    rebound = f"evil.example:{port}"
    assert status(path, **JSON, Origin=f"http://{rebound}", Host=rebound) == 400


def test_a_visitor_gets_no_file_of_the_machine_by_its_path(url, tmp_path):
    secret = tmp_path / "secret.png"
    Image.fromarray(RGB).save(secret)
    with urllib.request.urlopen(f"{url}/config") as reply:
        functions = json.load(reply)["dependencies"]
    choose = next(function for function in functions if function["api_name"] == "choose")
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    content = {"data": [[file]], "fn_index": choose["id"], "session_hash": "visitor"}
    body = json.dumps(content).encode()

    joining = urllib.request.Request(f"{url}/gradio_api/queue/join", body, JSON)
    urllib.request.urlopen(joining).close()
    answer = ""
    with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash=visitor") as events:
        while "process_completed" not in answer:
            answer = events.readline().decode()

    assert "it was not uploaded by a user" in answer


@pytest.mark.slow
def test_sigterm_ends_the_server_and_its_temporary_folder(tmp_path):
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    command = [sys.executable, REPO / "main.py", "app", "--port", "0", "--folder", tmp_path]
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "running on http://127.0.0.1:" in line:
                break
        folders = list(tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert len(folders) == 1  # while it ran
    assert not os.listdir(tmp_path)


needs_chromium = pytest.mark.skipif(chromium() is None, reason="needs chromium and chromedriver")


@pytest.mark.slow
@pytest.mark.browser
@needs_chromium
def test_stop_ends_one_visitors_work_and_anothers_outlives_a_reload(page, url, photos, tmp_path):
    with Visitor(tmp_path / "first") as first, Visitor(tmp_path / "second") as second:
        for visitor in (first, second):
            visitor.open(url)
            visitor.choose(*photos)
        Held.free.clear()
        Held.begun.clear()
        first.press("Enlarge")
        wait(Held.begun.is_set)
        second.press("Enlarge")
        first.press("Stop")
        wait(lambda: any(press.stopped for press in page.presses.values()))
        Held.free.set()

        wait(lambda: second.sees("two.png: 88 x 48 pixels"))  # 44 x 24, times 2
        assert not first.sees("88 x 48")
        second.open(url)
        wait(lambda: second.sees("two.png: 88 x 48 pixels"))
        wait(lambda: second.sees("two_enlarged"))


@pytest.mark.slow
@pytest.mark.browser
@needs_chromium
def test_the_page_is_as_wide_as_a_phone_and_loads_nothing_from_elsewhere(url, photos, tmp_path):
    """Photographs are private, and the machine may have no internet."""
    Held.free.set()
    with Visitor(tmp_path / "phone") as visitor:
        visitor.open(url)
        visitor.choose(*photos)
        visitor.press("Enlarge")
        wait(lambda: visitor.sees("two_enlarged"))
        visitor.tell("Emulation.setDeviceMetricsOverride", PHONE)
        width = visitor.run("return document.documentElement.scrollWidth")
        messages = [json.loads(line["message"])["message"] for line in visitor.log("performance")]

    requests = [each for each in messages if each["method"] == "Network.requestWillBeSent"]
    addresses = [each["params"]["request"]["url"] for each in requests]
    assert width == PHONE["width"]
    assert f"{url}/" in addresses
    assert all(address.startswith((url, "data:", "chrome:")) for address in addresses)
