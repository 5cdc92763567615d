"""SRDataModule: sources, loaders, transfer to the device and degradation, all resumable.

An image passes ``Source.read`` (decode) -> crop and flips in the worker, and ``collate``
(``samples.py``) -> the device -> ``SRDataModule.on_after_batch_transfer`` (float32 in [0, 1], then
the degradation) -> the model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from lightning.pytorch import LightningDataModule

from datamodules.batches import add_size, check_batch, to_floats
from datamodules.files.decode import most_pixels
from datamodules.loading import Loader, evaluation_sampler, loader_of, position_of
from datamodules.order.keys import digest_of
from datamodules.order.plan import Plan, PlanSampler, default_streams
from datamodules.samples import (
    Flips,
    Images,
    PredictImages,
    Small,
    Tally,
    TrainingImages,
)
from datamodules.scales import Scales
from datamodules.shards.stream import Stream, StreamImages
from datamodules.source import Augmentation, Pixels, Sample, Source
from datamodules.sources.clips import ClipImages, ClipSource, TrainingClips
from datamodules.sources.folder import Folder, Outputs, source_to_enlarge
from datamodules.sources.latents import Latents, TrainingLatents, add_latents
from datamodules.sources.triplets import TrainingTriplets, TripletImages, Triplets
from datamodules.sources.videos import VideoFrames, Videos
from degradations.base import Degradation
from degradations.pool import PairPool, Pairs
from files.batch import Batch, Listener
from files.method import method_of


def degradation_of(
    dataset: Images, default: Degradation | None, scale: float | None = None
) -> Degradation:
    """Return the degradation of a dataset's HR: its source's own, or the run's.

    Args:
        dataset: The images.
        default: The run's degradation, adapted to the dataset's scale if possible.
        scale: The scale of this batch, if it differs from the dataset's.

    Raises:
        ValueError: If there is none, or it makes LR for another scale.
    """
    own = dataset.source.degradation
    degradation = own or default
    if degradation is None:
        raise ValueError(
            f"source {dataset.name!r} has no LR images and no degradation makes them: set "
            "degradation.class_path"
        )
    if degradation.scale != dataset.scale and (own is not None or not degradation.any_scale):
        raise ValueError(
            f"source {dataset.name!r} has scale {dataset.scale:g}, but its degradation makes LR "
            f"for scale {degradation.scale:g}: give the source a degradation of its scale"
        )
    return degradation.at(dataset.scale if scale is None else scale)


def check_any_scale(degradation: Degradation | None) -> None:
    """Refuse a degradation that cannot make LR at several scales.

    Args:
        degradation: The degradation of training.

    Raises:
        ValueError: If it makes LR for one scale, or keeps pairs of one size.
    """
    if degradation is None:
        return
    name = type(degradation).__name__
    if not degradation.any_scale:
        raise ValueError(
            f"data.init_args.crops.scales draws a scale for each batch, but {name} makes LR for "
            "its own scale only: set degradation.class_path to degradations.Bicubic, or "
            "unset scales"
        )
    if degradation.pool:
        raise ValueError(
            "data.init_args.crops.scales changes the sizes in each batch, but the pair pool of "
            f"{name} keeps pairs of one size: set its pool to 0 (it is {degradation.pool}), or "
            "unset scales"
        )


def new_pool(degradation: Degradation | None, batch_size: int, world: int) -> PairPool | None:
    """Return the pair pool of this process, or None.

    Args:
        degradation: The degradation of training, which sets the number of pairs.
        batch_size: Crops in a global batch.
        world: Number of processes.

    Raises:
        ValueError: If the pool is not a multiple of a process's share of a batch.
    """
    size = 0 if degradation is None else degradation.pool
    share = batch_size // world
    if size and (size < share or size % share):
        raise ValueError(
            f"degradation.init_args.pool is {size}; expected 0 (no pool) or a multiple of the "
            f"{share} crops that a process has in a batch (data.init_args.batch_size {batch_size}, "
            f"processes {world}), such as {max(1, size // share) * share}"
        )
    return PairPool(size) if size else None


def check_pooled(batch: dict[str, Any]) -> None:
    """Refuse images that a pool cannot keep.

    Args:
        batch: The batch as it arrives on the device.

    Raises:
        ValueError: If it has 16-bit images; or latents, or features of captions, which the pool
            would not exchange.
    """
    beside = {"latent": "latents", "text_features": "features of captions"}
    for name, what in beside.items():
        if name in batch:
            raise ValueError(
                "degradation.init_args.pool exchanges images, but data.init_args.train gives "
                f"{what} with them: set pool to 0"
            )
    if batch["hr"].dtype != torch.uint8:
        raise ValueError(
            "degradation.init_args.pool keeps 8-bit images, but data.init_args.train has 16-bit "
            f"images ({', '.join(batch['key'][:3])}, ...): convert them, or set pool "
            "to 0"
        )


def make_lr(
    batch: dict[str, Any], degradation: Degradation, pool: PairPool | None, finite: bool = True
) -> None:
    """Degrade the HR of a batch in place; with a pool, exchange its pairs for earlier ones.

    Keys and captions move with their pair. ``seed`` stays: the model draws from it, and a pair
    that comes again would get the same noise.

    Args:
        batch: Has ``hr`` in float32; gets ``lr``.
        degradation: Makes the LR.
        pool: The pool of training, or None.
        finite: Whether to refuse NaN and infinity in a degradation's first batch.
    """
    if not finite:
        degradation.skip_first_batch_checks()
    batch["lr"] = degradation(batch["hr"], batch["seed"])
    if pool is None:
        return
    notes: dict[str, list[str]] = {n: batch[n] for n in ("key", "text") if n in batch}
    given = pool.exchange(Pairs(batch["hr"], batch["lr"], notes), batch["seed"].tolist())
    batch.update(given.notes, hr=given.hr, lr=given.lr)


NAMES = {
    "groups": "the number of images in data.init_args.train",
    "images": "the hash of the names of the images in data.init_args.train",
    "crops_per_image": "data.init_args.crops.per_image",
    "mixture": "the weights and samples of data.init_args.train",
    "shuffle": "data.init_args.train.init_args.shuffle",
    "seed": "seed_everything",
    "pool": "degradation.init_args.pool",
}
SHOWN = 8  # shards in a message


def new_plan(source: Source, seed: int, batch_size: int, streams: int, repeats: int) -> Plan:
    """Return the plan of a prepared source. Other arguments as ``Plan``.

    Raises:
        ValueError: If its groups do not sum to its number of images, or are too few for one batch.
    """
    groups, count = tuple(source.groups), len(source.keys)
    if sum(groups) != count:
        raise ValueError(
            f"{type(source).__name__}.groups sums to {sum(groups)}, but it has {count} keys"
        )
    plan = Plan(groups, seed, batch_size, streams, repeats, mixture=source.mixture)
    if not len(plan):
        raise ValueError(
            f"data.init_args.train has {plan.total // repeats} images (crops.per_image "
            f"{repeats}), fewer than data.init_args.batch_size {batch_size}: raise crops.per_image "
            "or lower batch_size"
        )
    return plan


def order_state(plan: Plan, images: str, pool: int) -> dict[str, Any]:
    """Return what a checkpoint stores about the order, in plain types.

    Args:
        plan: The order.
        images: Hash of the keys.
        pool: Size of the pair pool, or 0.
    """
    mixture = plan.mixture and [list(part) for part in plan.mixture[:2]] + [plan.mixture.samples]
    return {
        "groups": list(plan.groups),
        "images": images,
        "mixture": mixture,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "streams": plan.streams,
        "crops_per_image": plan.repeats,
        "shuffle": getattr(plan, "shuffle", None),  # of tars that are read from front to back
        "pool": pool,
    }


def check_same_order(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run in another order.

    Args:
        then: ``order_state`` of the checkpoint.
        now: ``order_state`` of this run.

    Raises:
        ValueError: If they differ; the message names the key and both values.
    """
    for name, value in now.items():
        before = then.get(name, value)
        if before != value:
            raise ValueError(
                "the checkpoint was made with another order of samples: "
                f"{NAMES.get(name, f'data.init_args.{name}')} was {_shown(before)}, now it is "
                f"{_shown(value)}. Restore it, or start from the weights alone: "
                "--model.init_args.weights CHECKPOINT --run.name NEW"
            )


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > SHOWN:
        first = ", ".join(str(part) for part in value[:SHOWN])
        return f"{sum(value)} in {len(value)} shards ([{first}, ...])"
    return str(value)


