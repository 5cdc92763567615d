"""Metrics without reference by the optional package pyiqa: MUSIQ, MANIQA, CLIP-IQA, TOPIQ and PI.

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
import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import ImageMetric, TooSmall, WeightsMetric
from callbacks.metrics.niqe import read_model
from files.batch import Batch
from files.checksums import file_hash
from files.manifest import entry_of
from files.versions import installed
from files.weights import load_strictly, read_weights

log = logging.getLogger(__name__)

# pyiqa's name of each metric, and the names of its files in configs/weights.yaml.
FILES: dict[str, tuple[str, ...]] = {
    "musiq": ("musiq-koniq",),
    "maniqa": ("maniqa-koniq",),
    "maniqa-pipal": ("maniqa-pipal",),
    "clipiqa": ("clip-rn50",),
    "topiq_nr": ("topiq-koniq",),
    "pi": ("nrqm", "niqe-pristine"),
}
PI_BORDER = 4  # pixels that PI cuts off at each side, whatever the scale


class IQA(WeightsMetric, ImageMetric):
    """A metric of pyiqa for each image, with the official weights.

    Images are rounded to 8 bits and given to pyiqa one by one, whole. pyiqa and most of its weights
    may not be used commercially. Higher is better, except for ``pi``.

    Args:
        metric: pyiqa's name: ``musiq`` (trained on KonIQ-10k; 0 to 100), ``maniqa`` (KonIQ-10k) or
            ``maniqa-pipal`` (PIPAL; papers use either, and their numbers are not comparable; both
            about 0 to 1, from 20 crops), ``clipiqa`` (CLIP of ResNet-50 with five pairs of prompts,
            where the paper has one; 0 to 1), ``topiq_nr`` (KonIQ-10k; about 0 to 1) or ``pi``
            (perceptual index (10 - Ma + NIQE) / 2 on Y without 4 pixels at each side; seconds for a
            large image).
    """

    needs_hr = False
    network: nn.Module

    def __init__(
        self,
        metric: Literal["musiq", "maniqa", "maniqa-pipal", "clipiqa", "topiq_nr", "pi"],
        **kwargs: Any,
    ) -> None:
        self.name = metric.removesuffix("-pipal")  # of both MANIQAs: a protocol tells them apart
        super().__init__(**kwargs)
        self.metric = metric
        self.files = FILES[metric]
        self.higher_is_better = metric != "pi"

    def absent(self) -> str:
        """Name the package that cannot be imported, or the missing files, in one line."""
        packages = ["pyiqa", "clip"] if self.metric == "clipiqa" else ["pyiqa"]
        try:
            with _process_unchanged():
                for package in packages:
                    importlib.import_module(package)
        except Exception as error:  # an installed package may be broken in any way
            reason = " ".join(str(error).split())
            return (
                f"{' and '.join(packages)} cannot be imported ({type(error).__name__}: {reason}): "
                "install the extra: pip install -c constraints.txt -e '.[iqa]'"
            )
        return super().absent()

    def build(self, paths: list[Path]) -> None:
        """Build the network from its files."""
        for name, path in zip(self.files, paths, strict=True):
            _warn_if_unverified(name, path)
        _warn_of_licence()
        with _process_unchanged():
            network = _build(self.metric, paths)
        self.network = network.requires_grad_(False).eval()

    def protocol(self) -> MetricProtocol:
        """Return name and version in pyiqa, rounding, range, and the files with their hashes."""
        on_y = self.metric == "pi"  # its NIQE, as in PIRM 2018
        return {
            "implementation": f"pyiqa {installed('pyiqa')}, {self.metric}",
            "color": "y" if on_y else "rgb",
            "border": PI_BORDER if on_y else 0,
            "round_8bit": True,
            "data_range": 255 if on_y else 1,
            **self.weights_protocol(),
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return the (B,) numbers; NaN for an image with a pixel that is not finite.

        Raises:
            TooSmall: If the images are too small for the metric.
        """
        height, width = sr.shape[-2:]
        if min(height, width) < 32:
            raise TooSmall(sr, "32x32 pixels")
        blocks = ((height - 2 * PI_BORDER) // 96) * ((width - 2 * PI_BORDER) // 96)
        if self.metric == "pi" and blocks < 2:
            raise TooSmall(sr, "200x104 pixels (two blocks of NIQE, and the border)")
        # One by one: some metrics mix a batch's images, and all round differently in a batch.
        return torch.stack([_score(image, self.network) for image in torch.split(sr, 1)])


class PerceptualIndex(nn.Module):
    """PI = (10 - Ma + NIQE) / 2: pyiqa's own class cannot be given local files.

    Args:
        ma: Returns Ma's number of (1, 3, H, W) in [0, 1].
        niqe: Returns NIQE.
    """

    def __init__(self, ma: nn.Module, niqe: nn.Module) -> None:
        super().__init__()
        self.ma, self.niqe = ma, niqe

    def forward(self, image: Tensor) -> Tensor:
        """Return the () index of one image (1, 3, H, W) in [0, 1]."""
        if image.device.type == "mps":  # which has no float64
            image = image.cpu()
        ma = self.ma(image).reshape(())
        niqe = self.niqe(image).reshape(())
        return (10 - ma + niqe) / 2


def _build(metric: str, paths: list[Path]) -> nn.Module:
    """Return pyiqa's metric with the weights of these files, on the CPU; nothing is downloaded."""
    create = functools.partial(importlib.import_module("pyiqa").create_metric, device="cpu")
    network: Any
    if metric == "clipiqa":  # it is CLIP itself, without further weights
        return create(metric, backbone=str(paths[0]))
    if metric == "pi":
        from scipy.io import savemat

        options = {"crop_border": PI_BORDER, "color_space": "ycbcr"}
        ma = create("nrqm", pretrained_model_path=str(paths[0]), **options)
        mean, covariance = read_model(paths[1])
        with tempfile.TemporaryDirectory() as folder:  # pyiqa reads a .mat file
            path = f"{folder}/niqe.mat"
            savemat(path, {"mu_prisparam": mean[None].numpy(), "cov_prisparam": covariance.numpy()})
            return PerceptualIndex(ma, create("niqe", pretrained_model_path=path, **options))
    with _without_timm_downloads():
        backbone = {"backbone_pretrain": False} if metric == "topiq_nr" else {}
        network = create(metric, pretrained=False, **backbone)
    state = read_weights(paths[0]).tensors  # pyiqa would run code that a file holds
    load_strictly(network.net, state, str(paths[0]))
    return network


def _score(image: Tensor, network: nn.Module) -> Tensor:
    """Return the () number of (1, 3, H, W) in [0, 1]; NaN if a pixel is not finite."""
    if not image.sum().isfinite():
        return image.new_tensor(torch.nan)
    number: Tensor = network((image.clamp(0, 1) * 255).round() / 255)
    return number.float().reshape(())


@functools.cache  # once a process
def _warn_of_licence() -> None:
    log.warning(
        "pyiqa %s is licensed for noncommercial purposes only, and so are most of its weights "
        "files (configs/weights.yaml has the licence of each)",
        installed("pyiqa"),
    )


@functools.cache
def _warn_if_unverified(name: str, path: Path) -> None:
    if entry_of(name)["sha256"] is None:
        log.warning(
            "%s is not verified: no published SHA-256 of it is known; its own, %s, is in the "
            "protocol",
            path,
            file_hash(path),
        )


@contextmanager
def _without_timm_downloads() -> Iterator[None]:
    """Keep MANIQA from downloading ImageNet's weights, which those of its own file replace."""
    timm: Any = importlib.import_module("timm")
    create = timm.create_model

    def untrained(name: str, **options: Any) -> Any:
        return create(name, **{**options, "pretrained": False})

    timm.create_model = untrained
    try:
        yield
    finally:
        timm.create_model = create


@contextmanager
def _process_unchanged() -> Iterator[None]:
    """Keep random state and settings of cuDNN, and silence what pyiqa logs and warns of."""
    cudnn = torch.backends.cudnn
    settings = (cudnn.deterministic, cudnn.benchmark)
    level = logging.root.manager.disable
    logging.disable(logging.INFO)  # its logger has a handler of its own beside the run's
    try:
        # The random weights are replaced. The package clip warns of its own imports.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        cudnn.deterministic, cudnn.benchmark = settings
