"""MUSIQ, MANIQA, CLIP-IQA, TOPIQ and PI, measures without reference, by the optional pyiqa.

Sources: Ke et al., "MUSIQ: multi-scale image quality transformer" (ICCV 2021). Yang et al.,
"MANIQA: multi-dimension attention network for no-reference image quality assessment" (CVPR
workshops 2022). Wang, Chan, Loy, "Exploring CLIP for assessing the look and feel of images" (AAAI
2023). Chen et al., "TOPIQ: a top-down approach from semantics to distortions for image quality
assessment" (TIP 2024). Blau et al., "The 2018 PIRM challenge on perceptual image super-resolution"
(ECCV workshops 2018), with Ma et al., "Learning a no-reference quality metric for single-image
super-resolution" (CVIU 2017).
"""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from callbacks import weights
from callbacks.base import ImageMetric
from callbacks.iqa_networks import Build, clipiqa, maniqa, missing_package, musiq, pi, topiq
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall
from degradations.base import ieee_float32

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)


class IQAMetric(ImageMetric):
    """A number of pyiqa for each image, from its official files of weights.

    Images are rounded to 8 bits and given to pyiqa one by one, whole. pyiqa and most of its files
    may not be used commercially.

    Args:
        strict_weights: Stop the run where pyiqa or a file of weights is missing; else the metric is
            off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
    """

    needs_hr = False
    model = ""  # its name in pyiqa
    files: tuple[str, ...] = ()  # names in configs/weights.yaml, in the order that `build` wants
    window = "32x32 pixels"

    def __init__(
        self,
        strict_weights: bool = False,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__(every_n, limit, label, control)
        self.strict_weights = strict_weights
        self.network: nn.Module | None = None
        self.sha256: str | None = None

    @abstractmethod
    def build(self) -> Build:
        """The function that makes pyiqa's network from the files."""

    def absent(self) -> str:
        """The line about the missing package, or the missing files."""
        if problem := missing_package(self.model):
            return problem
        lacking = [weights.missing(name) for name in self.files if not weights.obtain(name)]
        return "; ".join(lacking)

    def load(self) -> None:
        """Build the network from its files.

        Raises:
            FileNotFoundError: One is missing.
            ValueError: One is not what it should be.
        """
        paths = []
        for name in self.files:
            path = weights.find(name)
            if path is None:
                raise FileNotFoundError(weights.missing(name))
            _say_unverified(name, path)
            paths.append(path)
        _say_licence()
        self.network = self.build()(paths)
        self.sha256 = ", ".join(map(weights.digest_of, paths))

    def protocol(self) -> MetricProtocol:
        """Name and version in pyiqa, rounding, range, and the files with their hashes."""
        return {
            "implementation": f"pyiqa {_version()}, {self.model}",
            "color": "rgb",
            "border": 0,
            "round_8bit": True,
            "data_range": 1,
            "weights": ", ".join(weights.entry_of(name)["file"] for name in self.files),
            "sha256": self.sha256,
        }

    def fits(self, height: int, width: int) -> bool:
        """Whether a picture is large enough."""
        return min(height, width) >= 32

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """(B,) numbers; NaN for an image with a pixel that is not finite.

        Raises:
            RuntimeError: The network is not loaded yet.
            TooSmall: The images are below ``window``.
        """
        if self.network is None:
            raise RuntimeError(f"{type(self).__name__} has no network before `load` was called")
        if not self.fits(*sr.shape[-2:]):
            raise TooSmall(sr, self.window)
        device = sr.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False), ieee_float32(device):
            # One by one: some of them mix a batch's images, and all round otherwise in a batch.
            return torch.stack(
                [self._score(image, self.network) for image in torch.split(sr.float(), 1)]
            )

    @staticmethod
    def _score(image: Tensor, network: nn.Module) -> Tensor:
        if not image.sum().isfinite():
            return image.new_tensor(torch.nan)
        found: Tensor = network((image.clamp(0, 1) * 255).round() / 255)
        return found.float().reshape(())


