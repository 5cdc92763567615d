"""``main.py encode``: write the latents of a dataset into shards.

It is set up as ``fit`` and ends before the first step. ``datamodules.Latents`` reads the
shards. A shard holds ``samples_per_shard`` squares, and batches do not go on in the next one, so
its bytes are the same whichever part or process makes it. A command makes the missing ones.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import tarfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from commands.arguments.saved_config import flat
from commands.check.first_step import Checked
from commands.errors import ConfigurationError
from commands.run.loggers import without_secrets
from datamodules.degrading import degradation_of
from datamodules.order.keys import digest_of
from datamodules.pack.shard_set import Outcome, Refused, ShardSet, parse_part
from datamodules.pack.workers import read_in_order
from datamodules.samples import Flips, Images, SampleDraws, apply_orientation, draw_orientation
from datamodules.shards.index import split_name
from datamodules.shards.writer import Members, find_shards
from datamodules.source import Augmentation, keys_with_file_sizes
from datamodules.sources.latents import ABOUT, Latents
from datamodules.sources.triplets import Triplets
from degradations.draws import seed_of
from files.images.decode import UnreadableImage
from files.images.deep import eight_bits
from files.images.encoders import encoded_by_pillow
from files.numbers import PositiveInt
from files.owned import write_whole
from files.paths import expand_path, shard_key
from lightning_modules.backbone.condition import Texts
from lightning_modules.backbone.space import Space
from lightning_modules.base import ImageModel

log = logging.getLogger(__name__)
NAME = "latents"  # prefix of the shards' names


@dataclass(frozen=True)
class EncodeOptions:
    """What ``encode`` writes, and where.

    Args:
        out: Folder of the shards.
        crop: Side of the squares cut from the images, at positions that follow from
            ``seed_everything`` and the image's key; by default whole images.
        crops_per_image: Squares of each image.
        flips: Flip and transpose the squares at random; ``horizontal``: only flip left and right.
            Whole images are not flipped.
        hr: Also write HR, for methods that need it in training.
        pairs: Also write LR, made by the run's ``degradation`` once for each square, and the latent
            of its enlargement, for methods such as ResShift.
        texts: Also write the features of each caption by ``model.init_args.encoder``, so that
            training runs no text encoder.
        dtype: Number type of the latents in the shards.
        batch_size: Images of one size that are encoded together.
        samples_per_shard: Squares in a shard.
        part: ``I/N`` makes each N-th shard, from shard I on, with I from 0 to N-1; ``out`` must be
            a folder that all machines share. The processes of a launch divide a part.
    """

    out: str = ""
    crop: PositiveInt | None = None
    crops_per_image: PositiveInt = 1
    flips: Flips = False
    hr: bool = False
    pairs: bool = False
    texts: bool = False
    dtype: Literal["float16", "float32"] = "float16"
    batch_size: PositiveInt = 8
    samples_per_shard: PositiveInt = 1000
    part: str = "0/1"


class Squares(Dataset[list[dict[str, Any]]]):
    """Squares of a source's images, or whole images cropped to a multiple of pixels.

    Args:
        source: The prepared source.
        options: Options of the command.
        unit: The sides are multiples of this many HR pixels.
        seed: Seed of the run.
        augment: A further change of the squares.
    """

    def __init__(
        self,
        source: Any,
        options: EncodeOptions,
        unit: int,
        seed: int,
        augment: Augmentation | None = None,
    ) -> None:
        self.source, self.options, self.unit, self.seed = source, options, unit, seed
        self.augment = augment

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source.keys)

    def __getitem__(self, image: int) -> list[dict[str, Any]]:
        """Return number, key, seed and (H, W, 3) uint8 of each square, or an error of it.

        Raises:
            ValueError: If a required caption is missing.
        """
        key = self.source.keys[image]
        count = self.options.crops_per_image
        numbers = range(image * count, (image + 1) * count)
        try:
            sample = self.source.read(image)
        except UnreadableImage as error:
            return [{"number": number, "key": key, "error": str(error)} for number in numbers]
        pixels = eight_bits(sample["hr"])
        height, width = pixels.shape[:2]
        rows, columns = self._square_size(height, width)
        if min(rows, columns) < 1 or rows > height or columns > width:
            least = self.options.crop or self.unit
            reason = f"{key} is {width}x{height} pixels, below the minimum of {least}"
            return [{"number": number, "key": key, "error": reason} for number in numbers]
        caption = {"text": _caption(key, sample)} if self.options.texts else {}
        squares = []
        for index, number in enumerate(numbers):
            seed = seed_of(self.seed, "encode", key, index)
            hr = self._cut_square(pixels, SampleDraws(seed, "crop"))
            if self.augment is not None:
                hr = self.augment(hr, seed)
            name = f"{shard_key(key)}/{index}"
            squares.append({"number": number, "key": name, "seed": seed, "hr": hr, **caption})
        return squares

    def _square_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the squares of an image."""
        if self.options.crop:
            return self.options.crop, self.options.crop
        return height - height % self.unit, width - width % self.unit

    def _cut_square(self, pixels: NDArray[np.uint8], draws: SampleDraws) -> NDArray[np.uint8]:
        """Return a square at a random place, flipped at random; or the whole image, cropped."""
        height, width = pixels.shape[:2]
        rows, columns = self._square_size(height, width)
        top = left = turn = 0
        if self.options.crop:
            top = draws.integer(0, height - rows + 1)
            left = draws.integer(0, width - columns + 1)
            turn = draw_orientation(self.options.flips, draws)
        part = pixels[top : top + rows, left : left + columns]
        return cast("NDArray[np.uint8]", apply_orientation(part, turn))


