"""The DataModule of every run.

An image passes ``Source.read`` (decode) -> crop and flips in the worker, and ``collate``
(``pictures.py``) -> the device -> ``SRDataModule.on_after_batch_transfer`` (float32 in [0, 1], then
the degradation) -> the model.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule

from datamodules.batches import add_size, check_batch, to_floats
from datamodules.clock import Listener
from datamodules.degrading import (
    check_any_scale,
    check_pooled,
    degradation_of,
    make_lr,
    new_pool,
)
from datamodules.folder import source_to_enlarge
from datamodules.latents import add_latents
from datamodules.loading import Loader, evaluation_sampler, loader_of, position_of
from datamodules.order import Plan, PlanSampler, default_streams
from datamodules.order_state import check_same_order, order_state
from datamodules.outputs import Outputs
from datamodules.pictures import Pictures, PredictPictures, TrainingPictures
from datamodules.policy import Tally
from datamodules.settings import (
    CropSettings,
    check_crop,
    check_least,
    check_output_size,
    check_streams,
    checked_scale,
)
from datamodules.source import Augmentation, Batch, Pixels, Sample, Source
from datamodules.stream import Stream, StreamPictures
from datamodules.training import evaluation_pictures, training_pictures
from degradations.base import Degradation
from degradations.pool import PairPool

__all__ = ["Augmentation", "Batch", "Pixels", "SRDataModule", "Sample", "Source"]

log = logging.getLogger(__name__)


class SRDataModule(LightningDataModule):
    """Images for training, validation, test and prediction, degraded on the device.

    Args:
        scale: Factor by which images are enlarged, possibly fractional. It is set here only.
        train: Images to train on.
        val: Sources to validate on, by name.
        test: Sources to test on, by name.
        predict: Images to enlarge: a folder, a file, a list of both, or a Source.
        batch_size: Training crops in one micro-batch, summed over all processes.
        crop_size: Side of the training crops in HR pixels; a multiple of an integer scale. With
            ``crops.scales``, at least the largest HR side that may be drawn.
        crops: How training crops are taken from images.
        size: Height and width to which ``predict`` enlarges every image, whatever ``scale`` is.
            Other commands ignore it.
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
    """

    def __init__(
        self,
        scale: float,
        train: Source | None = None,
        val: dict[str, Source] | None = None,
        test: dict[str, Source] | None = None,
        predict: Source | list[str] | str | None = None,
        batch_size: int = 16,
        crop_size: int = 96,
        crops: CropSettings = CropSettings(),  # noqa: B008  (frozen)
        degradation: Degradation | None = None,
        degradation_seed: int = 0,
        seed: int | None = None,
        workers: int = 2,
        eval_batch_size: int = 1,
        streams: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.scale = checked_scale(scale)
        check_least("batch_size", batch_size, 1)
        check_least("crop_size", crop_size, 1)
        check_least("eval_batch_size", eval_batch_size, 1)
        check_least("streams", 1 if streams is None else streams, 1)
        check_least("workers", workers, 0)
        check_output_size(size)
        self.train, self.val, self.test, self.predict = train, val or {}, test or {}, predict
        self.batch_size, self.crop_size = batch_size, crop_size
        self.crops, self.size = crops, size
        self.degradation, self.degradation_seed = degradation, degradation_seed
        self.seed = seed or 0
        self.workers, self.eval_batch_size = workers, eval_batch_size
        self.streams = streams or default_streams(batch_size)
        check_streams(self.streams, batch_size)
        if crops.scales is not None:
            crops.scales.check_crop(crop_size)
        self.tally = Tally(crops.unreadable_limit)  # counts of this process
        self.listener: Listener | None = None  # a callback that measures training batches
        self.outputs: Outputs | None = None  # where predict writes; see commands/cli.py
        self._fingerprint = ""  # of the training images' keys
        self._datasets: dict[str, list[Pictures]] = {}
        self._left_out: set[str] = set()
        self._pool: PairPool | None = None
        self._plan: Plan | None = None

    # ------------------------------------------------------------------------------------ sources

    def setup(self, stage: str) -> None:
        """Open the sources that ``stage`` needs.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: If a source is missing, empty or unusable.
        """
        if stage == "fit":
            self._datasets["train"] = [self._training_pictures()]
            degradation = self._datasets["train"][0].source.degradation or self.degradation
            if self.crops.scales is not None:
                check_any_scale(degradation)
            self._pool = new_pool(degradation, self.batch_size, self._ranks()[1])
        if stage in ("fit", "validate"):
            self._datasets["val"] = [self._prepared(*named) for named in self.val.items()]
        if stage == "test":
            self._datasets["test"] = [self._prepared(*named) for named in self.test.items()]
        for verb, part in (("validate", "val"), ("test", "test")):
            if stage == verb and not self._datasets[part]:
                raise ValueError(
                    f"{verb} needs images: set data.init_args.{part} to a dict of name: Source"
                )
        if stage == "predict":
            self._datasets["predict"] = [self._predict_pictures()]

    def _prepared(self, name: str, source: Source) -> Pictures:
        scale = self._scale_of(source)
        source.prepare(scale)
        return evaluation_pictures(source, name, scale)

    def _scale_of(self, source: Source) -> float:
        return self.scale if source.scale is None else checked_scale(source.scale, "a source's")

    def _training_pictures(self) -> TrainingPictures:
        if self.train is None:
            raise ValueError("fit needs images to train on: set data.init_args.train to a Source")
        scale = self._scale_of(self.train)
        if self.crops.scales is None:
            check_crop(self.crop_size, scale)  # here: predict and test may use another scale
        self.train.prepare(scale)
        crops = self.crops
        settings = ("train", scale, self.crop_size, crops.flips, crops.augment, crops.small)
        order = (self.seed, self.batch_size, self.streams, crops.per_image)
        pictures, self._fingerprint = training_pictures(self.train, settings, order)
        self._plan = pictures.plan
        return pictures

    def _predict_pictures(self) -> PredictPictures:
        source = source_to_enlarge(self.predict, self.outputs)
        scale = self._scale_of(source)
        source.srgb = False
        source.prepare(scale)
        return PredictPictures(source, "predict", scale, self.size)

    @property
    def predict_keys(self) -> list[str]:
        """Keys of all images that ``predict`` enlarges, without the source's name."""
        return list(self._datasets["predict"][0].source.keys)

    @property
    def predict_paths(self) -> list[str | None]:
        """Files of these images in the same order; None for an image without a file."""
        source = self._datasets["predict"][0].source
        return [source.path(index) for index in range(len(source.keys))]

    @property
    def predict_frames(self) -> int | None:
        """Number of frames of the clips that ``predict`` makes; None if it makes images."""
        return self._datasets["predict"][0].source.frames

    def skip_in_predict(self, keys: set[str]) -> None:
        """Leave images out of ``predict``, for example finished ones.

        Args:
            keys: Keys as in ``predict_keys``.
        """
        self._left_out = keys

    def convert_in_predict(self) -> None:
        """Convert the images of ``predict`` from their colour profiles to sRGB."""
        self._datasets["predict"][0].source.srgb = True

    def plan(self) -> Plan:
        """Return the order of training samples.

        Raises:
            ValueError: If ``setup`` has not found the training images yet.
        """
        if self._plan is None:
            raise ValueError("the plan exists after setup('fit'), which finds the images")
        return self._plan

    @property
    def unreadable(self) -> int:
        """How often this process skipped an unreadable training image."""
        return self.tally.unreadable

    # -------------------------------------------------------------------------------- dataloaders

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _position(self) -> tuple[int, int]:
        return position_of(self.trainer)

    def _on_cuda(self) -> bool:
        # Lightning's copies to a GPU are asynchronous only from pinned memory.
        device = getattr(getattr(self.trainer, "strategy", None), "root_device", None)
        return device is not None and device.type == "cuda"

    def train_dataloader(self) -> Loader:
        """Return batches of crops in the plan's order, from the run's current position."""
        dataset = self._datasets["train"][0]
        sampler = PlanSampler(
            self.plan(), *self._ranks(), position=self._position, tell=dataset.source.upcoming
        )
        workers = self.workers
        if isinstance(dataset, StreamPictures):
            dataset.ranks = self._ranks()
            workers = cast(Stream, dataset.source).workers(workers, dataset.ranks[1])
        return loader_of(dataset, sampler, workers, self._on_cuda(), persistent=True)

    def _evaluation(self, part: str, batch_size: int) -> list[Loader]:
        left_out = self._left_out if part == "predict" else set()
        order = (left_out, self.degradation_seed, batch_size, self._ranks())
        return [
            loader_of(x, evaluation_sampler(x, *order), self.workers, self._on_cuda())
            for x in self._datasets[part]
        ]

    def val_dataloader(self) -> list[Loader]:
        """Return one loader for each source of ``val``, in the configuration's order."""
        return self._evaluation("val", self.eval_batch_size)

    def test_dataloader(self) -> list[Loader]:
        """Return one loader for each source of ``test``, in the configuration's order."""
        return self._evaluation("test", self.eval_batch_size)

    def predict_dataloader(self) -> list[Loader]:
        """Return one loader over the images to enlarge, one image per batch."""
        return self._evaluation("predict", 1)

    # ---------------------------------------------------------------------------------- on device

    def on_before_batch_transfer(
        self, batch: dict[str, Any], dataloader_idx: int
    ) -> dict[str, Any]:
        """Count the training images that were replaced in this batch.

        Raises:
            ValueError: If more than ``crops.unreadable_limit`` were unreadable; they are listed.
        """
        skipped, seconds = batch.pop("skipped", []), batch.pop("seconds", [])
        if self._part() == "train":
            self.tally.add(len(batch["key"]), skipped)
            if self.listener is not None:
                self.listener.arrived(seconds)
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
        """Move the tensors except ``seed``, which stays on the CPU, where it is used."""
        seed = batch.pop("seed")
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        moved["seed"] = seed
        return moved

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> Batch:
        """Convert to float32 in [0, 1], make missing LR, and check each source's first batch.

        Raises:
            ValueError: If no degradation makes LR, or it makes LR for another scale.
        """
        if "error" in batch:
            return {"key": batch["key"], "error": batch["error"]}
        part = self._part()
        dataset = self._datasets[part][dataloader_idx]
        pool = self._pool if part == "train" and "lr" not in batch else None
        if pool is not None:
            check_pooled(batch)
        # A resumed run may begin at any batch, also at one that Guard must skip.
        finite = dataset.checked or part != "train" or self._position() == (0, 0)
        scale = self._to_pictures(batch)
        if "lr" not in batch and "hr" in batch:
            make_lr(batch, degradation_of(dataset, self.degradation, scale), pool, finite)
        add_size(batch, dataset.output_size)
        if "latent" in batch:
            add_latents(batch, dataset.source)
        if not dataset.checked:
            check_batch(cast(Batch, batch), finite)
            dataset.checked = True
        if part == "train" and self.listener is not None:
            self.listener.degraded()
        return cast(Batch, batch)

    def _to_pictures(self, batch: dict[str, Any]) -> float | None:
        """Convert the images to float32; return the scale of this batch, if it has its own."""
        place = batch.pop("place", None)
        scales = self.crops.scales
        if scales is None or place is None:
            to_floats(batch)
            return None
        epoch, position = place[0]
        sides = scales.sides(self.seed, epoch, self.plan().batch_of(position))
        scales.to_pictures(batch, sides.hr)
        return sides.hr / sides.lr

    def _part(self) -> str:
        trainer = self.trainer
        if trainer is None or trainer.training:
            return "train"
        return "predict" if trainer.predicting else "test" if trainer.testing else "val"

    # -------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Return what fixes the sample order, and the pair pools. All processes must call it.

        The position itself is in the loops' counters.
        """
        if "train" not in self._datasets:
            return {}
        pairs = {} if self._pool is None else {"pairs": self._pool.states()}
        return {**self._order(), **pairs}

    def _order(self) -> dict[str, Any]:
        pool = 0 if self._pool is None else self._pool.size
        return order_state(self.plan(), self._fingerprint, pool)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on data that would give another order.

        Args:
            state_dict: The result of ``state_dict``.

        Raises:
            ValueError: If the images, the seed or the batch size differ from the checkpoint's, or,
                with a pair pool, the number of processes.
        """
        if "train" in self._datasets:
            check_same_order(state_dict, self._order())
        if self._pool is not None and "pairs" in state_dict:
            self._pool.load(state_dict["pairs"], *self._ranks())