@dataclass(frozen=True)
class CropSettings:
    """How training crops are taken from images.

    Args:
        per_image: Crops of each training image per epoch.
        flips: Flip and transpose the crops at random; ``horizontal``: only flip left and right.
        augment: A further change of the crops, on the CPU.
        small: What to do with training images smaller than crop_size: ``error``; ``pad``, mirror
            them at their lower and right border; or ``skip``, take other images instead.
        scales: Train at arbitrary scales instead of ``scale``, drawn for each batch.
        unreadable_limit: Stop the run when more than this share of the training samples of a
            process had an unreadable image (another one replaces it). Below 1,000 samples it is
            this share of 1,000: at 0.01, the eleventh stops the run; at 0, the first.

    Raises:
        ValueError: If a value is out of range.
    """

    per_image: int = 1
    flips: Flips = True
    augment: Augmentation | None = None
    small: Small = "error"
    scales: Scales | None = None
    unreadable_limit: float = 0.01

    def __post_init__(self) -> None:
        check_least("crops.per_image", self.per_image, 1)
        if self.small not in get_args(Small):
            raise ValueError(
                f"data.init_args.crops.small is {self.small!r}; expected error, pad or skip"
            )
        if self.flips not in (True, False, "horizontal"):
            raise ValueError(
                f"data.init_args.crops.flips is {self.flips!r}; expected true, false or horizontal"
            )
        if not 0 <= self.unreadable_limit <= 1:
            raise ValueError(
                f"data.init_args.crops.unreadable_limit is {self.unreadable_limit}; expected a "
                "share in [0, 1]"
            )


