"""A method with its weights, which enlarges images in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from callbacks.predict.files import (
    EIGHT_BIT,
    OPAQUE,
    SPELLED,
    Extras,
    Format,
    Size,
    fitted_exif,
    mixed_with_bicubic,
    weighted_by_alpha,
    why_no_folder,
    write_image,
)
from callbacks.predict.levels import Finish, levels_of
from commands.arguments.parser import Parser, parse
from commands.errors import CONFIGS, did_you_mean
from commands.interface.images import Picture, bit_depth, to_tensor
from commands.interface.named import method_of_file, read_run_config, released
from commands.run.directory import RunDirectory
from commands.run.files import CONFIG, FOLDER, list_checkpoints
from commands.run.weights import EXPORT, choose_weights, find_weights, load_trained
from datamodules.base import checked_scale
from degradations.base import as_floats
from degradations.draws import seed_of
from degradations.images import as_tensor
from files.batch import Batch
from files.images.alpha import without_hidden_colours
from files.images.decode import DecodedImage, read_image
from files.images.deep import Pixels
from files.manifest import place_of
from files.own_modules import import_own
from files.paths import CONFIGURATIONS
from files.yaml import read_yaml
from lightning_modules.base import ImageModel, SuperResolver
from lightning_modules.sampling.tiling import Tiling

log = logging.getLogger(__name__)
ExifPart = Literal["keep", "no_place", "drop"]


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
        self.module.may_use_bf16 = True
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
        strength: float = 1.0,
    ) -> Picture:
        """Enlarge an image, as ``main.py predict`` does; 8 bits a channel perhaps in bfloat16.

        Noise of a stochastic method follows from the seed alone, not from the image's name, too.

        Args:
            image: As ``help(enlarger)`` says. Alpha is enlarged as colours are; grey stays grey.
            scale: Factor; by default ``self.scale``. The output of a method that has one scale is
                resized to another one by bicubic.
            size: (H, W) of the result, instead of ``scale``.
            seed: The only source of randomness.
            tiling: How large images are cut into tiles; by default as of the run or export.
            strength: Share of the method's output, in [0, 1]; the rest is the bicubic enlargement.

        Returns:
            The enlarged image.

        Raises:
            ValueError: If the image is invalid, or the result would be smaller than the image.

        Examples:
            >>> import enlarger
            >>> image.size, enlarger.load("bicubic", scale=2).enlarge(image).size
            ((32, 24), (64, 48))
        """
        x, to_image = to_tensor(image)
        if size is not None and scale is not None:
            raise ValueError(
                f"both scale {scale:g} and size {size} are given: leave one of them out"
            )
        if size is None:
            output_size = _scaled_size(x.shape[-2:], self.scale if scale is None else scale)
        else:
            output_size = _checked_size(x, size)
        lr = _visible_colours(x)
        batch = self._prepare_batch(lr, output_size, bit_depth(image), seed, tiling)
        if x.shape[1] == 4:
            batch["alpha"] = x[:, 3:]
        output = self.module.enlarge_to_size(batch)
        sr = mixed_with_bicubic(output["sr"][0], batch["lr"], strength)
        if "alpha" in output:
            colours = x[0, :3].to(sr.device)
            alpha = x[0, 3:].to(sr.device)
            sr = weighted_by_alpha(sr, batch["lr"][0], colours, alpha)
            sr = torch.cat([sr, mixed_with_bicubic(output["alpha"][0], alpha, strength)])
        elif x.shape[1] == 4:  # it is constant
            sr = torch.cat([sr, x[0, 3:, :1, :1].to(sr.device).expand(1, *output_size)])
        return cast(Picture, to_image(sr))

    def enlarge_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        scale: float | None = None,
        side: int | None = None,
        seed: int = 0,
        tiling: Tiling | None = None,
        strength: float = 1.0,
        quality: int = 95,
        exif: ExifPart = "keep",
        watch: Callable[[Pixels, Size], None] | None = None,
    ) -> list[str]:
        """Enlarge a file as ``main.py predict`` does, without the whole result in memory.

        Args:
            source: An image's file.
            target: The file to write; its ending is the format: png, jpg, webp or tiff.
            scale: As for ``enlarge``, and so are ``seed``, ``tiling`` and ``strength``.
            side: Pixels of the longer side of the result, in place of ``scale``.
            seed: The only source of randomness.
            tiling: How large images are cut into tiles.
            strength: Share of the method's output.
            quality: Of jpg and webp, 1 to 100.
            exif: ``keep`` camera, exposure, dates, author and place; or these except the place
                (``no_place``); or ``drop`` all.
            watch: Called with each part of the result, (rows, W, C), and the result's (H, W).

        Returns:
            What the result lacks of the source, in words.

        Raises:
            MemoryError: If there is no room for the result.
            ValueError: If the source is no image, the format is unknown, the target cannot be
                written, or the result would be smaller than the source.
        """
        target = Path(target)
        ending = target.suffix.lower().removeprefix(".")
        format = SPELLED.get(ending, cast("Format", ending))
        if format not in get_args(Format):
            raise ValueError(f"{target.name}: expected a name in {', '.join(get_args(Format))}")
        problem = "it is a folder" if target.is_dir() else why_no_folder(target.parent, True)
        if problem:
            raise ValueError(f"{target}: {problem}")
        image = read_image(source)
        if side is not None:
            scale = side / max(image.rgb.shape[:2])
        size = _scaled_size(image.rgb.shape[:2], self.scale if scale is None else scale)
        lost = [*image.lost]
        if image.bit_depth == 16 and format in EIGHT_BIT:
            lost.append("16 bit")
        if image.alpha is not None and format in OPAQUE:
            lost.append("transparency")
        written_exif = None
        if exif != "drop" and image.exif is not None:
            written_exif = fitted_exif(image.exif, size, exif == "keep")
        extras = Extras(image.icc or image.grey_icc, written_exif, image.cicp)
        pixels = self.levels(
            image,
            size,
            format,
            target.parent,
            seed=seed,
            tiling=tiling,
            strength=strength,
            watch=watch,
        )
        return lost + write_image(target, pixels, extras, format, quality)

    def levels(
        self,
        image: DecodedImage,
        size: Size,
        format: Format,
        folder: Path,
        *,
        seed: int = 0,
        tiling: Tiling | None = None,
        strength: float = 1.0,
        watch: Callable[[Pixels, Size], None] | None = None,
    ) -> Pixels:
        """Return the levels of an enlarged file, (H, W, C); large ones are not in memory.

        Args:
            image: The file.
            size: (H, W) of the result.
            format: The format for which it is meant.
            folder: Where large ones are stored, in a file without a name.
            seed: As for ``enlarge_file``, and so are the others.
            tiling: How large images are cut into tiles.
            strength: Share of the method's output.
            watch: Called with each part of the result.

        Raises:
            MemoryError: If there is no room for the result.
            ValueError: If the format cannot have its size.
        """
        meta = image.meta("")
        rgb = image.rgb
        if image.alpha is not None:
            meta["colours"] = rgb
            rgb = without_hidden_colours(rgb, image.alpha)
        if format in EIGHT_BIT:
            meta["bit_depth"] = 8
        lr = as_tensor(rgb).movedim(-1, 0)[None]
        lr = lr if image.bit_depth == 8 else as_floats(lr)
        batch = self._prepare_batch(lr, size, image.bit_depth, seed, tiling)
        if image.alpha is not None:
            batch["alpha"] = as_tensor(image.alpha)[None, None]
        finish = Finish(batch["lr"], size, meta, format, strength)
        return levels_of(self.module.pieces(batch), finish, folder, watch)

    def _prepare_batch(
        self, lr: Tensor, size: tuple[int, int], bits: int, seed: int, tiling: Tiling | None
    ) -> Batch:
        """Return a batch of one image, and set the method to the seed and the tiling of the call.

        Args:
            lr: (1, 3, h, w) in [0, 1].
            size: (H, W) of the result.
            bits: Bits of a channel of the source: at most 8 allow bfloat16.
            seed: Seed of the method's noise.
            tiling: How large images are cut into tiles; by default as ``self.tiling``.
        """
        self.module.set_noise_seed(seed)
        self.module.set_tiling(tiling or self.tiling)
        return {
            "key": ["image"],
            "seed": torch.tensor([seed_of("enlarger.enlarge")], dtype=torch.int64),
            "size": size,
            "lr": lr.to(self.module.device),
            "meta": [{"bit_depth": bits}],
        }


def _visible_colours(x: Tensor) -> Tensor:
    """Return RGB, without the colours that alpha hides."""
    if x.shape[1] == 3:
        return x
    pixels = x[0].movedim(0, -1).numpy()
    rgb = without_hidden_colours(pixels[..., :3], pixels[..., 3])
    return torch.from_numpy(rgb).movedim(-1, 0)[None].contiguous()


def _scaled_size(size: Sequence[int], scale: float) -> Size:
    """Return (H, W) of an image enlarged by a factor."""
    checked_scale(scale, "")
    h, w = size
    return round(h * scale), round(w * scale)


def _checked_size(x: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Return a size (H, W); raise if it is no pair of integers, or smaller than the image."""
    height, width = (int(side) for side in size)
    h, w = x.shape[-2:]
    if (height, width) != tuple(size) or height < h or width < w:
        raise ValueError(
            f"size is {size}; expected whole numbers, (height, width), of at least the image's "
            f"{h, w}: enlarge does not shrink images"
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
            such as ``imdn-x4``; a name of ``configs/model/``; a YAML file of a model; or a file
            of weights: exported, EDSR's, IMDN's, or any that spandrel reads.
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
    module = _build_from_source(str(source), scale, arguments)
    if not isinstance(module, SuperResolver):
        raise ValueError(f"{source} is a {type(module).__name__}, which does not enlarge images")
    return Enlarger(module, device, module.tiling)


def _build_from_source(source: str, scale: float | None, arguments: dict[str, Any]) -> ImageModel:
    """Build the method of a run, a file or a name. Arguments and errors as in ``load``."""
    path = Path(source).expanduser()
    if (path / CONFIG).is_file():
        return _build_from_run(path, scale, arguments)
    if path.is_file() and path.suffix not in CONFIGURATIONS:
        named = method_of_file(path)
        scale = named.scale if scale is None else scale
        return _build(json.dumps(named.model), scale, arguments)
    if source in released():
        named = released()[source]
        if scale not in (None, named.scale):
            raise ValueError(f"{source} are weights for x{named.scale:g}, and scale is {scale:g}")
        return _build(json.dumps(named.model), named.scale, arguments)
    models = {file.stem: file for file in sorted((CONFIGS / "model").glob("*.yaml"))}
    if not path.is_file() and source not in models:
        names = [*released(), *models]
        raise ValueError(
            f"{source!r} is neither a trained run, an export nor a file, and not one of the names "
            f"{', '.join(names)}{did_you_mean(source, names)}"
        )
    if scale is None:
        raise ValueError(f"{source} describes a model for any scale: give its scale")
    return _build(str(path if path.is_file() else models[source]), scale, arguments)


def _build_from_run(path: Path, scale: float | None, arguments: dict[str, Any]) -> ImageModel:
    """Build the method of a run's or an exported folder, with its weights and its tiling."""
    content = read_run_config(path / CONFIG)
    if (path / EXPORT).is_file():
        arguments = {"weights": str(path / EXPORT), **arguments}
    if scale is None:
        scale = float(content["data"]["init_args"]["scale"])
    module = _build(json.dumps(content["model"]), scale, arguments, RunDirectory(path))
    if isinstance(module, SuperResolver):
        module.set_tiling(Tiling(**(content.get("tiling") or {})))
    return module


def _build(
    model: str,
    scale: float,
    arguments: Mapping[str, Any],
    run: RunDirectory | None = None,
) -> ImageModel:
    """Build a method from its configuration, and load its weights.

    Args:
        model: ``class_path`` and ``init_args`` as JSON, or the file that has them.
        scale: Factor of enlargement.
        arguments: Arguments that replace those of ``init_args``.
        run: The run whose weights are loaded; by default those that ``init_args`` names.
    """
    parser = Parser()
    parser.add_subclass_arguments(ImageModel, "model")
    words = ["--model", model, "--model.scale", str(scale)]
    for name, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        words += [f"--model.{name}", text]
    config = parse(parser, words)
    module = cast(ImageModel, parser.instantiate_classes(config)["model"])
    module.load_parts(lambda name, value: find_weights(value, module.scale, name))
    if run is not None:
        load_trained(module, run, "load", choose_weights(run, module.initial_weights, None))
    elif module.initial_weights is not None:
        module.load_weights(find_weights(module.initial_weights, module.scale, "weights"))
    elif module.needs_weights:
        raise ValueError(f"{type(module).__name__} needs trained weights: give weights=FILE")
    return module


def sources(runs: str | Path = "runs") -> list[str]:
    """Return what ``load`` can take on this machine, without downloading anything.

    Args:
        runs: A folder of runs and exported folders. Those without weights are left out, and those
            whose method does not enlarge images. Of a run, its ``export`` counts only without it.

    Returns:
        Their paths, then names of published weights.
    """
    places: list[str] = []
    for folder in sorted(Path(runs).glob("*")):
        for place in (folder, folder / "export"):  # where the command writes it
            if _is_loadable(place / CONFIG):
                places.append(str(place))
                break
    return places + [name for name in released() if place_of(name) is not None]


def _is_loadable(config: Path) -> bool:
    """Return whether there are weights beside a configuration, of a method that enlarges images."""
    if not (config.with_name(EXPORT).is_file() or list_checkpoints(config.parent / FOLDER)):
        return False
    try:
        module, _, name = read_yaml(config)["model"]["class_path"].rpartition(".")
        return issubclass(getattr(import_own(module), name), SuperResolver)
    except Exception as error:  # another program's file; a class of yours may raise anything
        log.debug("%s is left out: %r", config, error)
        return False