def colliding_keys(keys: Sequence[str]) -> tuple[str, str] | None:
    """Return two keys that would have the same name in the shards, or None."""
    by_name: dict[str, str] = {}
    for key in keys:
        other = by_name.setdefault(shard_key(key), key)
        if other != key:
            return other, key
    return None


def _caption(key: str, sample: Any) -> str:
    """Return the caption of a sample; raise if it has none."""
    text: str = sample.get("text", "")
    if not text.strip():
        raise ValueError(
            f"{key} has no caption, which --encode.texts requires: add one, or remove the option"
        )
    return text


def unit_of(space: Space, scale: float) -> int:
    """Return the HR pixels that sides must be a multiple of: whole latents, and whole LR pixels."""
    return int(np.lcm(space.factor, int(scale) if scale % 1 == 0 else 1))


class Encoding:
    """What one process does in a run of the command.

    Args:
        options: The checked options.
        trainer: The trainer with its data module.
        model: The model on its device.
        config: The configuration.
    """

    def __init__(
        self, options: EncodeOptions, trainer: Trainer, model: ImageModel, config: dict[str, Any]
    ) -> None:
        self.options, self.model, self.config = options, model, flat(config)
        # As checked; the encoder only with `texts`.
        self.space = cast("Space", model.latent_space)
        self.encoder = cast("Texts", model.caption_encoder)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.source = data.train
        if isinstance(self.source, Latents | Triplets) or not len(self.source.keys):
            raise ConfigurationError(
                f"data.init_args.train is {type(self.source).__name__}; expected a source of "
                "images with keys"
            )
        pair = colliding_keys(self.source.keys)
        if pair is not None:
            raise ConfigurationError(
                f"{pair[0]} and {pair[1]} would have the same name in the shards, "
                f"{shard_key(pair[0])}: rename one of them"
            )
        self.out = Path(expand_path(options.out, "encode.out"))
        digest = digest_of(keys_with_file_sizes(self.source))
        self.images = {"count": len(self.source.keys), "digest": digest}
        self.seed, self.workers = data.seed, data.workers
        self.degradation = None
        if options.pairs:
            images = Images(self.source, "train", self.model.scale)
            self.degradation = degradation_of(images, data.degradation)
        unit = unit_of(self.space, model.scale)
        self.squares = Squares(self.source, options, unit, self.seed, data.crops.augment)
        self.count = len(self.squares) * options.crops_per_image

    def run(self, rank: int, processes: int) -> None:
        """Encode the missing shards of a process, and finish if none is missing any more."""
        part, parts = parse_part(self.options.part)
        shards = ShardSet(self.out, NAME, self.count, self.options.samples_per_shard)
        shards.begin(self._job())
        todo = shards.missing(part * processes + rank, parts * processes)
        if todo:
            shards.write(todo, self._outcomes([shards.inputs_of(shard) for shard in todo]))
        else:
            log.info("everything was encoded already")
        missing = shards.missing()
        if missing:
            log.info("%d of %d shards are still missing", len(missing), len(shards))
        else:
            self._write_about(shards)

    def _job(self) -> dict[str, Any]:
        """Return the settings that the bytes of the shards depend on.

        Shards of other settings in the folder are refused.
        """
        job = asdict(self.options)
        for option in ("out", "part"):
            del job[option]
        if not job["texts"]:  # as before this option
            del job["texts"]
        job |= {"space": self.space.identity, "seed": self.seed, "scale": self.model.scale}
        groups = ["data.init_args.train.", "data.init_args.crops.augment"]
        if self.options.pairs:
            groups.append("degradation")
            tiny = self.model.enlarged_lr(torch.zeros(1, 3, 1, 1), (2, 2))
            job["lr_enlarged"] = tiny.shape[-1] == 2
        if self.options.texts:
            groups.append("model.init_args.encoder.")
            job["texts"] = self.encoder.source
        job["images_of"] = self.images
        for key, value in self.config.items():
            if key.startswith(tuple(groups)):
                job[key] = without_secrets(value)
        return job

    def _outcomes(self, spans: Sequence[range]) -> Generator[Outcome, None, None]:
        """Yield the results of the squares of some shards, in order."""
        count = self.options.crops_per_image
        images = [range(span.start // count, -(-span.stop // count)) for span in spans]
        read = read_in_order(
            self.squares,
            list(itertools.chain.from_iterable(images)),
            self.workers,
            self.config["run.wait_minutes"],
            self.source.keys.__getitem__,
        )
        with closing(read):
            for span, images_of_span in zip(spans, images, strict=True):
                squares = itertools.chain.from_iterable(next(read) for _ in images_of_span)
                of_shard = (square for square in squares if square["number"] in span)
                for batch in self._batches(of_shard):
                    yield from self._encode_batch(batch)

    def _batches(self, squares: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Yield squares in order, batched if they have one size."""
        batch: list[dict[str, Any]] = []
        for square in squares:
            is_full = len(batch) == self.options.batch_size
            if batch and (is_full or _shape(batch[-1]) != _shape(square)):
                yield batch
                batch = []
            batch.append(square)
        if batch:
            yield batch

    @torch.no_grad()
    def _encode_batch(self, batch: list[dict[str, Any]]) -> list[Outcome]:
        """Return what is written of each square of a batch: its files, or why it was refused."""
        if "error" in batch[0]:
            refused = [Refused(one["key"], "unreadable", one["error"]) for one in batch]
            return [Outcome(refused=one) for one in refused]
        dtype = self.options.dtype
        pixels = torch.from_numpy(np.stack([square["hr"] for square in batch]))
        hr = pixels.permute(0, 3, 1, 2).to(self.model.device).float() / 255
        seeds = torch.tensor([square["seed"] for square in batch], dtype=torch.int64)
        latents = self._latents_of(hr)
        samples: list[Members] = [{"latent.npy": _npy_bytes(z, dtype)} for z in latents]
        if self.options.hr:
            for sample, square in zip(samples, batch, strict=True):
                sample["png"] = encoded_by_pillow(square["hr"], "PNG")
        if self.degradation is not None:
            lr = (self.degradation(hr, seeds) * 255).round() / 255  # as it is stored
            enlarged = self._latents_of(self.model.enlarged_lr(lr, (hr.shape[-2], hr.shape[-1])))
            for sample, image, z in zip(samples, lr, enlarged, strict=True):
                levels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
                sample["lr.png"] = encoded_by_pillow(levels, "PNG")
                sample["lr_latent.npy"] = _npy_bytes(z, dtype)
        if self.options.texts:
            texts: Any = self.encoder([square["text"] for square in batch])
            for sample, features, length in zip(samples, texts[0], texts[1], strict=True):
                text = features[: int(length)].float().cpu()
                sample["text_features.npy"] = _npy_bytes(text, dtype)
        keys = [square["key"] for square in batch]
        return [Outcome([(key, sample)]) for key, sample in zip(keys, samples, strict=True)]

    def _latents_of(self, image: Tensor) -> Tensor:
        """Return latents as the autoencoder gives them: without the space's standardisation.

        Args:
            image: (B, 3, H, W) in [0, 1].

        Returns:
            (B, C, h, w) float32 on the CPU.
        """
        z: Tensor = self.space.encode(image) * self.space.deviation + self.space.mean
        return z.float().cpu()

    def _write_about(self, shards: ShardSet) -> None:
        """Write ``encode.json``, which marks the shards as complete."""
        records = [shards.record(shard) for shard in range(len(shards))]
        refused = sum(len(record.refused) for record in records if record is not None)
        if refused:
            names = self.out / f"{NAME}-*.json"
            log.warning("%d squares were skipped; see %s for the reasons", refused, names)
        tars = find_shards(self.out, NAME)
        if not tars:
            raise ValueError(
                f"nothing could be encoded: all images of {type(self.source).__name__} are "
                "unreadable, or smaller than --encode.crop"
            )
        about: dict[str, Any] = {"source": self.space.source, "factor": self.space.factor}
        about |= self._job()
        about |= statistics(tars)
        if self.degradation is None:
            about["scale"] = None  # latents of HR fit any scale
        write_whole(self.out / ABOUT, json.dumps(about, indent=1) + "\n")
        log.info("%d samples in %d shards", about["samples"], len(tars))
        log.info("to standardise them, set in model.init_args.space:")
        for name in ("mean", "deviation"):
            log.info("  %s: [%s]", name, ", ".join(f"{value:.4g}" for value in about[name]))
        log.info("to train on them, set data.init_args.train:")
        urls = self.out.resolve() / f"{NAME}-*.tar"
        log.info('  {class_path: datamodules.Latents, init_args: {urls: "%s"}}', urls)


def statistics(shards: Sequence[Path]) -> dict[str, Any]:
    """Return number of samples, and mean and deviation of each channel, of all latents in shards.

    Args:
        shards: The tars.

    Raises:
        ValueError: If a latent is not finite.
    """
    samples = 0
    pixels = 0  # of all latents, in each channel
    total = np.zeros(())
    squares = np.zeros(())
    for z in itertools.chain.from_iterable(map(_read_latents, shards)):
        samples += 1
        pixels += z[0].size
        total = total + z.sum((1, 2))
        squares = squares + np.square(z).sum((1, 2))
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise ValueError(
            "latents are not finite: set --encode.dtype float32, and check the space's weights"
        )
    return {"samples": samples, "mean": mean.tolist(), "deviation": deviation.tolist()}


def _read_latents(shard: Path) -> Iterator[NDArray[np.float64]]:
    """Yield the latents (C, h, w) of a shard."""
    with tarfile.open(shard) as tar:
        for member in tar:
            if (split_name(member.name) or ("", ""))[1] == "latent.npy":
                content = cast(IO[bytes], tar.extractfile(member)).read()
                yield np.load(io.BytesIO(content)).astype(np.float64)


def _shape(item: dict[str, Any]) -> Any:
    """Return the shape of a square; None if it could not be read."""
    return item["hr"].shape if "hr" in item else None


def _npy_bytes(z: Tensor, dtype: str) -> bytes:
    """Return a tensor as the bytes of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, z.numpy().astype(dtype))
    return buffer.getvalue()


class Encode(Callback):
    """Encode before the first step, then end.

    Args:
        options: Options of the command.
        config: The configuration, as given.
    """

    def __init__(self, options: EncodeOptions, config: dict[str, Any]) -> None:
        self.options, self.config = options, config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the method a parameter: optimisers and DDP need one, and a `RoundTrip` has none."""
        pl_module.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode; by now the model is on its device and the sources are open.

        Raises:
            Checked: When done.
            ConfigurationError: If options, model and source do not fit.
        """
        model = _check_options(self.options, trainer, pl_module)
        encoding = Encoding(self.options, trainer, model, self.config)
        encoding.run(trainer.global_rank, trainer.world_size)
        raise Checked


def _check_options(options: EncodeOptions, trainer: Trainer, model: LightningModule) -> ImageModel:
    """Return the model; raise if it cannot encode what the options ask for."""
    space = model.latent_space if isinstance(model, ImageModel) else None
    if not isinstance(model, ImageModel) or space is None:
        raise ConfigurationError(
            f"{type(model).__name__} has no model.init_args.space to encode with"
        )
    if not space.source and next(space.parameters(), None) is not None:
        raise ConfigurationError(
            f"the autoencoder of model.init_args.space, {type(space).__name__}, has random "
            "weights: name its files"
        )
    if not options.out:
        raise ConfigurationError("encode requires an output folder: give --encode.out FOLDER")
    unit = unit_of(space, model.scale)
    if options.crop is not None and options.crop % unit:
        raise ConfigurationError(f"--encode.crop is {options.crop}; expected a multiple of {unit}")
    if options.crop is None and (options.crops_per_image > 1 or options.flips):
        raise ConfigurationError(
            "--encode.crops_per_image and --encode.flips are of squares: give --encode.crop, too"
        )
    encoder = model.caption_encoder
    if options.texts and not (encoder and encoder.reads and encoder.source):
        raise ConfigurationError(
            f"--encode.texts requires a trained caption encoder, but {type(model).__name__} has "
            "none: set model.init_args.encoder to lightning_modules.T5"
        )
    if options.pairs and (not model.latent_pairs or model.scale % 1):
        raise ConfigurationError(
            f"{type(model).__name__} of scale {model.scale:g} does not support --encode.pairs: it "
            "requires a method that enlarges LR by a whole factor"
        )
    return model