def checked_scale(scale: float, whose: str = "data.init_args.") -> float:
    """Return a scale as a float.

    Raises:
        ValueError: If it is not a number of at least 1.
    """
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not (number and math.isfinite(scale) and scale >= 1):
        name = f"{whose}scale" if whose.endswith(".") else f"{whose} scale"
        raise ValueError(f"{name} is {scale!r}; it must be a number of at least 1")
    return float(scale)


def check_least(name: str, value: int, least: int) -> None:
    """Check that a number is not below its minimum.

    Raises:
        ValueError: If it is below.
    """
    if value < least:
        raise ValueError(f"data.init_args.{name} is {value}; it must be at least {least}")


def check_streams(streams: int, batch_size: int) -> None:
    """Check that streams can share a batch evenly.

    Raises:
        ValueError: If ``streams`` does not divide ``batch_size``.
    """
    if batch_size % streams:
        raise ValueError(
            f"data.init_args.streams is {streams}, which does not divide "
            f"data.init_args.batch_size {batch_size}"
        )


def check_output_size(size: tuple[int, int] | None) -> None:
    """Check the size of an image.

    Args:
        size: (H, W) in pixels, or None.

    Raises:
        ValueError: If a side is below 1.
    """
    if size is not None and min(size) < 1:
        raise ValueError(
            f"data.init_args.size is {list(size)}; expected [height, width] in pixels, such as "
            "[768, 1024]"
        )


def check_crop(crop_size: int, scale: float) -> None:
    """Check that an integer scale divides the crop size, and that an image can be as large.

    Raises:
        ValueError: If not; the message has the keys and the nearest valid sizes.
    """
    if crop_size**2 > most_pixels():
        raise ValueError(
            f"data.init_args.crop_size is {crop_size}, larger than any image that is read: "
            f"{most_pixels() / 1e6:.0f} megapixels"
        )
    step = int(scale)
    if scale == step and crop_size % step:
        below = crop_size // step * step
        fits = f"{below} or {below + step}" if below else f"{step}"
        raise ValueError(
            f"data.init_args.crop_size is {crop_size}, not a multiple of data.init_args.scale "
            f"{step}; use {fits}"
        )