class MUSIQ(IQAMetric):
    """Multi-scale image quality transformer, trained on KonIQ-10k; 0 to 100, higher is better.

    pyiqa's ``musiq``.

    Args:
        strict_weights: Stop the run where pyiqa or a file of weights is missing; else the metric is
            off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
    """

    name = model = "musiq"
    files = ("musiq-koniq",)

    def build(self) -> Build:
        """One network of one file."""
        return musiq


class MANIQA(IQAMetric):
    """Multi-dimension attention network, 20 crops of an image; about 0 to 1, higher is better.

    Args:
        trained_on: ``koniq`` (pyiqa's ``maniqa``) or ``pipal`` (``maniqa-pipal``). Papers have
            either; the numbers must not be compared.
        strict_weights: Stop the run where pyiqa or a file of weights is missing; else the metric is
            off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, where one metric is used twice.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.

    Raises:
        ValueError: Another set than those two.
    """

    name = "maniqa"

    def __init__(
        self,
        trained_on: Literal["koniq", "pipal"] = "koniq",
        strict_weights: bool = False,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__(strict_weights, every_n, limit, label, control)
        if trained_on not in ("koniq", "pipal"):
            raise ValueError(
                f"`trained_on` of MANIQA is {trained_on!r}; expected 'koniq' or 'pipal'"
            )
        self.model = "maniqa" if trained_on == "koniq" else "maniqa-pipal"
        self.files = (f"maniqa-{trained_on}",)

    def build(self) -> Build:
        """One network of one file."""
        return functools.partial(maniqa, self.model)


class CLIPIQA(IQAMetric):
    """How much nearer an image is to "good image" than to "bad image" in CLIP; 0 to 1.

    pyiqa's ``clipiqa`` (ResNet-50, five pairs of prompts; the paper has one); higher is better.

    Args:
        strict_weights: Stop the run where pyiqa or a file of weights is missing; else the metric is
            off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
    """

    name = model = "clipiqa"
    files = ("clip-rn50",)

    def build(self) -> Build:
        """CLIP; nothing is trained for the metric."""
        return clipiqa


class TOPIQ(IQAMetric):
    """Top-down image quality, trained on KonIQ-10k; about 0 to 1, higher is better.

    pyiqa's ``topiq_nr``.

    Args:
        strict_weights: Stop the run where pyiqa or a file of weights is missing; else the metric is
            off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
    """

    name = model = "topiq_nr"
    files = ("topiq-koniq",)

    def build(self) -> Build:
        """One network of one file."""
        return topiq


class PI(IQAMetric):
    """Perceptual index, (10 - Ma + NIQE) / 2; lower is better.

    pyiqa's ``pi``: on Y, 4 pixels cut off at each side whatever the scale; Ma's random forests
    (``nrqm``), and pyiqa's NIQE with the authors' model. Takes seconds for a large image.

    Args:
        strict_weights: Stop the run where pyiqa or a file of weights is missing; else the metric is
            off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
    """

    name = model = "pi"
    higher_is_better = False
    files = ("nrqm", "niqe-pristine")
    window = "200x104 pixels (two blocks of NIQE, and the border)"
    border = 4

    def build(self) -> Build:
        """Ma's model and NIQE's."""
        return functools.partial(pi, self.border)

    def protocol(self) -> MetricProtocol:
        """That of all, on Y and without the border."""
        return {**super().protocol(), "color": "y", "border": self.border, "data_range": 255}

    def fits(self, height: int, width: int) -> bool:
        """Whether NIQE has two blocks."""
        return ((height - 2 * self.border) // 96) * ((width - 2 * self.border) // 96) >= 2


def _version() -> str | None:
    try:
        return version("pyiqa")
    except PackageNotFoundError:
        return None


@functools.cache  # once a process
def _say_licence() -> None:
    log.warning(
        "pyiqa %s is licensed for noncommercial purposes only, and so are most of its files of "
        "weights (configs/weights.yaml has the licence of each)",
        _version(),
    )


@functools.cache
def _say_unverified(name: str, path: Path) -> None:
    if weights.entry_of(name)["sha256"] is None:
        log.warning(
            "%s is not verified: no published SHA-256 of it is known; its own, %s, is in the "
            "protocol",
            path,
            weights.digest_of(path),
        )
