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
    """What the page shows when a press of Enlarge is done."""
    *_, shown = page.enlarge(values_of(page, paths, **settings), Mock())
    return shown


def kinds(files):
    return [(Image.open(file).size, Path(file).suffix) for file in files]


# ------------------------------------------------------------------------------------ its functions


def test_a_press_of_enlarge_keeps_its_settings_when_another_visitor_presses(page, photos):
    first = page.enlarge(values_of(page, photos, scale=2, secret="first"), Mock())
    next(first)  # it has begun
    _, _, second_files, _ = enlarged(page, photos, scale=3, format="jpg", secret="second")
    *_, (_, _, first_files, _) = first
    assert kinds(first_files) == [((88, 48), ".png")] * 2  # 44 x 24, times 2
    assert kinds(second_files) == [((132, 72), ".jpg")] * 2  # times 3


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


def test_a_preview_is_the_square_around_a_click(page, tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(NOISE).save(path)
    values = values_of(page, [], look=str(path))

    # The page shows the image of 2,500 x 500 pixels with 2,000 x 400.
    before, after = page.preview(values, Mock(index=(1900, 200)))

    # The click is at (2375, 250) of the image; the square of 320 pixels ends at its right edge.
    square = NOISE[90:410, 2180:2500]
    larger = Image.fromarray(square).resize((640, 640), Image.Resampling.BICUBIC)  # at scale 2
    assert np.array_equal(np.asarray(Image.open(before)), np.asarray(larger))
    assert np.array_equal(np.asarray(Image.open(after)), MODELS["other"].enlarge(square))


def test_a_visitor_gives_weights_as_pth_alone(page):
    """Other files of weights name classes, which only the command line may choose."""
    import gradio as gr

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


def test_the_server_answers_requests_of_its_own_host_and_origin_alone(url):
    path = f"{url}/gradio_api/reset"
    port = url.rpartition(":")[2]
    evil = f"evil.example:{port}"  # a name that its owner lets lead here
    assert status(path, **JSON, Origin=url) == 422  # it lacks a field
    assert status(path, **JSON, Origin="http://evil.example") == 403
    assert status(path, **JSON, Origin="null") == 403
    assert status(path, **JSON, Origin=f"http://{evil}", Host=evil) == 400


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


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="needs chromium and chromedriver on the PATH")
def test_two_visitors_take_turns_in_browsers(page, url, photos, tmp_path):
    """Stop ends the first one's work alone; a reload keeps what the second one has made.

    The page has the width of a phone, and nothing is loaded from elsewhere.
    """
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

        wait(lambda: second.sees("two.png: 88 x 48 pixels"))
        assert not first.sees("88 x 48")
        second.open(url)
        wait(lambda: second.sees("two.png: 88 x 48 pixels"))
        wait(lambda: second.sees("two_enlarged"))
        second.tell("Emulation.setDeviceMetricsOverride", PHONE)
        assert second.run("return document.documentElement.scrollWidth") == PHONE["width"]
        messages = [json.loads(line["message"])["message"] for line in second.log("performance")]

    requests = [each for each in messages if each["method"] == "Network.requestWillBeSent"]
    addresses = [each["params"]["request"]["url"] for each in requests]
    assert len(addresses) > 50  # else the log was not read
    assert all(address.startswith((url, "data:", "chrome:")) for address in addresses)