def evaluation_images(source: Source, name: str, scale: float) -> Images:
    """Return the dataset for validation and test. Args as ``Images``."""
    kind = TripletImages if isinstance(source, Triplets) else Images
    kind = ClipImages if isinstance(source, ClipSource) else kind
    return kind(source, name, scale)


def training_images(
    source: Source, settings: tuple[Any, ...], order: tuple[int, int, int, int]
) -> tuple[TrainingImages, str]:
    """Return the training dataset with its plan, and the fingerprint of its images.

    Args:
        source: The prepared source.
        settings: Arguments of ``TrainingImages`` after the source.
        order: Seed, batch size, streams, and crops per image.

    Raises:
        ValueError: If there are too few images for one batch.
    """
    images: TrainingImages
    if isinstance(source, Stream):
        images = StreamImages(source, *settings)
        images.plan = source.plan(*order)
        return images, digest_of(source.shards)
    kind = TrainingLatents if isinstance(source, Latents) else TrainingImages
    kind = TrainingTriplets if isinstance(source, Triplets) else kind
    kind = TrainingClips if isinstance(source, ClipSource) else kind
    images = kind(source, *settings)
    images.plan = new_plan(source, *order)
    return images, digest_of(images.keys)


__all__ = ["Augmentation", "Pixels", "SRDataModule", "Sample", "Source"]
log = logging.getLogger(__name__)


