"""Metrics of clips: FVD, KVD, Flicker, FrameSWD.

Source: Unterthiner et al., "FVD: a new metric for video generation" (ICLR workshop 2019).

Differences of consecutive frames after motion compensation, as in Lai et al., "Learning blind video
temporal consistency" (ECCV 2018), section 4.1, whose flow is a network's. Here it is Farneback's
(SCIA 2003), which needs no weights, and is computed on each clip itself: a generated clip has no
real clip of the same motion.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import TooSmall
from callbacks.metrics.fid import frechet_distance, levels, polynomial_mmd
from callbacks.metrics.sets import SetMetric
from callbacks.metrics.swd import SWD
from files.batch import Batch
from files.checksums import check_intact, file_hash
from files.numbers import PositiveInt
from files.paths import expand_path

SIDE = 224
OPTIONS = {"rescale": False, "resize": False, "return_features": True}
STILL = 0.1  # pixels per frame: less is no motion
BORDER = 2  # pixels, where no window of the flow is complete
# pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, flags: of cv2.calcOpticalFlowFarneback
FLOW: tuple[Any, ...] = (0.5, 3, 9, 5, 5, 1.1, 0)


class VideoMetric(SetMetric):
    """A distance of clips in the features of a network that the user gives.

    A step returns ``{"sr": (B, T, 3, H, W)}`` in [0, 1], and the batch has the real clips of the
    same shape as ``clip``. The first ``frames`` frames, rounded to 8 bits and resized to 224x224 by
    antialiased bilinear interpolation, go to the network as (B, 3, T, 224, 224) in [-1, 1].

    Args:
        weights: TorchScript file of the network, which returns (B, D) features; environment
            variables are expanded. For ``i3d_torchscript.pt`` (I3D trained on Kinetics-400), as
            StyleGAN-V uses it, these are the features before the softmax, by its arguments
            ``rescale``, ``resize`` and ``return_features``. Run only files that you trust.
        frames: Frames of each clip; clips must not be shorter.
        strict_weights: Stop the run if the file is missing; otherwise the metric is off.
    """

    target = "clip"
    net: nn.Module

    def __init__(
        self,
        weights: str | None = None,
        frames: PositiveInt = 16,
        strict_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.weights = weights
        self.frames = frames
        self.strict_weights = strict_weights
        self.sha256: str | None = None

    def absent(self) -> str:
        """Return in one line why there is no network; empty if its file is found."""
        try:
            if self.weights is None:
                problem = "is not given"
            elif self._path().is_file():
                return ""
            else:
                problem = f"is no file: {self._path()}"
        except ValueError as error:  # an environment variable that is not set
            problem = f"is no file: {error}"
        return (
            f"its network, `weights` of {type(self).__name__}, {problem}; give an I3D as "
            "TorchScript, e.g. i3d_torchscript.pt as StyleGAN-V uses it"
        )

    def load(self) -> None:
        """Load the network."""
        path = self._path()
        check_intact(path)
        self.sha256 = file_hash(path)
        self.net = _load_torchscript_once(path, self.sha256)

    def protocol(self) -> MetricProtocol:
        """Return implementation, frames, rounding, resize, and the network's file with its hash."""
        return {
            "implementation": f"enlarger {type(self).name} 1",
            "color": "rgb",
            "round_8bit": True,
            "data_range": "[-1, 1]",
            "frames": f"the first {self.frames}",
            "resize": f"bilinear to {SIDE}x{SIDE}",
            "antialias": True,
            "weights": None if self.weights is None else self._path().name,
            "sha256": self.sha256,
        }

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, D) features of (B, T, 3, H, W) clips in [0, 1].

        Raises:
            ValueError: If the images are not clips, or too short.
        """
        if images.ndim != 5 or images.shape[1] < self.frames:
            raise ValueError(
                f"{self.name} of {', '.join(batch['key'])}: got the shape {tuple(images.shape)}; "
                f"expected clips (B, T, 3, H, W) of at least {self.frames} frames"
            )
        return self.cached(images, ("clips", self.frames, self.sha256), lambda: self._embed(images))

    def _path(self) -> Path:
        """Return the path of ``weights``, with environment variables replaced."""
        return Path(expand_path(self.weights or "", f"{type(self).__name__}.weights"))

    def _embed(self, clips: Tensor) -> Tensor:
        """Return the network's (B, D) features of (B, T, 3, H, W) clips in [0, 1]."""
        net: Any = self.net
        count = len(clips)
        pixels = levels(clips[:, : self.frames].flatten(0, 1)) / 127.5 - 1
        resized = functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
        video = resized.view(count, self.frames, 3, SIDE, SIDE).movedim(1, 2)
        parameters = {argument.name for argument in net.forward.schema.arguments}
        options = {name: value for name, value in OPTIONS.items() if name in parameters}
        features: Any = net(video, **options)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count:
            raise ValueError(
                f"{self._path()} gave {getattr(features, 'shape', type(features).__name__)} for "
                f"{count} clips; expected features ({count}, D)"
            )
        return features.float()


