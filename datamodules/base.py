"""SRDataModule: sources, loaders, transfer to the device and degradation, all resumable.

An image passes ``Source.read`` (decode) -> crop and flips in the worker, and ``collate``
(``samples.py``) -> the device -> ``SRDataModule.on_after_batch_transfer`` (float32 in [0, 1], then
the degradation) -> the model.
"""

from __future__ import annotations

import logging
import math
import os
from functools import partial
from typing import Any, cast

import torch
import xxhash
from lightning.pytorch import LightningDataModule

from datamodules import degrading
from datamodules.batches import add_output_size, check_batch, to_floats
from datamodules.loading import Loader, evaluation_sampler, loader_of, on_cuda, position_of
from datamodules.order.keys import digest_of
from datamodules.order.plan import Plan, PlanSampler, check_same_order, default_streams, new_plan
from datamodules.predicting import Predicted, images_to_enlarge
from datamodules.samples import CropSettings, Images, Tally, TrainingImages, check_crop
from datamodules.shards.stream import Stream, StreamImages
from datamodules.source import Augmentation, Sample, Source
from datamodules.sources.folder import Outputs, source_to_enlarge
from datamodules.sources.latents import add_latents
from datamodules.sources.videos import VideoFrames
from degradations.base import Degradation
from files.batch import Batch
from files.images.deep import Pixels
from files.method import method_of
from files.numbers import NonNegativeInt, PositiveFloat, PositiveInt
from files.paths import open_regular

__all__ = ["Augmentation", "CropSettings", "Pixels", "SRDataModule", "Sample", "Source"]
log = logging.getLogger(__name__)
PARTS = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}
# Files of a source whose sizes are hashed; how many of these are read; the bytes read of each.
FILES_SIZED, FILES_READ, BYTES_READ = 256, 4, 1 << 20


def checked_scale(scale: float, whose: str = "data.init_args.") -> float:
    """Return a scale as a float.

    Args:
        scale: The scale.
        whose: What comes before it in the error message.

    Raises:
        ValueError: If it is less than 1, or not finite.
    """
    if not 1 <= scale < math.inf:
        raise ValueError(f"{whose}scale is {scale:g}; it must be a number of at least 1")
    return float(scale)


def _digest_of_files(source: Source) -> str:
    """Return a hash of a source's keys, and of sizes and contents of files spread over it."""
    if isinstance(source, Stream):  # which has no keys before it is read
        return digest_of(source.shards)
    count = len(source.keys)
    step = max(1, math.ceil(count / FILES_SIZED))
    places = [source.path(index) for index in range(0, count, step)]
    files = [path for path in dict.fromkeys(places) if path and os.path.isfile(path)]
    hashes = [f"{os.path.getsize(path)}" for path in files]
    for path in files[:: max(1, math.ceil(len(files) / FILES_READ))]:
        with open_regular(path) as file:
            hashes.append(xxhash.xxh3_64_hexdigest(file.read(BYTES_READ)))
    return digest_of([digest_of(source.keys), *hashes])