class SRDataModule(LightningDataModule):
    """Images for training, validation, test and prediction, degraded on the device.

    Args:
        scale: Factor by which images are enlarged, possibly fractional. It is set here only.
        train: Images to train on.
        val: Sources to validate on, by name.
        test: Sources to test on, by name.
        predict: Images and videos to enlarge: a folder, a file, a list of both, or a Source.
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
        crops: CropSettings = CropSettings(),
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
        self._datasets: dict[str, list[Images]] = {}
        self._kept = ""  # stage whose next `setup` opens nothing
        self._left_out: set[str] = set()
        self._begun: Mapping[str, Collection[int]] = {}  # finished segments of videos
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
        if stage != self._kept:
            self._open(stage)
        self._kept = ""
        if stage == "fit":
            degradation = self._datasets["train"][0].source.degradation or self.degradation
            if self.crops.scales is not None:
                check_any_scale(degradation)
            self._pool = new_pool(degradation, self.batch_size, self._ranks()[1])

    def keep_open(self, stage: str) -> None:
        """Keep the sources of a ``setup`` that came early: the next one does not open them again.

        Args:
            stage: As in ``setup``.
        """
        self._kept = stage

    def _open(self, stage: str) -> None:
        if stage == "fit":
            self._datasets["train"] = [self._training_images()]
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
            self._datasets["predict"] = self._predict_images()

    def _prepared(self, name: str, source: Source) -> Images:
        scale = self._scale_of(source)
        source.prepare(scale)
        return evaluation_images(source, name, scale)

    def _scale_of(self, source: Source) -> float:
        return self.scale if source.scale is None else checked_scale(source.scale, "a source's")

    def _training_images(self) -> TrainingImages:
        if self.train is None:
            raise ValueError("fit needs images to train on: set data.init_args.train to a Source")
        scale = self._scale_of(self.train)
        if self.crops.scales is None:
            check_crop(self.crop_size, scale)  # here: predict and test may use another scale
        self.train.prepare(scale)
        crops = self.crops
        settings = ("train", scale, self.crop_size, crops.flips, crops.augment, crops.small)
        order = (self.seed, self.batch_size, self.streams, crops.per_image)
        images, self._fingerprint = training_images(self.train, settings, order)
        self._plan = images.plan
        return images

    def _predict_images(self) -> list[Images]:
        source = source_to_enlarge(self.predict, self.outputs)
        scale = self._scale_of(source)
        source.srgb = False
        source.prepare(scale)
        settings = ("predict", scale, self.size)
        videos = source.videos if isinstance(source, Folder) else {}
        found: list[Images] = []
        if source.keys or not videos:
            found.append(PredictImages(source, *settings))
        if videos:
            found.append(VideoFrames(Videos(videos), *settings))
        return found

    @property
    def predict_keys(self) -> list[str]:
        """Keys of all images and videos that ``predict`` enlarges, without the source's name."""
        return [key for dataset in self._datasets["predict"] for key in dataset.source.keys]

    @property
    def predict_paths(self) -> list[str | None]:
        """Files of these images in the same order; None for an image without a file."""
        sources = [dataset.source for dataset in self._datasets["predict"]]
        return [source.path(index) for source in sources for index in range(len(source.keys))]

    @property
    def predict_videos(self) -> list[str]:
        """Keys of the videos among them."""
        return [key for dataset in self._videos() for key in dataset.source.keys]

    def _videos(self) -> list[VideoFrames]:
        return [one for one in self._datasets["predict"] if isinstance(one, VideoFrames)]

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

    def continue_in_predict(self, begun: Mapping[str, Collection[int]]) -> None:
        """Leave out finished segments of videos (``files.video.SEGMENT``).

        Args:
            begun: Numbers of segments, by key.
        """
        self._begun = begun

    def abandon_in_predict(self, key: str) -> None:
        """Give no more frames of a video."""
        for dataset in self._videos():
            dataset.abandon(key)

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

    def _together(self) -> bool:
        # Whether all processes enlarge each image together, so that each gets all images.
        method = self.trainer.lightning_module if self.trainer else None
        return method_of(method).tiles_are_shared

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
        if isinstance(dataset, StreamImages):
            dataset.ranks = self._ranks()
            workers = cast(Stream, dataset.source).workers(workers, dataset.ranks[1])
        return loader_of(dataset, sampler, workers, self._on_cuda(), persistent=True)

    def _evaluation(self, part: str, batch_size: int) -> list[Loader]:
        left_out = self._left_out if part == "predict" else set()
        seed, ranks, loaders = self.degradation_seed, self._ranks(), []
        if part == "predict" and self._together():
            ranks = (0, 1)
        for x in self._datasets[part]:
            sampler, workers = None, self.workers
            if isinstance(x, VideoFrames):
                x.start(left_out, self._begun, seed, ranks)
                workers = min(workers, 1)  # frames come in order
            else:
                sampler = evaluation_sampler(x, left_out, seed, batch_size, ranks)
            loaders.append(loader_of(x, sampler, workers, self._on_cuda()))
        return loaders

    def val_dataloader(self) -> list[Loader]:
        """Return one loader for each source of ``val``, in the configuration's order."""
        return self._evaluation("val", self.eval_batch_size)

    def test_dataloader(self) -> list[Loader]:
        """Return one loader for each source of ``test``, in the configuration's order."""
        return self._evaluation("test", self.eval_batch_size)

    def predict_dataloader(self) -> list[Loader]:
        """Return loaders of the images and of the videos to enlarge, one image per batch."""
        return self._evaluation("predict", 1)

    @contextmanager
    def apart_from_training(self) -> Iterator[None]:
        """Let training batches leave no trace here, so that some can be measured before training.

        Neither the listener nor the pair pool gets them.
        """
        kept = self.listener, self._pool
        self.listener = self._pool = None
        try:
            yield
        finally:
            self.listener, self._pool = kept

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
            return cast(Batch, {k: batch[k] for k in ("key", "error", "meta") if k in batch})
        part = self._part()
        dataset = self._datasets[part][dataloader_idx]
        pool = self._pool if part == "train" and "hr" in batch and "lr" not in batch else None
        if pool is not None:
            check_pooled(batch)
        # A resumed run may begin at any batch, also at one that Guard must skip.
        finite = dataset.checked or part != "train" or self._position() == (0, 0)
        scale = self._to_images(batch)
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

    def _to_images(self, batch: dict[str, Any]) -> float | None:
        """Convert the images to float32; return the scale of this batch, if it has its own."""
        place = batch.pop("place", None)
        scales = self.crops.scales
        if scales is None or place is None:
            to_floats(batch)
            return None
        epoch, position = place[0]
        sides = scales.sides(self.seed, epoch, self.plan().batch_of(position))
        scales.to_images(batch, sides.hr)
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
