"""``main.py app``: a page in the browser that enlarges photographs; needs the extra ``app``.

python main.py app                   all runs, exports and published weights on this machine
python main.py app runs/quickstart   begins with this one
"""

from __future__ import annotations

import argparse
import functools
import html
import importlib.util
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.errors import ConfigurationError

if TYPE_CHECKING:
    from enlarger import Enlarger

PREVIEW = 2000  # pixels of a side in the page; the PNG has all
LARGEST_UPLOAD = "200mb"
INSTALL = "pip install -e '.[app]'"  # without constraints.txt, whose Pillow is too new for Gradio


def main(words: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        words: Command-line arguments; those of this process by default.

    Returns:
        0.

    Raises:
        ConfigurationError: If Gradio is missing, there is nothing to enlarge with, or the address
            cannot be used.
    """
    options = _parser().parse_args(words)
    if importlib.util.find_spec("gradio") is None:
        raise ConfigurationError(f"app needs Gradio, which is optional: {INSTALL}")
    try:
        listening = socket.create_server((options.host, options.port))
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"app cannot listen on {options.host}:{options.port} ({error}): set --host to an "
            "address of this machine, and --port to a free port"
        ) from error
    from commands.process import prepare_output

    prepare_output()
    with listening:
        models = _models(options)
        with tempfile.TemporaryDirectory(prefix="enlarger-app-") as folder:
            # Gradio reads them when it is imported.
            os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
            import uvicorn

            page = application(models, options.megapixels)
            print(
                f"http://{options.host}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True
            )
            settings = uvicorn.Config(page, log_level="warning", timeout_graceful_shutdown=1)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed
            with suppress(KeyboardInterrupt):
                uvicorn.Server(settings).run([listening])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py app", description="Enlarge photographs in the browser.", allow_abbrev=False
    )
    add = parser.add_argument
    add("sources", nargs="*", metavar="RUN", help="run, export, weights or file to offer first")
    add("--runs", default="runs", help="folder of further runs and exports (default: runs)")
    add("--device", help="such as cpu or cuda:1 (default: the first GPU, if any)")
    add("--megapixels", type=float, default=50, help="largest output (default: 50)")
    add("--port", type=int, default=7860, help="port (default: 7860)")
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, for this machine alone; with 0.0.0.0 all "
        "that reach this machine can use it: there is no password)",
    )
    return parser


def _models(options: argparse.Namespace) -> Models:
    import enlarger

    found = dict.fromkeys([*options.sources, *enlarger.sources(options.runs)])
    if not found:
        raise ConfigurationError(
            f"app found no trained run or export in {options.runs}, and no published weights on "
            "this machine: train a run (main.py fit), or get weights (main.py weights)"
        )
    models = Models([*found], options.device)
    try:
        for source in reversed(options.sources):  # the first one stays in memory
            models.load(source)
    except (OSError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    return models


class Models:
    """The methods that the page offers; one is in memory at a time.

    Args:
        sources: What ``enlarger.load`` takes.
        device: Where they run; by default the first GPU, if there is one.
    """

    def __init__(self, sources: list[str], device: str | None = None) -> None:
        self.sources, self.device = sources, device
        self._loaded: tuple[tuple[str, int | None], Enlarger] | None = None
        self._own: dict[str, int | None] = {}  # steps by default

    def load(self, source: str, steps: int | None = None) -> Enlarger:
        """Return a method, from memory if it was the last one.

        Args:
            source: One of ``sources``.
            steps: Sampling steps; by default the method's own.

        Raises:
            ValueError: If it is not offered, cannot be loaded, or cannot take so many steps.
        """
        import enlarger

        if source not in self.sources:
            raise ValueError(f"{source!r} is not offered here")
        wanted = source, steps or self._own.get(source)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # frees its memory first
            model = enlarger.load(source, device=self.device)
            self._own[source] = own = steps_of(model.module)
            if steps and own and steps != own:
                changed = with_steps(model.module, steps)
                del model
                model = enlarger.load(source, device=self.device, **changed)
            self._loaded = (source, steps or own), model
        return self._loaded[1]


def steps_of(method: Any) -> int | None:
    """Return a method's number of sampling steps; None if it has none."""
    if hasattr(method, "sampled"):  # residual shifting; CasArbi may have no network, and no steps
        return None if method.network is None else int(method.sampled.steps)
    return getattr(getattr(method, "sampling", method), "steps", None)


def with_steps(method: Any, steps: int) -> dict[str, Any]:
    """Return the arguments of ``enlarger.load`` for another number of sampling steps.

    Raises:
        ValueError: If the method cannot take so many.
    """
    if not hasattr(method, "sampled"):
        return {"sampling": {"steps": steps}} if hasattr(method, "sampling") else {"steps": steps}
    last = method.process.steps - 1
    if not 2 <= steps <= last + 1:
        raise ValueError(f"{type(method).__name__} takes 2 to {last + 1} steps, not {steps}")
    return {"timesteps": [last - last * n // (steps - 1) for n in range(steps)]}


def read(photo: str) -> tuple[Any, bytes | None]:
    """Return the pixels of a photograph as ``Enlarger.enlarge`` takes them, and its profile.

    Raises:
        ValueError: If the file is no image, or is damaged.
    """
    import numpy as np

    from callbacks.predict.files import GREY
    from datamodules.files.decode import decode

    image = decode(Path(photo).read_bytes(), Path(photo).name)
    profile = image.icc or image.grey_icc
    if image.alpha is not None:
        return np.dstack([image.rgb, image.alpha]), profile
    return image.rgb[..., 0] if image.mode in GREY else image.rgb, profile


def preview(pixels: Any) -> Any:
    """Return a Pillow image of 8 bits, and of at most ``PREVIEW`` pixels a side."""
    from PIL import Image

    image = Image.fromarray(pixels if pixels.dtype == "uint8" else (pixels >> 8).astype("uint8"))
    image.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
    return image


def application(models: Models, megapixels: float = 50) -> Any:
    """Return the page, an ASGI application.

    Args:
        models: The methods, at least one.
        megapixels: Largest output.
    """
    import fastapi
    import gradio as gr
    import numpy as np

    import enlarger
    from callbacks.predict.files import Extras, encode
    from files.paths import IMAGE_EXTENSIONS
    from lightning_modules import Bicubic
    from lightning_modules.sampling.tiling import Tiling

    def in_page(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @functools.wraps(function)
        def told(*values: Any) -> Iterator[Any]:
            try:
                yield from function(*values)
            except (ValueError, OSError) as error:
                text = html.escape(str(error), quote=False)
                raise gr.Error(text, duration=None, print_exception=False) from None

        return told

    @in_page
    def choose(source: str) -> Iterator[Any]:
        model = models.load(source)
        steps = steps_of(model.module)
        yield model.scale, gr.Number(steps, visible=steps is not None)

    @in_page
    def drop(photo: str | None) -> Iterator[Any]:
        pixels = None if photo is None else read(photo)[0]
        shown = None if pixels is None else (preview(pixels),) * 2
        about = "" if pixels is None else f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        slider = gr.ImageSlider(shown, label="Photograph")
        yield slider, about, gr.DownloadButton(interactive=False)

    @in_page
    def press(
        photo: str | None, source: str, scale: float, steps: int, tile: int, seed: int
    ) -> Iterator[Any]:
        if photo is None:
            raise ValueError("Choose a photograph first.")
        pixels, profile = read(photo)
        model = models.load(source, steps)
        scale = scale or model.scale
        h, w = pixels.shape[:2]
        about = f"{w} x {h} to {round(w * scale)} x {round(h * scale)} pixels"
        if scale < 1 or h * w * scale**2 > megapixels * 1e6:
            raise ValueError(
                f"{about}: the scale must be at least 1, and the output at most {megapixels:g} "
                "megapixels (main.py app --megapixels)"
            )
        try:
            tiling = Tiling(size=tile or "auto")
            output = model.enlarge(pixels, scale=scale, seed=seed or 0, tiling=tiling)
        except ValueError as error:
            if scale == model.scale:
                raise
            raise ValueError(f"{source} was made for scale {model.scale:g}. {error}") from error
        bicubic = enlarger.Enlarger(Bicubic(scale), "cpu").enlarge(pixels)
        with tempfile.TemporaryDirectory() as folder:  # until Gradio has its own copy
            png = Path(folder, f"{Path(photo).stem}_x{scale:g}.png")
            png.write_bytes(encode(np.atleast_3d(output), Extras(profile), "png", 95))
            shown = preview(bicubic), preview(output)
            slider = gr.ImageSlider(shown, label=f"Left: bicubic. Right: {source}")
            yield slider, about, gr.DownloadButton(value=png, interactive=True)

    with gr.Blocks(title="Enlarger", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown("# Enlarger")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = gr.File(label="Photograph", file_types=sorted(IMAGE_EXTENSIONS), height=140)
                source = gr.Dropdown(models.sources, value=models.sources[0], label="Model")
                with gr.Row():
                    scale = gr.Number(label="Scale", min_width=130)
                    steps = gr.Number(label="Steps", precision=0, visible=False, min_width=130)
                    tile = gr.Number(0, label="Tile (0: auto)", precision=0, min_width=130)
                    seed = gr.Number(0, label="Seed", precision=0, min_width=130)
                button = gr.Button("Enlarge", variant="primary")
            with gr.Column(scale=2, min_width=300):
                slider = gr.ImageSlider(
                    label="Photograph", format="png", buttons=["fullscreen"], max_height=640
                )
                about = gr.Markdown()
                download = gr.DownloadButton("Download PNG", interactive=False)
        given, shown = [photo, source, scale, steps, tile, seed], [slider, about, download]
        # One event at a time, because one model is in memory.
        one: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
        hidden: dict[str, Any] = {"api_visibility": "private", **one}
        for event in (page.load, source.change):
            event(choose, source, [scale, steps], **hidden)
        photo.change(drop, photo, shown, show_progress_on=slider, **hidden)
        button.click(press, given, shown, show_progress_on=slider, api_name="enlarge", **one)
    page.queue(max_size=20, api_open=False)
    return gr.mount_gradio_app(
        fastapi.FastAPI(),
        page,
        "",
        max_file_size=LARGEST_UPLOAD,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )


if __name__ == "__main__":
    raise SystemExit(main())
