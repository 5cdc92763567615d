"""``main.py app``: a page in the browser that enlarges photographs; needs the extra ``app``.

python main.py app                         models on this machine, and one that is fetched
python main.py app runs/mine my/model.pth  begins with these

Gradio makes the page. Photographs wait in its queue, and are enlarged one at a time.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from callbacks.predict import screen
from commands.errors import ConfigurationError
from commands.interface.named import DEFAULT
from files.images.decode import read_image
from files.images.deep import Pixels

if importlib.util.find_spec("gradio") is None:
    raise ConfigurationError("app needs Gradio: pip install -c constraints.txt -e '.[app]'")

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

KEPT = (60, 3600)  # each minute, files go that nothing has touched for an hour
LOCAL = ("127.0.0.1", "localhost")
# For browsers: they load nothing from elsewhere, and show the page in no other one.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"


@dataclass
class Press:
    """A press of the button Enlarge: its photographs and what became of them.

    Args:
        paths: The photographs.
        folder: For its files.
        began: When, by ``time.monotonic``.
        lines: What became of each photograph.
        files: The outputs.
        sliders: Two files by the path of a photograph: it and its output, as the page shows them.
        stopped: Whether it ends at the next part of an output.
    """

    paths: list[str]
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp()))
    began: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    sliders: dict[str, list[str]] = field(default_factory=dict)
    stopped: bool = False

    def keep_files(self) -> None:
        """Begin the hour of the photographs and outputs again, after which they are deleted."""
        for file in (*self.paths, *self.files):
            os.utime(file)

    def progress(self, share: float) -> tuple[float, str]:
        """Return the share of all photographs that is done, and a text with the time left.

        Args:
            share: That of the present photograph.
        """
        number = len(self.lines) + 1
        done = (number - 1 + share) / len(self.paths)
        elapsed = time.monotonic() - self.began
        seconds = elapsed * (1 / done - 1)
        left = f"{seconds // 60:.0f} min {seconds % 60:.0f} s left"
        return done, f"{number} of {len(self.paths)}, {left}"

    def results(self) -> tuple[Any, ...]:
        """Return the lines, a ZIP of several outputs, and those that are still there."""
        lines = "\n".join(self.lines)
        files = [file for file in self.files if os.path.exists(file)]
        if not files:
            return lines, gr.DownloadButton(interactive=False), files
        archive = self.folder / f"{len(files)} photographs.zip"
        with zipfile.ZipFile(archive, "w") as stored:
            for number, file in enumerate(files, 1):
                stored.write(file, f"{number}_{Path(file).name}")
        return lines, gr.DownloadButton(value=archive, interactive=True), files


class Page:
    """The page. One model is in memory at a time, and works for one visitor at a time.

    Args:
        sources: What ``load`` of ``enlarger.py`` takes.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        # The newest one of each browser, by a random key that the browser keeps.
        self.presses: dict[str, Press] = {}
        self._lock = Lock()  # a press that was stopped may still be at work
        self._loaded: tuple[str, Any] = ("", None)
        with gr.Blocks(analytics_enabled=False, title="Enlarger", delete_cache=KEPT) as self.blocks:
            gr.Markdown("# Enlarger")
            self.secret = gr.BrowserState(storage_key="enlarger")
            with gr.Row():
                with gr.Column(min_width=320):
                    self.paths = gr.File(file_count="multiple", label="Photographs", height=150)
                    folder = gr.UploadButton("Add a folder", file_count="directory")
                    self.source = gr.Dropdown([*sources], label="Model")
                    # Other files of weights name classes, which only the command line may choose.
                    self.own = gr.File(label="Or your own", file_types=[".pth"], height=130)
                    self.scale = gr.Number(0, label="Scale (0: the model's own)", minimum=0)
                    self.side = gr.Number(0, label="Or pixels of the longer side", precision=0)
                    self.format = gr.Radio(["png", "jpg"], value="png", label="Format")
                    self.strength = gr.Slider(0, 100, 100, label="Strength, in per cent")
                    self.exif = gr.Checkbox(label="Keep EXIF (without the place)")
                    start = gr.Button("Enlarge", variant="primary", interactive=False)
                    stop = gr.Button("Stop")
                with gr.Column(scale=2, min_width=320):
                    lines = gr.Textbox(label="Results", lines=4)
                    archive = gr.DownloadButton("Download all as ZIP", interactive=False)
                    files = gr.File(label="Enlarged", file_count="multiple", interactive=False)
                    slider = gr.ImageSlider(label="Bicubic | enlarged", max_height=screen.SQUARE)
                    self.look = gr.Dropdown([], label="Look at")
                    image = gr.Image(label="Click: a preview", format="png", buttons=["fullscreen"])
            # What `Press.results` returns, and what a model needs beside its image.
            results = [lines, archive, files]
            settings = {self.source, self.own, self.scale, self.side, self.strength}
            inputs = {self.secret, self.paths, self.format, self.exif, *settings}
            one_at_a_time = {"concurrency_id": "model", "concurrency_limit": 1}
            job = start.click(
                self.enlarge,
                inputs,
                [*results, slider],
                show_progress_on=lines,
                **one_at_a_time,
            )
            stop.click(self.stop, self.secret, results, cancels=job)
            image.select(self.preview, {self.look, *settings}, slider, **one_at_a_time)
            folder.upload(add_paths, [self.paths, folder], self.paths)
            self.paths.change(self.choose, self.paths, self.look)
            self.look.change(self.show, [self.secret, self.look], [image, slider])
            self.blocks.load(self.restore, self.secret, [self.secret, start, *results])

    def load(self, source: str) -> Any:
        """Return an ``Enlarger``, from memory if it was the last one.

        Args:
            source: As for ``load`` of ``enlarger.py``.

        Raises:
            ValueError: If it cannot be loaded.
        """
        from commands.interface.models import load

        if self._loaded[0] != source:
            self._loaded = ("", None)  # frees its memory first
            self._loaded = (source, load(source))
        return self._loaded[1]

    def enlarge(self, values: Any, progress: gr.Progress = gr.Progress()) -> Iterator[Any]:
        """Enlarge photographs; yield what the page shows after each of them."""
        self.presses[values[self.secret]] = press = Press(values[self.paths] or [])
        for path in press.paths:
            try:
                with self._lock:
                    said = self._enlarge_file(path, values, press, progress)
            except (ValueError, OSError, MemoryError) as error:
                said = f"not enlarged: {error}".replace(path, Path(path).name)
            press.lines.append(f"{Path(path).name}: {said}")
            yield "\n".join(press.lines), gr.skip(), press.files, press.sliders.get(path, gr.skip())
        yield *press.results(), gr.skip()

    def _enlarge_file(self, path: str, values: Any, press: Press, progress: gr.Progress) -> str:
        """Enlarge a photograph, and return what is said of it."""
        folder = press.folder / str(len(press.lines) + 1)
        file = folder / f"{Path(path).stem}_enlarged.{values[self.format]}"
        reduction = screen.Reduction()
        before = screen.reduced(read_image(path))  # now, as memory is needed later

        def watch(rows: Pixels, size: screen.Size) -> None:
            if press.stopped:
                raise gr.Error("Stopped.", print_exception=False)
            press.keep_files()
            reduction.add(rows, size)
            progress(*press.progress(reduction.height / size[0]))

        progress(len(press.lines) / len(press.paths), Path(path).name)
        model = self.load(values[self.own] or values[self.source])
        lost = model.enlarge_file(
            path,
            file,
            scale=values[self.scale] or None,
            side=values[self.side] or None,
            strength=values[self.strength] / 100,
            exif="no_place" if values[self.exif] else "drop",
            watch=watch,
        )
        after = screen.to_pillow(reduction.pixels(), before.info["icc_profile"])
        press.sliders[path] = screen.write_slider(folder, before, after)
        press.files.append(str(file))
        height, width = reduction.size
        said = f"{width} x {height} pixels"
        return f"{said}, without {', '.join(lost)}" if lost else said

    def preview(self, values: Any, event: gr.SelectData) -> list[str]:
        """Return the square around a click, by bicubic and enlarged, at 100 %."""
        image = read_image(values[self.look])
        with self._lock:
            model = self.load(values[self.own] or values[self.source])
            if values[self.side]:
                scale = values[self.side] / max(image.rgb.shape[:2])
            else:
                scale = values[self.scale] or model.scale
            square = screen.square_of(image, event.index, scale)
            after = model.enlarge(square, scale=scale, strength=values[self.strength] / 100)
        return screen.write_slider(Path(tempfile.mkdtemp()), square, after)

    def choose(self, paths: list[str] | None) -> gr.Dropdown:
        """Return the dropdown of the photographs that can be looked at."""
        if not paths:
            return gr.Dropdown([], value=None)
        choices = [(Path(path).name, path) for path in paths]
        return gr.Dropdown(choices, value=paths[0])

    def show(self, secret: str, path: str | None) -> tuple[Any, Any]:
        """Return a photograph, and its slider if it was enlarged."""
        if path is None:
            return None, None
        sliders = self.presses[secret].sliders if secret in self.presses else {}
        return screen.reduced(read_image(path)), sliders.get(path)

    def stop(self, secret: str) -> tuple[Any, ...]:
        """End a press of Enlarge; return what is done."""
        press = self.presses.get(secret, Press([]))
        press.stopped = True
        return press.results()

    def restore(self, secret: str | None) -> tuple[Any, ...]:
        """Return a browser's secret, and what it got before the page was loaded again."""
        secret = secret or secrets.token_urlsafe()
        ready = gr.Button(interactive=True)  # presses have an owner from now on
        return secret, ready, *self.presses.get(secret, Press([])).results()


