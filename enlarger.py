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

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, LambdaCallback, ProgressBar

import datamodules
from callbacks.training.ema import EMA
from callbacks.training.progress import progress_bar
from commands.errors import CONFIGS, did_you_mean
from commands.interface.images import Picture, to_tensor
from commands.interface.measuring import Measured, measure
from commands.interface.models import Enlarger, load, sources
from commands.run.checkpoints import Checkpoints, FinishesStep
from commands.run.files import FOLDER, newest_whole
from datamodules.base import SRDataModule
from datamodules.samples import CropSettings
from degradations.base import Degradation, cut_size
from degradations.draws import seed_of
from degradations.tools.configure import degradation_of
from files.paths import CONFIGURATIONS
from lightning_modules.base import ImageModel, SuperResolver

__all__ = [
    "Enlarger",
    "Measured",
    "data",
    "degrade",
    "fit",
    "load",
    "measure",
    "sources",
]


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
    hr, to_image = to_tensor(image)
    height, width = cut_size((hr.shape[-2], hr.shape[-1]), degradation.scale)
    if height and width:  # else too small, which the degradation says
        hr = hr[..., :height, :width]
    seeds = torch.tensor([seed_of("enlarger.degrade", seed)], dtype=torch.int64)
    return cast(Picture, to_image(degradation(hr[:, :3].cpu(), seeds)[0]))


def _recipe(name: str | Path, scale: float) -> Degradation:
    path = Path(name)
    if path.suffix not in CONFIGURATIONS:
        files = {file.stem: file for file in sorted((CONFIGS / "degradation").glob("*.yaml"))}
        if path.name not in files:
            names = did_you_mean(path.name, files) or f": expected {', '.join(files)}"
            raise ValueError(f"there is no degradation {path.name!r}{names}")
        path = files[path.name]
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
    """Train a method by Lightning's Trainer; the same call goes on from the newest checkpoint.

    Args:
        model: A method, or what ``load`` returned, whose weights it starts from.
        data: What ``data`` returned, or a data module of your own.
        run: Name of the folder in ``runs/``, or a path, with logs and the newest checkpoint. If it
            has one, training continues from it, also after Ctrl-C, which writes none. Without
            it, nothing is kept but the result.
        callbacks: Such as ``callbacks.PSNR()``.
        trainer: Further arguments of Lightning's Trainer, such as ``max_steps``.

    Returns:
        The trained method; with ``callbacks.EMA`` its averages, as ``load`` of a run gives them.
    """
    module = model.module if isinstance(model, Enlarger) else model
    # Lightning tells only callbacks of an exception.
    generators = LambdaCallback(on_exception=lambda *_: ImageModel.on_fit_end(module))
    all_callbacks: list[Callback] = [*callbacks, generators]
    has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    if trainer.get("enable_progress_bar", True) and not has_bar:
        all_callbacks.append(progress_bar())
    checkpoint: Path | None = None
    if run is None:
        trainer = {"logger": False, "enable_checkpointing": False, **trainer}
    else:
        folder = Path(run) if len(Path(run).parts) > 1 else Path("runs", run)
        saves_too = any(isinstance(callback, Checkpoint) for callback in callbacks)
        trainer = {"default_root_dir": folder, "enable_checkpointing": saves_too, **trainer}
        all_callbacks.insert(0, Checkpoints())
        checkpoint = newest_whole(folder / FOLDER)
    lightning = Trainer(callbacks=all_callbacks, **trainer)
    lightning.callbacks.append(FinishesStep())  # type: ignore[attr-defined]
    lightning.fit(module.train(), data, ckpt_path=checkpoint, weights_only=True)
    for callback in callbacks:
        averages = callback.state_dict() if isinstance(callback, EMA) else {}
        if averages:
            # Not strict: only trained parameters have averages, by the names that they have here.
            module.load_state_dict(averages["weights"], strict=False)
    return Enlarger(module)