class FVD(VideoMetric):
    """Frechet video distance between the outputs and the real clips; lower is better.

    Numbers are comparable only for the same file of weights, resize and number of clips; those of
    TensorFlow's I3D and of its ports differ. It is biased upward for few clips.

    Args:
        weights: File of the network as TorchScript, which gives (B, D) features; environment
            variables are expanded. Run only files that you trust.
        frames: Frames of each clip; clips must not be shorter.
        strict_weights: Stop the run if the file is missing; otherwise the metric is off.
    """

    name = "fvd"
    enough = 2048
    remark = "biased upward"

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the Frechet distance of (N, D) and (M, D) features."""
        return frechet_distance(sr, hr)


class KVD(VideoMetric):
    """Kernel video distance, the polynomial discrepancy of all clips; lower is better.

    The kernel is (x.y / D + 1)^3 of the features as they are, over all pairs. Too low
    against the outputs' own HR, as ``KID``.

    Args:
        weights: File of the network as TorchScript, which gives (B, D) features; environment
            variables are expanded. Run only files that you trust.
        frames: Frames of each clip; clips must not be shorter.
        strict_weights: Stop the run if the file is missing; otherwise the metric is off.
    """

    name = "kvd"
    enough = 1000
    remark = "noisy"

    def protocol(self) -> MetricProtocol:
        """Return that of all video metrics, and the kernel."""
        return {**super().protocol(), "kernel": "(x.y/D + 1)^3, unbiased"}

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the discrepancy of (N, D) and (M, D) features."""
        return polynomial_mmd(sr, hr)


@functools.lru_cache(maxsize=1)
def _load_torchscript_once(path: Path, sha256: str) -> nn.Module:
    """Return the network of a file; the same object for all metrics of a run."""
    net: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return net.eval()


class Flicker(SetMetric):
    """Mean absolute difference of consecutive frames, in levels of 8 bits; lower is steadier.

    ``flicker`` compares a frame with the previous one warped along the optical flow;
    ``flicker_static`` compares places that do not move (less than 0.1 pixels by the flow) without
    warping. Real clips are not at 0: ``flicker_real`` and ``flicker_static_real`` are those of
    the batch's clips, whose content differs if clips are generated from noise. A flow follows small
    flicker of detail, so it is a lower bound; blurred clips hardly flicker: compare
    ``frame_swd``. It reproduces no published number.

    Args:
        reference: Not for clips: leave it out.
    """

    name = "flicker"
    target = "clip"
    minimum = 1

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, rounding, flow and border."""
        return {
            "implementation": "enlarger flicker 1",
            "color": "rgb",
            "round_8bit": True,
            "data_range": 255,
            "border": BORDER,
            "flow": f"Farneback {' '.join(map(str, FLOW))}, of each clip's own luma",
            "still": f"below {STILL} pixels a frame",
        }

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, 4): sum and number of differences along the flow, and of still places.

        Raises:
            TooSmall: If nothing is left of them without the border.
            ValueError: If they are not clips.
        """
        if images.ndim != 5 or images.shape[1] < 2:
            raise ValueError(
                f"{self.name} of {', '.join(batch['key'])}: got the shape {tuple(images.shape)}; "
                "expected clips (B, T, 3, H, W) of 2 frames or more"
            )
        if min(images.shape[-2:]) <= 2 * BORDER:
            raise TooSmall(images, f"one pixel without the border of {BORDER}")
        clips = levels(images.clamp(0, 1).nan_to_num()).to(torch.uint8).movedim(2, -1).cpu().numpy()
        return torch.tensor(np.stack([_frame_differences(clip) for clip in clips]))

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the difference along the flow, of the outputs alone."""
        return self.distances(sr, hr)[self.name]

    def distances(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        """Return differences along the flow and of still places, of outputs and of real clips.

        Both are (N, 4), results of ``features``. Without still places their difference is absent.
        """
        differences = {}
        for suffix, clips in (("", sr), ("_real", hr)):
            moved, places, still, still_places = clips.sum(0).tolist()
            differences[f"{self.name}{suffix}"] = moved / places if places else float("nan")
            if still_places:
                differences[f"{self.name}_static{suffix}"] = still / still_places
        return differences


def _frame_differences(clip: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the four numbers of ``Flicker.features`` for one clip, (T, H, W, 3)."""
    luma = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    height, width = luma[0].shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    inner = np.zeros((height, width), bool)
    inner[BORDER : height - BORDER, BORDER : width - BORDER] = True
    total = np.zeros(4)
    for n in range(1, len(clip)):
        # From the later frame to the earlier: where what is here now was then.
        flow: Any = cv2.calcOpticalFlowFarneback(luma[n], luma[n - 1], None, *FLOW)  # type: ignore[call-overload]
        x = columns + flow[..., 0]
        y = rows + flow[..., 1]
        inside = inner & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        still = inside & (np.hypot(flow[..., 0], flow[..., 1]) < STILL)
        previous = clip[n - 1].astype(np.float32)
        current = clip[n].astype(np.float32)
        warped: Any = cv2.remap(previous, x, y, cv2.INTER_LINEAR)
        along_flow = abs(current - warped).mean(-1)
        in_place = abs(current - previous).mean(-1)
        total += along_flow[inside].sum(), inside.sum(), in_place[still].sum(), still.sum()
    return total


class FrameSWD(SWD):
    """SWD of all frames: the distance of their distribution of fine detail to that of real clips.

    Ignores motion.

    Args:
        levels: Levels of the pyramid; an image's smaller side must be 7 pixels on the coarsest.
        patches: Patches of each frame and level; about 64, since all are kept until the end.
    """

    name = "frame_swd"
    target = "clip"

    def protocol(self) -> MetricProtocol:
        """Return ``SWD.protocol``, marked as one of frames."""
        return {**super().protocol(), "of": "all frames"}

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, levels, F patches, D) patches of (B, F, 3, H, W) clips, or of images."""
        if images.ndim == 4:  # of a reference
            return super().features(images, batch)
        keys = []
        for key in batch["key"]:
            keys += [f"{key}/{frame}" for frame in range(images.shape[1])]
        frames = super().features(images.flatten(0, 1), {**batch, "key": keys})
        by_clip = frames.view(*images.shape[:2], *frames.shape[1:])  # (B, F, levels, patches, D)
        return by_clip.transpose(1, 2).flatten(2, 3)