def add_paths(paths: list[str] | None, more: list[str]) -> list[str]:
    """Return the photographs so far, and those of a folder that was added."""
    return [*(paths or []), *more]


def application(page: Page, host: str) -> FastAPI:
    """Return the page's server.

    Args:
        page: The page.
        host: The address at which it listens.
    """
    app = FastAPI(openapi_url=None)
    theme = gr.themes.Base(primary_hue="slate", font="system-ui", font_mono="monospace")
    gr.mount_gradio_app(app, page.blocks, "/", footer_links=[], run_history=False, theme=theme)
    page.blocks.has_launched = True  # else a request could name any file of the machine

    @app.middleware("http")
    async def refuse_other_pages(request: Request, call_next: Any) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return Response("This page answers to itself alone.", 403)
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    if host in LOCAL:  # not by a stranger's name for this machine
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)
    return app


def main(words: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        words: Command-line arguments; those of this process by default.

    Returns:
        0.

    Raises:
        ValueError: If a model cannot be loaded.
    """
    parser = argparse.ArgumentParser(prog="main.py app", allow_abbrev=False)
    parser.add_argument("sources", nargs="*", metavar="RUN", help="runs or weights to offer first")
    parser.add_argument("--port", type=int, default=7860, help="7860 by default")
    parser.add_argument("--host", default=LOCAL[0], help="0.0.0.0: for all who reach this machine")
    parser.add_argument("--folder", help="where photographs and outputs are kept for an hour")
    options = parser.parse_args(words)
    from commands.interface.models import sources
    from commands.process import prepare_output

    prepare_output()
    ours = tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True)

    def end(*_: object) -> None:
        ours.cleanup()
        os._exit(0)  # at once: the server would wait for a photograph to be finished

    with ours as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        tempfile.tempdir = folder
        page = Page([*dict.fromkeys([*options.sources, DEFAULT, *sources()])])
        if options.sources:
            page.load(options.sources[0])
        app = application(page, options.host)
        server = uvicorn.Server(uvicorn.Config(app, options.host, options.port, access_log=False))
        server.handle_exit = end
        server.run()
    return 0
