"""The page: what is on it, and its events. Gradio is optional: imported where it is used."""

from __future__ import annotations

import functools
import html
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import enlarger
from callbacks.predict.files import Extras, encode, fitted_extras
from commands.app.models import Models
from datamodules.files.decode import decode
from files.paths import IMAGE_EXTENSIONS
from lightning_modules import Bicubic
from lightning_modules.sampling.tiling import Tiling

PREVIEW = 2000  # pixels of a side in the page; the PNG has all
LARGEST_UPLOAD = "200mb"
Event = Callable[..., Iterator[Any]]


def read(photo: str) -> tuple[Any, Extras]:
    """Return the pixels of a photograph as ``Enlarger.enlarge`` takes them, and its colours.

    Raises:
        ValueError: If the file is no image, or is damaged.
    """
    image = decode(Path(photo).read_bytes(), Path(photo).name)
    return image.array(), Extras(image.icc or image.grey_icc, cicp=image.cicp)


def preview(pixels: Any) -> Image.Image:
    """Return an image of 8 bits, and of at most ``PREVIEW`` pixels a side."""
    image = Image.fromarray(pixels if pixels.dtype == "uint8" else (pixels >> 8).astype("uint8"))
    image.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
    return image


def in_page(function: Event) -> Event:
    """Return an event whose errors are sentences on the page."""
    import gradio as gr

    @functools.wraps(function)
    def wrapped(*values: Any) -> Iterator[Any]:
        try:
            yield from function(*values)
        except (ValueError, OSError) as error:
            text = html.escape(str(error), quote=False)
            raise gr.Error(text, duration=None, print_exception=False) from None

    return wrapped


def application(models: Models, megapixels: float = math.inf) -> Any:
    """Return the page, an ASGI application.

    Args:
        models: The methods, at least one.
        megapixels: Largest output.
    """
    import fastapi
    import gradio as gr

    @in_page
    def choose(source: str) -> Iterator[Any]:
        model = models.load(source)
        steps = model.module.default_steps
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
        pixels, colours = read(photo)
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
            levels = np.atleast_3d(output)
            png.write_bytes(encode(levels, fitted_extras(colours, levels, "png")[0], "png", 95))
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
