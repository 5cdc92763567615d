"""What limits a run, and what would make it quicker: from the seconds that its parts take.

Workers read, decode and crop while the training process moves, degrades and steps: a batch takes as
long as the slower of the two. Without workers it takes the sum. In neither case can a machine do
more than its cores can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

LEAST_GAIN = 1.03  # what is worth a word
MOST_WORKERS = 64
SEGMENT, ROW = 128, 16  # pixels of what a restart marker ends, as the packer has it by default
WAITS = 0.5  # share of the processor in a stage's time, below which the stage waits


class Stage(NamedTuple):
    """One part of the work on a batch.

    seconds: On the clock.
    cpu: Of the processors, in this process.
    """

    seconds: float = 0.0
    cpu: float = 0.0


class Pictures(NamedTuple):
    """What was decoded.

    pixels: A training sample, on average.
    crop: Pixels of a crop.
    jpeg: Share of the files that are JPEG.
    source: Name of the Source's class.
    """

    pixels: float = 0.0
    crop: int = 1
    jpeg: float = 0.0
    source: str = ""


NO_PICTURES = Pictures()


@dataclass(frozen=True)
class Measured:
    """A run's parts, on this process.

    Args:
        reading: Of one worker, as the two that follow.
        decoding: Bytes to pixels.
        cropping: Crop, flips, augmentation, and what makes a batch of samples.
        transfer: To the device.
        degradation: HR to LR.
        step: Forward, backward and the optimiser.
        batch: Samples a batch, of this process.
        workers: Of this process.
        cores: That this process may use.
        device: ``cpu``, ``cuda``, ...
        pictures: What was decoded.
        whole: Seconds a batch of the run as it is; 0 if it was not measured.
        gpu_idle: A GPU is there, and the run does not use it.
        precision: ``trainer.precision``.
        compilable: The degradation could be compiled, and is not.
        recipe: Name of the degradation's class.
    """

    reading: Stage
    decoding: Stage
    cropping: Stage
    transfer: Stage
    degradation: Stage
    step: Stage
    batch: int
    workers: int
    cores: int
    device: str = "cpu"
    pictures: Pictures = NO_PICTURES
    whole: float = 0.0
    gpu_idle: bool = False
    precision: str = "32-true"
    compilable: bool = False
    recipe: str = ""

    @property
    def data(self) -> Stage:
        """What workers do for a batch."""
        return _sum(self.reading, self.decoding, self.cropping)

    @property
    def training(self) -> Stage:
        """What the training process does for a batch."""
        return _sum(self.transfer, self.degradation, self.step)

    @property
    def seconds(self) -> float:
        """A batch of the run, from its parts."""
        if not self.workers:
            return self.data.seconds + self.training.seconds
        return max(self.training.seconds, self.data.seconds / self.workers, self._of_cores)

    @property
    def _of_cores(self) -> float:
        return (self.data.cpu + self.training.cpu) / self.cores

    @property
    def limit(self) -> str:
        """What a batch waits for: a stage's name, or ``cores``."""
        data = {name: getattr(self, name).seconds for name in ("reading", "decoding", "cropping")}
        training = {n: getattr(self, n).seconds for n in ("transfer", "degradation", "step")}
        if not self.workers:
            return _largest({**data, **training})
        supply, use = self.data.seconds / self.workers, self.training.seconds
        if self._of_cores > max(supply, use):
            return "cores"
        return _largest(data if supply > use else training)


class Advice(NamedTuple):
    """A change, and what it would bring.

    change: What to set or do.
    why: The numbers behind it.
    seconds: A batch after it, at best where `bound` is true.
    bound: No more than that can be expected.
    """

    change: str
    why: str
    seconds: float
    bound: bool = False


def advise(now: Measured) -> list[Advice]:
    """Changes that make the run quicker, the one with the largest gain first."""
    rules: tuple[Callable[[Measured], Iterator[Advice]], ...] = (
        _workers,
        _crops_alone,
        _reading,
        _degradation,
        _device,
        _precision,
    )
    found = [advice for rule in rules for advice in rule(now)]
    worth = [advice for advice in found if now.seconds > LEAST_GAIN * advice.seconds]
    return sorted(worth, key=lambda advice: (advice.bound, advice.seconds))


def verdict(now: Measured) -> str:
    """What limits the run, in one or two sentences."""
    supply, use = now.data.seconds / max(now.workers, 1), now.training.seconds
    limit = now.limit
    if not now.workers:
        share = now.data.seconds / now.seconds
        return (
            f"Without workers the training process prepares the pictures itself: {share:.0%} of "
            f"its time. The largest part of all is {_NAMES[limit]}."
        )
    both = (
        f"{_count(now.workers)} can give a batch every {_ms(supply)}, the training process takes "
        f"{_ms(use)} for it"
    )
    if limit == "cores":
        return (
            f"The processor limits this run: {both}, and together they keep all "
            f"{now.cores} cores busy for {_ms(now.seconds)}."
        )
    if supply > use:
        return f"The pictures limit this run, most of all {_NAMES[limit]}: {both}."
    needed = max(1, math.ceil(now.data.seconds / max(use, 1e-9)))
    enough = "" if needed >= now.workers else f" {_count(needed)} would be enough."
    return f"The training process limits this run, most of all {_NAMES[limit]}: {both}.{enough}"


