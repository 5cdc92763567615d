"""``main.py app``: a page in the browser that enlarges a photograph.

    python main.py app                   with all runs, exports and weights that are found
    python main.py app runs/quickstart   begins with this one

By default only this machine can open the page. Nothing is fetched, and photographs lie in a
temporary folder until the app ends.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import inspect
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from commands.errors import ConfigurationError

if TYPE_CHECKING:
    from datamodules.files.decode import DecodedImage
    from enlarger import Enlarger
    from lightning_modules import SuperResolver

log = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PREVIEW = 4096  # pixels of a side in the page; the file has all
LARGEST_UPLOAD = "1gb"
# Gradio's page names scripts and fonts of other servers. With this, a browser loads none of them.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'"
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory")  # torch's RuntimeError
Result = TypeVar("Result")


def main(words: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        words: Arguments as typed; by default those of the process.

    Raises:
        ConfigurationError: If gradio is missing, there is nothing to enlarge with, or the address
            cannot be used.
    """
    options = _parser().parse_args(words)
    if importlib.util.find_spec("gradio") is None:
        raise ConfigurationError(
            "app needs the package gradio, which is optional: "
            "pip install -c constraints.txt -e '.[app]'"
        )
    # Before the imports that read them. Gradio asks its own server whether it has started, which a
    # proxy would not find.
    own = ",".join(filter(None, (os.environ.get("NO_PROXY"), *LOOPBACK)))
    os.environ.update(GRADIO_ANALYTICS_ENABLED="0", HF_HUB_OFFLINE="1", NO_PROXY=own, no_proxy=own)
    with tempfile.TemporaryDirectory(prefix="enlarger-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        return _serve(options, Path(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py app", description="Enlarge photographs in the browser."
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="RUN",
        help="run, exported folder, published weights or file to offer first",
    )
    parser.add_argument("--runs", default="runs", help="folder of runs to offer (default runs)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the first GPU, if any)")
    parser.add_argument(
        "--megapixels", type=float, default=100, help="largest output (default 100)"
    )
    parser.add_argument(
        "--host",
        default=LOOPBACK[0],
        help="address to listen on (default 127.0.0.1: this machine alone); 0.0.0.0 for all",
    )
    parser.add_argument("--port", type=int, default=7860, help="port (default 7860)")
    parser.add_argument(
        "--share", action="store_true", help="make a public link through Gradio's server"
    )
    return parser


# --------------------------------------------------------------------------------------- the work
class Models:
    """The methods that the page offers; one is in memory at a time.

    Args:
        sources: What ``enlarger.load`` takes.
        device: Where it runs; by default the first GPU, if there is one.
    """

    def __init__(self, sources: Sequence[str], device: str | None = None) -> None:
        self.sources, self.device = list(sources), device
        self._source: str | None = None
        self._model: Enlarger | None = None
        self._own: int | None = None  # steps, by default

    def load(self, source: str, steps: int | None = None) -> Enlarger:
        """Return a method, loaded unless it is the one in memory.

        Args:
            source: One of ``sources``: visitors of the page choose no other files.
            steps: Sampling steps; by default the method's own.

        Raises:
            ValueError: If it cannot be loaded, or cannot take so many steps.
        """
        import enlarger

        if source not in self.sources:
            raise ValueError(f"{source!r} is not offered here")
        if self._model is None or self._source != source:
            self._model = None  # free its memory first
            self._model = enlarger.load(source, device=self.device)
            self._source, self._own = source, steps_of(self._model.module)
        wanted = steps or self._own
        if self._own is not None and wanted != steps_of(self._model.module):
            changed = steps_argument(self._model.module, int(wanted or 1))
            self._model = None
            arguments = {} if wanted == self._own else changed
            self._model = enlarger.load(source, device=self.device, **arguments)
        return self._model


def steps_of(method: SuperResolver) -> int | None:
    """Return the number of sampling steps; None for a method without."""
    names, found = inspect.signature(type(method)).parameters, cast(Any, method)
    if "timesteps" in names:  # residual shifting; CasArbi's base alone has no steps
        return None if found.network is None else int(found.sampled.steps)
    group = found.sampling if "sampling" in names else found
    steps = getattr(group, "steps", None)
    return steps if isinstance(steps, int) else None