class SRDataModule(Predicted, LightningDataModule):
    """Images for training, validation, test and prediction, degraded on the device.

    Args:
        scale: Factor by which images are enlarged, possibly fractional. It is set here only.
        train: Images to train on.
        val: Sources to validate on, by name.
        test: Sources to test on, by name.
        predict: Images and videos to enlarge: a folder, a file, a list of both, or a Source.
        batch_size: Training crops in one micro-batch, summed over all processes.
        crop_size: Side of the training crops in HR pixels: a multiple of the scale, rounded. With
            ``crops.scales``, at least the largest HR side that may be drawn.
        crops: How training crops are taken from images.
        size: Height and width to which ``predict`` enlarges every image, whatever ``scale`` is.
            Other commands ignore it.
        output_scale: Factor by which ``predict`` enlarges, if it is not ``scale``: the outputs of a
            method that has only ``scale`` are resized. Commands set it from ``data.scale``.
        degradation: Makes LR from HR; set it by the top-level key ``degradation``.
        degradation_seed: Seed of the LR in validation and test. Runs that are compared need the
            same one.
        seed: Seed of order, crops and degradations in training; set it by ``seed_everything``.
        workers: Reader processes for each training process; 0 reads in the training process.
        eval_batch_size: Images per batch in validation and test; more than 1 requires images of
            one size.
        streams: Number of canonical streams of the training order. The number of processes must
            divide it; a run can then resume on another number of processes. By default the largest
            divisor of batch_size up to 64.

    Raises:
        ValueError: If settings do not fit together; the message names the keys.

    Examples:
        >>> from datamodules import Folder, SRDataModule
        >>> from degradations import RealESRGAN
        >>> train = Folder("my/photos")
        >>> data = SRDataModule(4, train, batch_size=2, crop_size=32, degradation=RealESRGAN(4))
        >>> Trainer(max_steps=1000).fit(model, data)  # doctest: +SKIP
    """

    def __init__(
        self,
        scale: PositiveFloat,
        train: Source | None = None,
        val: dict[str, Source] | None = None,
        test: dict[str, Source] | None = None,
        predict: str | list[str] | Source | None = None,
        batch_size: PositiveInt = 16,
        crop_size: PositiveInt = 96,
        crops: CropSettings = CropSettings(),
        degradation: Degradation | None = None,
        degradation_seed: int = 0,
        seed: int | None = None,
        workers: NonNegativeInt = 2,
        eval_batch_size: PositiveInt = 1,
        streams: PositiveInt | None = None,
        size: tuple[PositiveInt, PositiveInt] | None = None,
        output_scale: PositiveFloat | None = None,
    ) -> None:
        super().__init__()
        self.scale = checked_scale(scale)
        self.train, self.val, self.test, self.predict = train, val or {}, test or {}, predict
        self.batch_size, self.crop_size = batch_size, crop_size
        self.crops, self.size = crops, size
        self.output_scale = output_scale
        if output_scale is not None:
            checked_scale(output_scale, "data.init_args.output_")
        self.degradation, self.degradation_seed = degradation, degradation_seed
        self.seed = seed or 0
        self.workers, self.eval_batch_size = workers, eval_batch_size
        self.streams = streams or default_streams(batch_size)
        if batch_size % self.streams:
            raise ValueError(
                f"data.init_args.streams is {streams}, which does not divide "
                f"data.init_args.batch_size {batch_size}"
            )
        if crops.scales is not None:
            crops.scales.check_crop(crop_size)
        self.tally = Tally(crops.unreadable_limit)  # counts of this process
        self.outputs: Outputs | None = None  # where predict writes; see commands/table.py
        self._keys_digest = ""  # of the training images' keys
        self._files_digest = ""  # hash of their keys and of some sizes and contents
        self._plan: Plan | None = None

    # ------------------------------------------------------------------------------------ sources

    def setup(self, stage: str) -> None:
        """Open the sources that ``stage`` needs.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: If a source is missing, empty or unusable.
        """
        part = PARTS[stage]
        if getattr(self, part) in (None, {}, [], ""):
            raise ValueError(
                f"data.init_args.{part} has no images: set it to a Source (val and test: to a dict "
                "of name: Source; predict: also to a folder or a file)"
            )
        if stage == "fit":
            self._datasets["train"] = [self._training_images()]
        if stage in ("fit", "validate"):
            self._datasets["val"] = self._evaluation_images(self.val)
        if stage == "test":
            self._datasets["test"] = self._evaluation_images(self.test)
        if stage == "predict":
            source = source_to_enlarge(cast(Any, self.predict), self.outputs)
            scale = self._prepare(source, srgb=False)
            self._datasets["predict"] = images_to_enlarge(
                source, self.output_scale or scale, self.size
            )
            self.skip_in_predict(set())  # unlike an earlier `predict`

    def _prepare(self, source: Source, srgb: bool = True) -> float:
        """Prepare a source, and return its scale."""
        source.srgb = srgb
        scale = self.scale if source.scale is None else checked_scale(source.scale, "a source's ")
        source.prepare(scale)
        return scale

    def _evaluation_images(self, sources: dict[str, Source]) -> list[Images]:
        """Prepare the sources of ``val`` or ``test``, and return a dataset of each."""
        return [
            (source.evaluation_dataset or Images)(source, name, self._prepare(source))
            for name, source in sources.items()
        ]

    def _training_images(self) -> TrainingImages:
        """Prepare ``train``, plan its order, and return its dataset of crops."""
        source, crops = cast(Source, self.train), self.crops
        if crops.scales is None:  # here: predict and test may use another scale
            check_crop(self.crop_size, source.scale or self.scale)
        scale = self._prepare(source)
        kind: type[TrainingImages] = source.training_dataset or TrainingImages
        settings = (self.crop_size, crops.flips, crops.augment, crops.small)
        images = kind(source, "train", scale, *settings)
        order = (self.seed, self.batch_size, self.streams, crops.per_image)
        stream = source if isinstance(source, Stream) else None
        images.plan = self._plan = stream.plan(*order) if stream else new_plan(source, *order)
        self._keys_digest = digest_of(stream.shards if stream else images.keys)
        self._files_digest = _digest_of_files(source)
        return images

    def plan(self) -> Plan:
        """Return the order of training samples, after ``setup("fit")``."""
        return cast(Plan, self._plan)

    def files_seen(self) -> dict[str, str]:
        """Return a hash of each dataset's keys, and of sizes and contents of some files.

        Processes that see different files would train and measure on different images.
        """
        digests = {}
        for part, datasets in self._datasets.items():
            for number, dataset in enumerate(datasets, start=1):
                digests[f"files of {part} {number}"] = _digest_of_files(dataset.source)
        return digests

    # -------------------------------------------------------------------------------- dataloaders

    def _rank_and_world(self) -> tuple[int, int]:
        """Return the number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _position(self) -> tuple[int, int]:
        """Return the run's epoch, and the number of global batches done in it."""
        return position_of(self.trainer)

    def train_dataloader(self) -> Loader:
        """Return batches of crops in the plan's order, from the run's current position."""
        dataset = self._datasets["train"][0]
        rank, world = self._rank_and_world()
        sampler = PlanSampler(self.plan(), rank, world, self._position, dataset.source.upcoming)
        workers = self.workers
        if isinstance(dataset, StreamImages):
            dataset.ranks = rank, world
            workers = cast(Stream, dataset.source).workers(workers, world)
        degradation, cuda = dataset.source.degradation or self.degradation, on_cuda(self.trainer)
        if degradation is not None and cuda:
            degrading.leave_short_runs_uncompiled(degradation, self.trainer, len(sampler))
        collate = partial(degrading.collate_and_draw, degradation)
        return loader_of(dataset, sampler, workers, cuda, True, collate)

    def _evaluation_loaders(self, part: str, batch_size: int) -> list[Loader]:
        """Return one loader for each dataset of ``val``, ``test`` or ``predict``."""
        left_out = self._left_out if part == "predict" else set()
        seed, ranks, loaders = self.degradation_seed, self._rank_and_world(), []
        for dataset in self._datasets[part]:
            sampler, workers = None, self.workers
            if isinstance(dataset, VideoFrames):
                dataset.start(left_out, seed, ranks)
                workers = min(workers, 1)  # frames come in order
            else:
                sampler = evaluation_sampler(dataset, left_out, seed, batch_size, ranks)
            loaders.append(loader_of(dataset, sampler, workers, on_cuda(self.trainer)))
        return loaders

    def val_dataloader(self) -> list[Loader]:
        """Return one loader for each source of ``val``, in the configuration's order."""
        return self._evaluation_loaders("val", self.eval_batch_size)

    def test_dataloader(self) -> list[Loader]:
        """Return one loader for each source of ``test``, in the configuration's order."""
        return self._evaluation_loaders("test", self.eval_batch_size)

    def predict_dataloader(self) -> list[Loader]:
        """Return loaders of the images and of the videos to enlarge, one image per batch."""
        return self._evaluation_loaders("predict", 1)

    # ---------------------------------------------------------------------------------- on device

    def on_before_batch_transfer(
        self, batch: dict[str, Any], dataloader_idx: int
    ) -> dict[str, Any]:
        """Count the training images that were replaced in this batch.

        Raises:
            ValueError: If more than ``crops.unreadable_limit`` were unreadable; they are listed.
        """
        if not _is_batch(batch):
            return batch
        skipped = batch.pop("skipped", [])
        if self._current_part() == "train":
            self.tally.add(len(batch["key"]), skipped)
        return batch

    def teardown(self, stage: str) -> None:
        """Log how many training images were not used, and why."""
        if stage == "fit" and self.tally.reasons:
            log.warning(
                "training images not used in %d samples of this process: %s",
                self.tally.samples,
                self.tally.summary(),
            )

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move the tensors except ``seed`` and ``draws``, which are used on the CPU."""
        if not _is_batch(batch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        on_cpu = {name: batch.pop(name) for name in ("seed", "draws") if name in batch}
        return super().transfer_batch_to_device(batch, device, dataloader_idx) | on_cpu

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> Batch:
        """Convert to float32 in [0, 1], make missing LR, and check each source's first batch.

        Raises:
            ValueError: If no degradation makes LR, or it makes LR for another scale.
        """
        if not _is_batch(batch):
            return cast(Batch, batch)
        if "error" in batch:
            return cast(Batch, {k: batch[k] for k in ("key", "error", "meta") if k in batch})
        part = self._current_part()
        dataset = self._datasets[part][dataloader_idx]
        # The first batch of a run shows NaN in the data. A resumed run may begin at any batch, also
        # at one whose NaN Guard has to skip, so there only the range is checked.
        refuse_nonfinite = dataset.checked or part != "train" or self._position() == (0, 0)
        scale = self._convert_images(batch)
        if "lr" not in batch and "hr" in batch:
            degradation = degrading.degradation_of(dataset, self.degradation, scale)
            degrading.make_lr(batch, degradation, refuse_nonfinite)
        if part == "train" and self.crops.mixing:
            degrading.mix_pairs(batch, self.crops.mixing)
        add_output_size(batch, dataset.output_size)
        if "latent" in batch:
            add_latents(batch, dataset.source)
        if not dataset.checked:
            check_batch(cast(Batch, batch), refuse_nonfinite)
            dataset.checked = True
        return cast(Batch, batch)

    def _convert_images(self, batch: dict[str, Any]) -> float | None:
        """Convert the images to float32, in place.

        Returns:
            The scale that ``crops.scales`` draws for this training batch; None without it.
        """
        place = batch.pop("place", None)
        scales = self.crops.scales
        if scales is None or place is None:
            model = method_of(getattr(self.trainer, "lightning_module", None))
            to_floats(batch, keep_lr=self._current_part() == "predict" and bool(model.in_pieces))
            return None
        epoch, position = place[0]
        sides = scales.sides(self.seed, epoch, self.plan().batch_of(position))
        scales.convert_and_resize(batch, sides.hr)
        return sides.hr / sides.lr

    def _current_part(self) -> str:
        """Return which part of the data the trainer reads now: train, val, test or predict."""
        trainer = self.trainer
        if trainer is None or trainer.training:
            return "train"
        return "predict" if trainer.predicting else "test" if trainer.testing else "val"

    # -------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Return what fixes the sample order; the position itself is in the loops' counters."""
        return self._order_state() if "train" in self._datasets else {}

    def _order_state(self) -> dict[str, Any]:
        """Return the plan's state, and what identifies the training images."""
        digests = {"images": self._keys_digest, "contents": self._files_digest}
        return {**self.plan().state, **digests}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on data that would give another order.

        Args:
            state_dict: The result of ``state_dict``.

        Raises:
            ValueError: If the images, the seed or the batch size differ from the checkpoint's.
        """
        if "train" in self._datasets:
            check_same_order(state_dict, self._order_state())


def _is_batch(value: object) -> bool:
    """Return whether a value is a batch; a method's ``example_input_array`` passes here, too."""
    return isinstance(value, dict) and "key" in value
