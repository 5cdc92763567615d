"""The page: what is on it, and its events. Gradio is optional: imported where it is used."""

from __future__ import annotations

import functools
import html
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from callbacks.predict.files import Extras, encode, fitted_extras, fitted_pixels
from commands.app.models import Models, Stopped
from commands.released import released
from files.images.decode import decode
from files.paths import IMAGE_EXTENSIONS
from lightning_modules.sampling.enlarging import WrongScaleError
from lightning_modules.sampling.tiling import Tiling

PREVIEW = 2000  # pixels of a side in the page; the PNG has all
MIDDLE = 192  # pixels of a side of what `Preview` enlarges
QUALITY = 95  # of JPEG
LARGEST_UPLOAD = "200mb"
INTRODUCTION = """# Enlarger
Drop photographs, choose a model and press **Enlarge**; **Preview** enlarges only the middle of the
first one. Nothing leaves the machine that serves this page."""
FIELDS = {"data.init_args.scale": "Scale", "tiling.size": "Tile"}  # in errors
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
    if pixels.dtype == "uint16":
        pixels = (pixels >> 8).astype("uint8")
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
    return image


def middle(pixels: Any) -> Any:
    """Return the middle of an image, ``MIDDLE`` pixels a side or what it has."""
    height, width = pixels.shape[:2]
    top = max(0, (height - MIDDLE) // 2)
    left = max(0, (width - MIDDLE) // 2)
    return pixels[top : top + MIDDLE, left : left + MIDDLE]


def example() -> str:
    """Return a photograph that comes with the environment."""
    from sklearn.datasets import __file__ as package

    return str(Path(package).parent / "images" / "flower.jpg")


def _some(photos: list[str] | None) -> list[str]:
    if not photos:
        raise ValueError("Choose a photograph first.")
    return photos


def _words(error: str) -> str:
    text = html.escape(error, quote=False)
    for key, field in FIELDS.items():
        text = text.replace(key, field)
    return text


def in_page(function: Event) -> Event:
    """Return an event whose errors are sentences on the page."""
    import gradio as gr

    @functools.wraps(function)
    def wrapped(*values: Any) -> Iterator[Any]:
        try:
            yield from function(*values)
        except Stopped:
            return
        except (ValueError, OSError) as error:
            raise gr.Error(_words(str(error)), duration=None, print_exception=False) from None

    return wrapped


def application(models: Models) -> Any:
    """Return the page, an ASGI application.

    Args:
        models: The methods, at least one.
    """
    import fastapi
    import gradio as gr

    @in_page
    def choose(source: str) -> Iterator[Any]:
        published = released().get(source)
        if published is not None:  # its file is fetched when it is first used
            yield gr.Number(published.scale, interactive=False), gr.Number(None, visible=False)
            return
        model = models.load(source)
        steps = model.module.default_steps
        yield gr.Number(model.scale, interactive=True), gr.Number(steps, visible=steps is not None)

    @in_page
    def drop(photos: list[str] | None) -> Iterator[Any]:
        if not photos:
            yield gr.ImageSlider(None, label="Photograph"), "", []
            return
        pixels = read(photos[0])[0]
        image = preview(pixels)
        about = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        yield gr.ImageSlider((image, image), label="Photograph"), about, []

    @in_page
    def look(photos: list[str] | None, *settings: Any) -> Iterator[Any]:
        pixels = middle(read(_some(photos)[0])[0])
        _, slider, about = enlarged("the middle", pixels, *settings)
        yield slider, about, []

    of_tiles = gr.Progress(track_tqdm=True)

    @in_page
    def press(photos: list[str] | None, progress: Any = of_tiles, *settings: Any) -> Iterator[Any]:
        *settings, form = settings  # type: ignore[assignment]
        photos = _some(photos)
        files: list[str] = []
        with tempfile.TemporaryDirectory() as folder:  # until Gradio has its own copies
            for number, photo in enumerate(photos):
                name = Path(photo).name
                try:
                    pixels, colours = read(photo)
                    output, slider, about = enlarged(name, pixels, *settings)
                except (ValueError, OSError) as error:
                    is_last = number + 1 == len(photos)
                    if is_last and not files:
                        raise
                    gr.Warning(_words(f"{name}: {error}"), duration=None)
                    continue
                levels = fitted_pixels(np.atleast_3d(output), form)
                extras = fitted_extras(colours, levels, form)[0]
                factor = output.shape[0] / pixels.shape[0]
                file = Path(folder, str(number), f"{Path(photo).stem}_x{factor:g}.{form}")
                file.parent.mkdir()
                file.write_bytes(encode(levels, extras, form, QUALITY))
                files.append(str(file))
                yield slider, about, files

    def enlarged(
        name: str, pixels: Any, source: str, scale: float, steps: int, tile: int, seed: int
    ) -> tuple[Any, Any, str]:
        model = models.load(source, steps)
        scale = scale or model.scale
        h, w = pixels.shape[:2]
        about = f"{w} x {h} to {round(w * scale)} x {round(h * scale)} pixels"
        if scale < 1:
            raise ValueError(f"{about}: the scale must be at least 1")
        tiling = Tiling(size=tile) if tile else None
        try:
            with models.stoppable():
                output = model.enlarge(pixels, scale=scale, seed=seed or 0, tiling=tiling)
        except WrongScaleError as error:
            raise ValueError(
                f"{models.names[source]} enlarges by {model.scale:g} only; set Scale to "
                f"{model.scale:g}"
            ) from error
        after = preview(output)
        before = preview(pixels).resize(after.size, Image.Resampling.BICUBIC)
        label = f"Bicubic | {models.names[source]}"
        return output, gr.ImageSlider((before, after), label=label), f"{about}, {name}"

    with gr.Blocks(title="Enlarger", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photos = gr.File(
                    label="Photographs",
                    file_count="multiple",
                    file_types=sorted(IMAGE_EXTENSIONS),
                    height=140,
                )
                source = gr.Dropdown(
                    [(name, source) for source, name in models.names.items()],
                    value=models.sources[0],
                    label="Model",
                )
                with gr.Row():
                    scale = gr.Number(label="Scale", min_width=130)
                    steps = gr.Number(label="Steps", precision=0, visible=False, min_width=130)
                    tile = gr.Number(0, label="Tile (0: auto)", precision=0, min_width=130)
                    seed = gr.Number(0, label="Seed", precision=0, min_width=130)
                form = gr.Radio(["png", "jpg"], value="png", label="Files")
                with gr.Row():
                    button = gr.Button("Enlarge", variant="primary", min_width=90)
                    crop = gr.Button("Preview", min_width=90)
                    stop = gr.Button("Stop", min_width=90)
                gr.Examples([[[example()]]], photos, label="An example")
            with gr.Column(scale=2, min_width=300):
                slider = gr.ImageSlider(
                    label="Photograph", format="png", buttons=["fullscreen"], max_height=640
                )
                about = gr.Markdown()
                files = gr.File(
                    label="Enlarged", file_count="multiple", interactive=False, height=140
                )
        settings = [photos, source, scale, steps, tile, seed]
        results = [slider, about, files]
        # One event at a time, because one model is in memory.
        one: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
        hidden: dict[str, Any] = {"api_visibility": "private", **one}
        for event in (page.load, source.change):
            event(choose, source, [scale, steps], **hidden)
        photos.change(drop, photos, results, show_progress_on=slider, **hidden)
        crop.click(look, settings, results, show_progress_on=slider, **hidden)
        run = button.click(
            press, [*settings, form], results, show_progress_on=slider, api_name="enlarge", **one
        )
        stop.click(models.stop, cancels=[run], queue=False, api_visibility="private")
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