def steps_argument(method: SuperResolver, steps: int) -> dict[str, Any]:
    """Return the arguments of ``enlarger.load`` for a number of sampling steps.

    Args:
        method: A method with steps.
        steps: Their number.

    Raises:
        ValueError: If there are too many.
    """
    names, found = inspect.signature(type(method)).parameters, cast(Any, method)
    if "timesteps" not in names:
        return {"sampling": {"steps": steps}} if "sampling" in names else {"steps": steps}
    last = found.process.steps - 1
    if not 2 <= steps <= last + 1:
        raise ValueError(f"{type(method).__name__} takes 2 to {last + 1} steps, not {steps}")
    return {"timesteps": [last - last * n // (steps - 1) for n in range(steps)]}


class Wish(NamedTuple):
    """What a visitor has set.

    photo: File of the photograph.
    source: One of the sources.
    scale: Factor; None for the method's own.
    steps: Sampling steps; None for the method's own.
    seed: Of the noise.
    """

    photo: Path
    source: str
    scale: float | None = None
    steps: int | None = None
    seed: int = 0


class Made(NamedTuple):
    """Files of an enlarged photograph.

    png: The output.
    bicubic, output: Previews of the same size.
    about: Sizes and seconds.
    """

    png: Path
    bicubic: Path
    output: Path
    about: str


def enlarge(models: Models, wish: Wish, folder: Path, megapixels: float = 100) -> Made:
    """Enlarge a photograph as ``predict`` does: alpha, grey, 16 bit, profile and EXIF are kept.

    Args:
        models: The methods.
        wish: What is set in the page.
        folder: Where the files are written; earlier previews are replaced.
        megapixels: Largest output.

    Raises:
        ValueError: If the file is no image, the output would be too large, or the method cannot
            enlarge it so.
    """
    import enlarger
    from callbacks.predict.files import GREY, Extras, encode, enlarge_alpha, fitted_exif
    from datamodules.files.exif import lasting_exif, without_hidden_colours

    image = opened(wish.photo)
    model = models.load(wish.source, wish.steps)
    scale = wish.scale or model.scale
    h, w = image.rgb.shape[:2]
    size = (round(h * scale), round(w * scale))
    if scale < 1 or size[0] * size[1] > megapixels * 1e6:
        raise ValueError(
            f"the output would have {size[1]} x {size[0]} pixels. The scale must be at least 1, "
            f"and the output at most {megapixels:g} megapixels (--megapixels)"
        )
    rgb = image.rgb if image.alpha is None else without_hidden_colours(image.rgb, image.alpha)
    colours = rgb[..., 0] if image.mode in GREY else rgb
    began = time.perf_counter()
    try:
        output = model.enlarge(colours, scale=scale, seed=wish.seed)
    except ValueError as error:
        if scale == model.scale or "its scale is" not in str(error):
            raise
        raise ValueError(f"{wish.source} enlarges by {model.scale:g} alone") from error
    seconds = time.perf_counter() - began
    bicubic = enlarger.load("bicubic", scale=scale, device="cpu").enlarge(colours)
    if image.alpha is not None:
        alpha = enlarge_alpha(image.alpha, _channels(output))
        output, bicubic = (_channels(pixels, alpha) for pixels in (output, bicubic))
    exif = lasting_exif(image.exif)
    extras = Extras(image.icc or image.grey_icc, exif and fitted_exif(exif, size, place=True))
    png = folder / f"{wish.photo.stem}_x{scale:g}.png"
    png.write_bytes(encode(_channels(output), extras, "png", 95))
    return Made(
        png,
        preview(bicubic, folder / "bicubic.jpg"),
        preview(output, folder / "output.jpg"),
        f"{w} x {h} to {size[1]} x {size[0]} pixels of {image.bit_depth} bits in {seconds:.1f} s",
    )


def opened(photo: Path) -> DecodedImage:
    """Decode a photograph.

    Raises:
        ValueError: If it is no image; the message has its name, not its path.
    """
    from datamodules.files.decode import decode

    return decode(photo.read_bytes(), photo.name)


def preview(pixels: Any, path: Path) -> Path:
    """Write an image for the page: 8 bits, transparent pixels over white, not too large.

    Args:
        pixels: (H, W) or (H, W, 1 to 4), uint8 or uint16.
        path: The JPEG to write.

    Returns:
        The path.
    """
    from PIL import Image

    pixels = _channels(pixels)
    pixels = pixels if pixels.dtype == "uint8" else (pixels >> 8).astype("uint8")
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
    image.save(path, quality=95, subsampling=0)
    return path


def _channels(pixels: Any, alpha: Any = None) -> Any:
    import numpy as np

    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels if alpha is None else np.concatenate([pixels, alpha], -1)


def message(error: Exception) -> str:
    """Return the sentence of an error for the page; what is a bug is also logged."""
    import torch

    text = str(error)
    full = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if full or (isinstance(error, RuntimeError) and any(word in text for word in NO_MEMORY)):
        return "The memory of this machine is full: choose a smaller photograph or scale."
    if text and isinstance(error, ValueError | OSError | ImportError):
        return text
    log.error("the page asked for something that failed", exc_info=error)
    return f"This failed in an unexpected way; the terminal has the details: {error!r}"


# --------------------------------------------------------------------------------------- the page
def page(models: Models, folder: Path, megapixels: float = 100) -> Any:
    """Return the page, a ``gradio.Blocks``.

    Args:
        models: The methods.
        folder: Where files are written.
        megapixels: Largest output.
    """
    import gradio as gr

    from files.paths import IMAGE_EXTENSIONS

    def in_page(function: Callable[..., Result]) -> Callable[..., Result]:
        def called(*args: Any) -> Result:
            try:
                return function(*args)
            except Exception as error:
                text = html.escape(message(error), quote=False)
                raise gr.Error(text, duration=None, print_exception=False) from None

        return called

    def settings(source: str) -> tuple[Any, Any]:
        model = models.load(source)
        steps = steps_of(model.module)
        return gr.Number(value=model.scale), gr.Number(value=steps, visible=steps is not None)

    def dropped(photo: str | None) -> tuple[Any, str, Any]:
        if photo is None:
            return None, "", gr.DownloadButton(interactive=False)
        image = opened(Path(photo))
        h, w = image.rgb.shape[:2]
        shown = preview(image.rgb, folder / "photograph.jpg")
        about = f"{w} x {h} pixels of {image.bit_depth} bits"
        return (shown, shown), about, gr.DownloadButton(interactive=False)

    def wished(
        photo: str | None, source: str, scale: float | None, steps: int | None, seed: int | None
    ) -> tuple[Any, str, Any]:
        if photo is None:
            raise ValueError("Choose a photograph first.")
        wish = Wish(Path(photo), source, scale, steps, seed or 0)
        made = enlarge(models, wish, folder, megapixels)
        return (
            (made.bicubic, made.output),
            made.about,
            gr.DownloadButton(made.png, interactive=True),
        )

    with gr.Blocks(title="Enlarger", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown("# Enlarger")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = gr.File(label="Photograph", file_types=sorted(IMAGE_EXTENSIONS), height=140)
                source = gr.Dropdown(models.sources, value=models.sources[0], label="Model")
                with gr.Row():
                    scale = gr.Number(label="Scale", minimum=1, min_width=80)
                    steps = gr.Number(label="Steps", precision=0, visible=False, min_width=80)
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
                button = gr.Button("Enlarge", variant="primary")
            with gr.Column(scale=2, min_width=300):
                slider = gr.ImageSlider(
                    label="Bicubic (left), enlarged (right)",
                    type="filepath",
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=640,
                )
                about = gr.Markdown()
                download = gr.DownloadButton("Download PNG", interactive=False)
        shown = [slider, about, download]
        # One event at a time: there is one model in memory.
        one: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
        for event in (blocks.load, source.change):
            event(in_page(settings), source, [scale, steps], api_visibility="private", **one)
        photo.change(in_page(dropped), photo, shown, api_visibility="private", **one)
        wishes = [photo, source, scale, steps, seed]
        button.click(in_page(wished), wishes, shown, api_name="enlarge", **one)
    return blocks


class SameOrigin:
    """Middleware: browsers load what belongs to the page from this server alone.

    Args:
        app: The ASGI application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, with the header of the policy."""

        async def sent(part: Any) -> None:
            if part["type"] == "http.response.start":
                part["headers"] = [*part["headers"], (b"content-security-policy", POLICY)]
            await send(part)

        await self.app(scope, receive, sent)


def _serve(options: argparse.Namespace, folder: Path) -> int:
    import enlarger
    import gradio as gr
    from starlette.middleware import Middleware

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    asked = [str(Path(source)) for source in options.sources]
    found = list(dict.fromkeys([*asked, *enlarger.sources(options.runs)]))
    if not found:
        raise ConfigurationError(
            f"app found no trained run or export in {options.runs!r}, and no published weights on "
            "this machine: train a run (main.py fit), or name one: main.py app RUN"
        )
    models = Models(found, options.device)
    try:
        for source in reversed(asked):  # so that the first one stays in memory
            models.load(source)
        blocks = page(models, folder, options.megapixels)
        _, local, public = blocks.launch(
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            max_file_size=LARGEST_UPLOAD,
            footer_links=["settings"],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            app_kwargs={"middleware": [Middleware(SameOrigin)]},
        )
    except (ValueError, OSError, ImportError) as error:
        raise ConfigurationError(str(error)) from error
    if options.host not in LOOPBACK or options.share:
        log.warning("whoever reaches this address can use the app: it asks for no password")
    sys.stdout.write(f"{public or local} (Ctrl-C ends it)\n")
    sys.stdout.flush()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(0.5):
        pass
    blocks.close(verbose=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