def nothing(now: Measured) -> str:
    """What to say where there is no advice."""
    text = "Nothing that is set in the configuration would make this run 3 % quicker."
    if now.limit in ("step", "cores"):
        faster = "another device" if now.device == "cpu" else "more devices (trainer.devices)"
        text += f" A smaller network would, a smaller data.init_args.crop_size, or {faster}."
    return text


def doubt(now: Measured) -> str:
    """Why the whole run is not what its parts say, or nothing."""
    if not now.whole or 0.75 < now.whole / now.seconds < 1.33:
        return ""
    if now.whole < now.seconds:
        return (
            f"The run as a whole is quicker than its parts ({_ms(now.whole)}, not "
            f"{_ms(now.seconds)}): they were measured one by one, waiting for each, or another "
            "program was busy then."
        )
    return (
        f"The run as a whole is slower than its parts ({_ms(now.whole)}, not {_ms(now.seconds)}): "
        "workers and the training process hinder each other, or another program was busy then."
    )


_NAMES = {
    "reading": "reading them",
    "decoding": "decoding them",
    "cropping": "cropping and putting batches together",
    "transfer": "the transfer to the device",
    "degradation": "the degradation",
    "step": "the step (forward, backward, optimiser)",
}


# --------------------------------------------------------------------------------------- the rules


def _workers(now: Measured) -> Iterator[Advice]:
    # Workers that wait for a disk or a server may be more than there are cores.
    waiting = now.data.seconds / max(now.data.cpu, 1e-9)
    most = int(min(max(now.cores * max(waiting, 1.0), now.workers, 1), MOST_WORKERS))
    times = {count: replace(now, workers=count).seconds for count in range(1, most + 1)}
    best = min(times.values())
    count = next(count for count, seconds in times.items() if seconds <= best * 1.02)
    if count > now.workers:
        yield Advice(
            f"data.init_args.workers: {now.workers} -> {count}",
            f"a worker takes {_ms(now.data.seconds)} for a batch that the training process uses "
            f"up in {_ms(now.training.seconds)}",
            times[count],
        )


def _crops_alone(now: Measured) -> Iterator[Advice]:
    pixels, crop = now.pictures.pixels, now.pictures.crop
    side = crop**0.5
    part = (side + SEGMENT) * (side + ROW) / max(pixels, 1.0)
    if not now.decoding.seconds or part > 0.8:
        return
    quicker = replace(now, decoding=_scaled(now.decoding, part))
    markers = "--restart-markers"
    if now.pictures.jpeg < 0.5:
        markers = "--encode jpeg:97 --restart-markers (JPEG loses a little), or --crop 512"
    yield Advice(
        f"pack the pictures for crops: python -m datamodules.pack SOURCE OUT {markers}, then "
        "data.init_args.train: datamodules.shards.Shards",
        f"{pixels / crop:.0f} times as many pixels are decoded as are used; only the part around "
        f"the crop would be ({part:.0%})",
        quicker.seconds,
    )


def _reading(now: Measured) -> Iterator[Advice]:
    if not now.reading.seconds or now.reading.cpu > WAITS * now.reading.seconds:
        return
    waits = 1 - now.reading.cpu / now.reading.seconds
    change = "pack the pictures into shards: python -m datamodules.pack SOURCE OUT"
    if now.pictures.source == "Shards":
        change = "for remote shards, raise data.init_args.train.init_args.read_ahead and cache_size"
    yield Advice(
        f"{change}; or copy them to a local disk",
        f"{waits:.0%} of the time of reading is waiting for a disk or a server",
        replace(now, reading=Stage(now.reading.cpu, now.reading.cpu)).seconds,
        bound=True,
    )


def _degradation(now: Measured) -> Iterator[Advice]:
    without = replace(now, degradation=Stage()).seconds
    if now.compilable and now.device != "cpu":
        yield Advice(
            "degradation.init_args.compile: true",
            f"the degradation takes {_ms(now.degradation.seconds)} of a batch",
            without,
            bound=True,
        )
    else:
        lighter = ", such as degradations.real_esrgan.RealESRGANLight"
        yield Advice(
            f"a lighter degradation{lighter if now.recipe == 'RealESRGAN' else ''}",
            f"it takes {_ms(now.degradation.seconds)} of a batch; what is learnt changes with it",
            without,
            bound=True,
        )


def _device(now: Measured) -> Iterator[Advice]:
    if now.gpu_idle:
        yield Advice(
            "trainer.accelerator: gpu",
            "a GPU is there and the run does not use it",
            replace(now, step=Stage(), degradation=Stage()).seconds,
            bound=True,
        )


def _precision(now: Measured) -> Iterator[Advice]:
    if now.device == "cuda" and now.precision.startswith("32"):
        yield Advice(
            "trainer.precision: bf16-mixed, and then a larger data.init_args.batch_size",
            f"the step takes {_ms(now.step.seconds)} in 32 bits; half of that at best",
            replace(now, step=_scaled(now.step, 0.5)).seconds,
            bound=True,
        )


# ---------------------------------------------------------------------------------------- numbers


def _sum(*stages: Stage) -> Stage:
    return Stage(sum(s.seconds for s in stages), sum(s.cpu for s in stages))


def _scaled(stage: Stage, factor: float) -> Stage:
    return Stage(stage.seconds * factor, stage.cpu * factor)


def _largest(times: dict[str, float]) -> str:
    return max(times, key=lambda name: times[name])


def _count(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _ms(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
