"""The Python interface: degrade, enlarge and measure images that are in memory.

    import enlarger

    lr = enlarger.degrade(image, "real_esrgan", scale=4, seed=0)
    model = enlarger.load("runs/quickstart")
    sr = model.enlarge(lr)
    enlarger.measure("outputs", "references", ["psnr", "ssim", "niqe"])

An image is a Pillow image; a NumPy array (H, W) or (H, W, 2 to 4) of uint8, uint16 or floats in
[0, 1]; or a tensor (3, H, W) of floats in [0, 1]. The result is of the same kind. Of two and four
channels, the last one is alpha. A Pillow image keeps its colour profile. ``data`` and ``fit``
train; all classes also work with Lightning's own Trainer, without a configuration file.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import numpy as np
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import callbacks
import datamodules
from callbacks.metrics.base import Metric
from callbacks.metrics.pixels import border_in_pixels
from callbacks.predict.files import luma, to_pixels, weighted_by_alpha
from callbacks.training.ema import EMA
from callbacks.weights import manifest, place_of
from commands.arguments.command_line import CommandLine
from commands.arguments.parser import Parser, parse
from commands.errors import CONFIGS, ConfigurationError, did_you_mean
from commands.process import hide_advertising
from commands.released import released
from commands.run.checkpoints import Checkpoints, SavesLast
from commands.run.directory import RunDirectory
from commands.run.files import FOLDER, list_checkpoints, newest_whole
from commands.run.weights import EXPORT, find_weights, load_trained
from commands.tracebacks import origin
from datamodules.base import SRDataModule, checked_scale
from datamodules.samples import CropSettings
from degradations.base import Degradation, check_unit_range, cut_size
from degradations.bicubic import resize
from degradations.draws import seed_of
from degradations.tools.configure import degradation_of
from files.batch import Batch
from files.images.alpha import without_hidden_colours
from files.images.colours import GREY, fitted
from files.images.decode import from_pillow, read_image
from files.merge import Merged
from files.own_modules import import_own
from files.paths import images_by_key, read_text
from files.yaml_loader import StrictLoader, plain_yaml
from lightning_modules.base import ImageModel, NothingToTrain, SuperResolver
from lightning_modules.noise import Noise
from lightning_modules.sampling.tiling import Tiling

log = logging.getLogger(__name__)
CONFIG = "config.yaml"  # of a run or an exported folder

Picture = TypeVar("Picture", Image.Image, NDArray[Any], Tensor)


class Measured(TypedDict):
    """A number of ``measure``.

    value: Mean over the images, or the number of the whole set.
    n: Number of images that it is of, without those whose number is left out as infinite.
    protocol: How it was computed.
    higher_is_better: The metric's direction; None if it has none.
    images: The number of each image by its name; empty for a number of the whole set.
    """

    value: float
    n: int
    protocol: Mapping[str, Any]
    higher_is_better: bool | None
    images: dict[str, float]


# ---------------------------------------------------------------------------------- degradations
def degrade(
    image: Picture,
    recipe: str | Path | Degradation = "real_esrgan",
    *,
    scale: float = 4,
    seed: int = 0,
) -> Picture:
    """Make the low-resolution image of a high-resolution one.

    Args:
        image: The image, see above; alpha is dropped.
        recipe: A name of ``configs/degradation/``, a YAML file, or a degradation.
        scale: How many times smaller the result is. A degradation has its own.
        seed: The only source of randomness.

    Returns:
        The degraded image, of the image cut to a multiple of the scale, as in ``main.py test``.

    Raises:
        ValueError: If the image or the recipe is invalid.
    """
    degradation = recipe if isinstance(recipe, Degradation) else _recipe(recipe, scale)
    hr, back = _tensor(image)
    height, width = cut_size((hr.shape[-2], hr.shape[-1]), degradation.scale)
    if height and width:  # else too small, which the degradation says
        hr = hr[..., :height, :width]
    seeds = torch.tensor([seed_of("enlarger.degrade", seed)], dtype=torch.int64)
    return cast(Picture, back(degradation(hr[:, :3].cpu(), seeds)[0]))


def _recipe(name: str | Path, scale: float) -> Degradation:
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = {file.stem: file for file in sorted((CONFIGS / "degradation").glob("*.yaml"))}
        if str(name) not in known:
            raise ValueError(
                f"there is no degradation {str(name)!r}"
                f"{did_you_mean(str(name), known) or ': expected ' + ', '.join(known)}"
            )
        path = known[str(name)]
    return degradation_of([path], scale)


def data(
    train: str | Path,
    *,
    scale: float,
    degradation: str | Path | Degradation = "bicubic",
    val: str | Path | None = None,
    **settings: Any,
) -> SRDataModule:
    """Return images to train on, for Lightning's Trainer.

    Args:
        train: A folder of images, or a pattern of WebDataset tars, such as ``shards/*.tar``.
        scale: Factor of enlargement.
        degradation: As ``recipe`` of ``degrade``.
        val: Images to validate on, likewise.
        settings: Further arguments of ``datamodules.SRDataModule``, such as ``crop_size`` and
            ``crops``, a dictionary such as ``{"per_image": 4}``.

    Raises:
        ValueError: If the degradation or a setting is invalid.
    """
    recipe = degradation if isinstance(degradation, Degradation) else _recipe(degradation, scale)
    if isinstance(settings.get("crops"), dict):
        settings["crops"] = CropSettings(**settings["crops"])
    validated = {} if val is None else {"val": _source(val)}
    return SRDataModule(scale, _source(train), validated, degradation=recipe, **settings)


def _source(place: str | Path) -> datamodules.Source:
    tars = str(place).endswith(".tar")
    return datamodules.Shards(str(place)) if tars else datamodules.Folder(str(place))


def fit(
    model: Enlarger | SuperResolver,
    data: SRDataModule,
    *,
    run: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **trainer: Any,
) -> Enlarger:
    """Train a method by Lightning's Trainer; the same call goes on where it was stopped.

    Args:
        model: A method, or what ``load`` returned, whose weights it starts from.
        data: What ``data`` returned, or a data module of your own.
        run: Name of the folder in ``runs/``, or a path, with logs and the newest checkpoint. If it
            has one, training continues from it. Without it, nothing is kept but the result.
        callbacks: Such as ``callbacks.PSNR()``.
        trainer: Further arguments of Lightning's Trainer, such as ``max_steps``.

    Returns:
        The trained method; with ``callbacks.EMA`` its averages, as ``load`` of a run gives them.
    """
    module = model.module if isinstance(model, Enlarger) else model
    # Lightning tells only callbacks of an exception.
    generators = LambdaCallback(on_exception=lambda *_: ImageModel.on_fit_end(module))
    kept: list[Callback] = [*callbacks, generators]
    newest: Path | None = None
    if run is None:
        trainer = {"logger": False, "enable_checkpointing": False, **trainer}
    else:
        folder = Path(run) if len(Path(run).parts) > 1 else Path("runs", run)
        trainer = {"default_root_dir": folder, **trainer}
        kept = [SavesLast(), *kept, Checkpoints()]
        newest = newest_whole(folder / FOLDER)
    hide_advertising()
    Trainer(callbacks=kept, **trainer).fit(
        module.train(), data, ckpt_path=newest, weights_only=True
    )
    for callback in callbacks:
        if isinstance(callback, EMA) and (state := callback.state_dict()):
            # Not strict: only trained parameters have averages, by the names that they have here.
            module.load_state_dict(state["weights"], strict=False)
    return Enlarger(module)


# ---------------------------------------------------------------------------------------- models
class Enlarger:
    """A method with its weights; made by ``load``, or from a method that you built.

    Args:
        module: The method; set to evaluation and moved to the device.
        device: Where it runs; by default the first GPU, if there is one.
        tiling: How large images are cut into tiles; by default only if they are large.

    Raises:
        FileNotFoundError: If a file that its arguments name is missing.
        ValueError: If a frozen part has random weights.
    """

    def __init__(
        self,
        module: SuperResolver,
        device: str | torch.device | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        module.setup("predict")
        best = "cuda" if torch.cuda.is_available() else "cpu"
        self.module = module.to(torch.device(device or best)).eval()
        self.tiling = tiling or Tiling()

    @property
    def scale(self) -> float:
        """The factor by which it enlarges by default."""
        return self.module.scale

    def enlarge(
        self,
        image: Picture,
        *,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        tiling: Tiling | None = None,
    ) -> Picture:
        """Enlarge an image, as ``main.py predict`` does.

        Noise of a stochastic method follows from the seed alone, not from the image's name, too.

        Args:
            image: The image, see above. Alpha is enlarged by bicubic; grey stays grey.
            scale: Factor, for a method of any scale; by default ``self.scale``.
            size: (H, W) of the result, instead of ``scale``.
            seed: The only source of randomness.
            tiling: How large images are cut into tiles; by default as of the run or export.

        Returns:
            The enlarged image.

        Raises:
            ValueError: If the image is invalid, the method has another scale, or the result would
                be smaller than the image.

        Examples:
            >>> import enlarger
            >>> image.size, enlarger.load("bicubic", scale=2).enlarge(image).size
            ((32, 24), (64, 48))
        """
        x, back = _tensor(image)
        height, width = _output_size(x, self.scale if scale is None else scale, size)
        if size is not None and scale is not None:
            raise ValueError(
                f"both scale {scale:g} and size {size} are given: leave one of them out"
            )
        self.module.set_noise_seed(seed)
        self.module.set_tiling(tiling or self.tiling)
        batch: Batch = {
            "key": ["image"],
            "seed": torch.tensor([seed_of("enlarger.enlarge")], dtype=torch.int64),
            "size": (height, width),
            "lr": _visible(x).to(self.module.device),
        }
        sr = self.module.enlarge(batch, tiled=True)["sr"][0]
        if x.shape[1] == 4:
            colours, alpha = x[0, :3].to(sr.device), x[0, 3:].to(sr.device)
            sr = weighted_by_alpha(sr, batch["lr"][0], colours, alpha)
            sr = torch.cat([sr, resize(alpha[None], (height, width))[0]])
        return cast(Picture, back(sr))


def _visible(x: Tensor) -> Tensor:
    """Return RGB, without the colours that alpha hides."""
    if x.shape[1] == 3:
        return x
    pixels = x[0].movedim(0, -1).numpy()
    rgb = without_hidden_colours(pixels[..., :3], pixels[..., 3])
    return torch.from_numpy(rgb).movedim(-1, 0)[None].contiguous()


def _output_size(x: Tensor, scale: float, size: tuple[int, int] | None) -> tuple[int, int]:
    h, w = x.shape[-2:]
    if size is None:
        checked_scale(scale, "")
        return round(h * scale), round(w * scale)
    if len(size) != 2 or not all(isinstance(side, int | np.integer) for side in size):
        raise ValueError(f"size is {size}; expected two integers, height and width")
    height, width = map(int, size)
    if height < h or width < w:
        raise ValueError(
            f"the image is {w}x{h} pixels, larger than the {width}x{height} of size "
            f"{height, width}: enlarge does not shrink images"
        )
    return height, width


def load(
    source: str | Path,
    *,
    scale: float | None = None,
    device: str | torch.device | None = None,
    **arguments: Any,
) -> Enlarger:
    """Load a method with trained weights.

    Args:
        source: A run's folder, which gives its best weights; an exported folder; published weights,
            such as ``imdn-x4``; a name of ``configs/model/``; a YAML file of a model; or a
            checkpoint that spandrel reads.
        scale: Factor of enlargement; by default that of the run or the file.
        device: Where it runs; by default the first GPU, if there is one.
        arguments: Other values of the method's arguments, such as ``sampler="dpm_solver_2m"``; of a
            group some keys are enough: ``sampling={"steps": 3}``, and of a class that stays:
            ``process={"init_args": {"kappa": 1.0}}``.

    Returns:
        The method, ready to enlarge images.

    Raises:
        ValueError: If there is no such thing, or it does not enlarge images.

    Examples:
        >>> import enlarger
        >>> enlarger.load("bicubic", scale=2).scale
        2.0
        >>> model = enlarger.load("runs/casarbi", sampling={"steps": 3})  # doctest: +SKIP
    """
    try:
        module = _load(str(source), scale, arguments)
    except ConfigurationError as error:  # a message for users of the command line
        raise ValueError(str(error)) from error
    if not isinstance(module, SuperResolver):
        raise ValueError(f"{source} is a {type(module).__name__}, which does not enlarge images")
    return Enlarger(module, device, module.tiling)


def _load(source: str, scale: float | None, arguments: dict[str, Any]) -> ImageModel:
    path = Path(source).expanduser()
    if (path / CONFIG).is_file():
        content = yaml.load(read_text(path / CONFIG), StrictLoader)
        try:
            model, own = content["model"], content["data"]["init_args"]["scale"]
        except (KeyError, TypeError):
            raise ValueError(
                f"{path / CONFIG} is not of a run or an export: it lacks model, or "
                "data.init_args.scale"
            ) from None
        if (path / EXPORT).is_file():
            arguments = {"weights": str(path / EXPORT), **arguments}
        module = _built(model, own if scale is None else scale, arguments, RunDirectory(path))
        if isinstance(module, SuperResolver):
            module.set_tiling(Tiling(**(content.get("tiling") or {})))
        return module
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        from lightning_modules.networks.spandrel import scale_of_file

        network = {"class_path": "lightning_modules.Spandrel", "init_args": {"path": str(path)}}
        found = scale_of_file(str(path)) if scale is None else scale
        model = {"class_path": "lightning_modules.Regression", "init_args": {"network": network}}
        return _built(model, found, arguments)
    models = {file.stem: file for file in sorted((CONFIGS / "model").glob("*.yaml"))}
    if source in released():
        file, own = released()[source]
        if scale is not None and scale != own:
            raise ValueError(f"{source} are weights for x{own:g}, and scale is {scale:g}")
        return _built(str(file), own if scale is None else scale, arguments)
    if not path.is_file() and source not in models:
        known = [*released(), *models]
        raise ValueError(
            f"{source!r} is neither a trained run, an export nor a file, and not one of the names "
            f"{', '.join(known)}{did_you_mean(source, known)}"
        )
    if scale is None:
        raise ValueError(f"{source} describes a model for any scale: give its scale")
    return _built(str(path if path.is_file() else models[source]), scale, arguments)


def _built(
    model: Any, scale: float, arguments: Mapping[str, Any], run: RunDirectory | None = None
) -> ImageModel:
    parser = Parser()
    parser.add_subclass_arguments(ImageModel, "model")
    merged = Merged()
    if isinstance(model, str):
        merged.add_typed("model", model)
        model = merged.values["model"]
    given = {**(model.get("init_args") or {}), "scale": scale}
    given |= {name: _changed(given.get(name), value) for name, value in arguments.items()}
    merged.values["model"] = {**model, "init_args": given}
    config = parse(parser, CommandLine(merged))
    try:
        module = cast(ImageModel, parser.instantiate_classes(config)["model"])
    except (TypeError, ValueError) as error:
        raise origin(error) from None
    module.load_parts(lambda name, value: find_weights(value, module.scale, name))
    if run is not None:
        load_trained(module, run, "load", None)
    elif module.initial_weights is not None:
        module.load_weights(find_weights(module.initial_weights, module.scale, "weights"))
    elif module.needs_weights:
        raise ValueError(f"{type(module).__name__} needs trained weights: give weights=FILE")
    return module


def _changed(before: Any, value: Any) -> Any:
    """Return an argument with the keys that are given of a group, or of a class if it stays."""
    groups = isinstance(before, dict) and isinstance(value, Mapping)
    if groups and {**before, **value}.get("class_path") == before.get("class_path"):
        return before | {name: _changed(before.get(name), new) for name, new in value.items()}
    return value


def sources(runs: str | Path = "runs") -> list[str]:
    """Return what ``load`` can take on this machine, without downloading anything.

    Args:
        runs: A folder of runs and exported folders. Those without weights are left out, and those
            whose method does not enlarge images. Of a run, its ``export`` counts only without it.

    Returns:
        Their paths, then names of published weights.
    """
    found = list[str]()
    for folder in sorted(Path(runs).glob("*")):
        both = folder, folder / "export"  # where the command writes it
        found += [str(place) for place in both if _enlarges(place / CONFIG)][:1]
    return found + [name for name in released() if place_of(manifest()[name]) is not None]


def _enlarges(config: Path) -> bool:
    if not (config.with_name(EXPORT).is_file() or list_checkpoints(config.parent / FOLDER)):
        return False
    try:
        module, _, name = plain_yaml(read_text(config))["model"]["class_path"].rpartition(".")
        return issubclass(getattr(import_own(module), name), SuperResolver)
    except Exception as error:  # another program's file; a class of yours may raise anything
        log.debug("%s is left out: %r", config, error)
        return False


# --------------------------------------------------------------------------------------- metrics
Images = str | Path | Sequence[Any] | Mapping[str, Any]


def measure(
    outputs: Images,
    references: Images | None = None,
    metrics: str | Sequence[str | Metric] = ("psnr", "ssim"),
    *,
    scale: float = 1,
    device: str = "auto",
) -> dict[str, Measured]:
    """Measure outputs as ``main.py test`` does; images are taken whole and with all their bits.

    Args:
        outputs: A folder; a list of images or files; or images by name. A single image is a list
            of one.
        references: The HR images, in the same form: files of a folder have the same names, lists
            the same order. None for metrics that need none, such as NIQE.
        metrics: Names, such as ``psnr``, ``lpips`` or ``fid``, or metrics of ``callbacks``.
        scale: Factor by which the outputs were enlarged: the border that is left out by PSNR and
            SSIM in the protocol of most papers.
        device: Accelerator of Lightning's Trainer.

    Returns:
        The number of each metric, by its name.

    Raises:
        ValueError: If images are missing or differ in size, a metric is unknown, or there is no
            number because all images are too small.
        FileNotFoundError: If the weights of a metric are missing.
    """
    checked_scale(scale, "")
    chosen = [_metric(m) for m in ([metrics] if isinstance(metrics, str) else metrics)]
    if reading := [m.name for m in chosen if m.needs_lr]:
        raise ValueError(f"{', '.join(reading)} needs the LR images: measure them by main.py test")
    if references is None and (needed := [m.name for m in chosen if m.needs_hr]):
        raise ValueError(f"{', '.join(needed)} needs references")
    sr = _named(outputs, "outputs")
    hr = None if references is None else _named(references, "references")
    images = _Images(scale, sr, hr)
    with _quiet_lightning():
        try:
            trainer = Trainer(
                accelerator=device,
                devices=1,
                callbacks=[*chosen],
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        except MisconfigurationException as error:
            raise ValueError(f"device is {device!r}: {error}") from error
        trainer.test(_Outputs(scale), DataLoader(images, batch_size=None), verbose=False)
    found: dict[str, Measured] = {}
    for metric in chosen:
        of_images = metric.images.get("images", {})
        each = {key.partition("/")[2]: value for key, value in of_images.items()}
        for record in metric.records:
            left_out = record.get("not_finite", 0) if math.isfinite(record["value"]) else 0
            protocol = dict(record["protocol"])
            if protocol.get("border") in ("scale", "scale+6"):
                protocol["border"] = border_in_pixels(str(protocol["border"]), scale)
            if images.cut and metric.needs_hr:
                protocol["reference"] = f"cut to multiples of {scale:g}"
            found[record["metric"]] = {
                "value": record["value"],
                "n": record["n"] - left_out,
                "protocol": protocol,
                "higher_is_better": metric.is_higher_better(record["metric"]),
                "images": each,
            }
    if not found:
        names = ", ".join(metric.name for metric in chosen)
        raise ValueError(f"there is no number: the images are too small for {names}")
    return found


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)


def _metric(given: str | Metric) -> Metric:
    if isinstance(given, str):
        names = {name.lower(): name for name in dir(callbacks)}
        kind = getattr(callbacks, names.get(given.replace("_", "").lower(), ""), None)
        if not (isinstance(kind, type) and issubclass(kind, Metric)):
            raise ValueError(
                f"there is no metric {given!r}{did_you_mean(given.lower(), names)}; "
                "docs/metrics.md lists them"
            )
        given = kind()
    if not isinstance(given, Metric):
        raise ValueError(
            f"{given!r} is not a metric; give a name such as psnr, or callbacks.PSNR()"
        )
    given.strict_weights = True
    return given


def _named(images: Images, argument: str) -> dict[str, Any]:
    if isinstance(images, Mapping):
        return {str(name): image for name, image in images.items()}
    if isinstance(images, str | Path):
        return images_by_key(Path(images))
    # A single array is iterable, too: its rows would be taken for grey images.
    alone = isinstance(images, np.ndarray | Tensor) and images.ndim < 4
    if alone or not isinstance(images, Iterable):
        kind = type(images).__name__
        raise ValueError(
            f"{argument} is a single {kind}; expected a folder, a list of images, or images by name"
        )
    return {f"{number:06}": image for number, image in enumerate(images)}


class _Images(Dataset[Batch]):
    """Outputs and their references, as they are."""

    name = "images"

    def __init__(
        self, scale: float, outputs: dict[str, Any], references: dict[str, Any] | None
    ) -> None:
        if not outputs:
            raise ValueError("there are no outputs")
        if references is not None and (other := sorted(outputs.keys() ^ references.keys())):
            raise ValueError(
                f"outputs and references differ in {len(other)} names, such as {other[0]}"
            )
        self.scale, self.outputs, self.references = scale, outputs, references
        self.cut = False  # whether any reference was, to the size of its output
        self.keys = [f"{self.name}/{name}" for name in outputs]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Batch:
        name = self.keys[index].partition("/")[2]
        sr = _rgb(self.outputs[name])
        batch: dict[str, Any] = {"key": [self.keys[index]], "size": sr.shape[-2:], "sr": sr}
        if self.references is not None:
            batch["hr"] = self._reference(name, self.references[name], sr)
        return cast("Batch", batch)

    def _reference(self, name: str, reference: Any, sr: Tensor) -> Tensor:
        hr = _rgb(reference)
        (H, W), (h, w) = hr.shape[-2:], sr.shape[-2:]
        if (h, w) == (H, W):
            return hr
        if (h, w) != cut_size((H, W), self.scale):
            raise ValueError(
                f"the output {name} is {w}x{h} pixels, and its reference {W}x{H}: expected equal "
                f"sizes, or the reference's, cut to multiples of the scale {self.scale:g}"
            )
        self.cut = True
        return hr[..., :h, :w]


class _Outputs(NothingToTrain, SuperResolver):
    """Outputs that are there already."""

    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        raise NotImplementedError  # there is no LR

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        return {"sr": batch["sr"]}


def _rgb(image: Any) -> Tensor:
    """Return an image or a file as (1, 3, H, W) in [0, 1], of all its bits."""
    if isinstance(image, str | Path):
        image = read_image(image, srgb=True).array()
    return _tensor(image, srgb=True)[0][:, :3]


# ---------------------------------------------------------------------------------------- images
Back = Callable[[Tensor], Any]


def _tensor(image: Any, srgb: bool = False) -> tuple[Tensor, Back]:
    """Return an image as (1, 3 or 4, h, w) in [0, 1], and the way back from (3 or 4, H, W).

    With ``srgb``, a Pillow image is converted by its colour profile, as files are.

    Raises:
        ValueError: If it is no image.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("I", "F"):  # Pillow would clip them at 255
            raise ValueError(
                f"the image is of Pillow's mode {image.mode}, whose range is unknown; expected 8 "
                "or 16 bits a channel, or an array of floats in [0, 1]"
            )
        if image.mode.startswith("I;16") and image.has_transparency_data:
            raise ValueError("Pillow has no 16-bit grey with alpha: give an array (H, W, 2)")
        decoded = from_pillow(image, srgb)
        x, back = _tensor(decoded.array())
        return x, lambda made: _to_pillow(back(made), decoded.icc or decoded.grey_icc)
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
            raise ValueError(f"the tensor is {_shape(image)}; expected (3, H, W) floats in [0, 1]")
        return _in_range(image[None].float()), lambda made: made.to(image)
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{type(image).__name__} is not an image; see help(enlarger)")
    most = {"uint8": 255, "uint16": 65535}.get(image.dtype.name, 1)
    sound = image.ndim == 2 or (image.ndim == 3 and image.shape[-1] in (2, 3, 4))
    if not sound or (most == 1 and image.dtype.kind != "f"):
        raise ValueError(
            f"the array is {_shape(image)}; expected (H, W) or (H, W, 2 to 4) of uint8, uint16 or "
            "floats in [0, 1]"
        )
    x = _in_range(torch.from_numpy(image.astype(np.float32) / most))
    x = (x[..., None] if x.ndim == 2 else x).movedim(-1, 0)
    grey = len(x) < 3
    x = torch.cat([x[:1].expand(3, *x.shape[1:]), x[1:]]) if grey else x

    def to_array(made: Tensor) -> NDArray[Any]:
        made = torch.cat([luma(made[:3]), made[3:]]) if grey else made
        if most > 1:
            array: NDArray[Any] = to_pixels(made, 8 * image.dtype.itemsize)
        else:
            array = made.movedim(0, -1).cpu().numpy().astype(image.dtype)
        return array[..., 0] if array.shape[-1] == 1 else array

    return x[None].contiguous(), to_array


def _to_pillow(pixels: NDArray[Any], icc: bytes | None) -> Image.Image:
    image = Image.fromarray(pixels)
    if icc and (profile := fitted(icc, image.mode in GREY)):
        image.info["icc_profile"] = profile
    return image


def _in_range(x: Tensor) -> Tensor:
    if x.numel() == 0:
        raise ValueError(f"the image is empty: {_shape(x)}")
    check_unit_range(x, "the image")
    return x.clamp(0, 1)


def _shape(image: Any) -> str:
    return f"{'x'.join(map(str, image.shape))} of {str(image.dtype).removeprefix('torch.')}"
