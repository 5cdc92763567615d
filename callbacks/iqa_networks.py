"""pyiqa's networks, built from files that the project found; pyiqa itself fetches nothing.

Left to itself, pyiqa fetches what it lacks, unverified, and unpickles whatever the file holds. Here
its networks are made without weights, and filled from tensors alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.niqe_model import read_model

Build = Callable[[Sequence[Path]], nn.Module]

# The module of pyiqa that each metric needs; some import further optional packages.
MODULES = {
    "musiq": "musiq_arch",
    "maniqa": "maniqa_arch",
    "maniqa-pipal": "maniqa_arch",
    "clipiqa": "clipiqa_arch",
    "topiq_nr": "topiq_arch",
    "pi": "nrqm_arch",
}


class PerceptualIndex(nn.Module):
    """(10 - Ma + NIQE) / 2.

    Args:
        ma: Gives Ma's number of (1, 3, H, W) in [0, 1].
        niqe: Gives NIQE.
    """

    def __init__(self, ma: nn.Module, niqe: nn.Module) -> None:
        super().__init__()
        self.ma, self.niqe = ma, niqe

    def forward(self, image: Tensor) -> Tensor:
        """() of one image (1, 3, H, W) in [0, 1]."""
        if image.device.type == "mps":  # which has no float64
            image = image.cpu()
        ma, niqe = self.ma(image), self.niqe(image)
        index: Tensor = (10 - ma.reshape(()) + niqe.reshape(())) / 2
        return index


def missing_package(model: str) -> str:
    """Why pyiqa cannot compute a metric on this machine, in one line; empty where it can.

    Args:
        model: The metric's name in pyiqa.
    """
    try:
        with _nothing_changed(), _pkg_resources():
            importlib.import_module(f"pyiqa.archs.{MODULES[model]}")
    except Exception as error:  # an optional package may fail in any way when it is imported
        told = " ".join(str(error).split())
        return (
            f"pyiqa cannot be imported ({type(error).__name__}: {told}); install the extra: "
            "pip install -c constraints.txt -e '.[iqa]'"
        )
    return ""


def musiq(files: Sequence[Path]) -> nn.Module:
    """MUSIQ of one file."""
    return _filled(_network("musiq", {"pretrained": False}), files[0])


def maniqa(model: str, files: Sequence[Path]) -> nn.Module:
    """MANIQA of one file, which holds its vision transformer too.

    Args:
        model: ``maniqa`` or ``maniqa-pipal``, whose networks differ.
        files: The file.
    """
    timm: Any = importlib.import_module("timm")
    create = timm.create_model
    # pyiqa asks timm for ImageNet's weights, which the file replaces at once.
    timm.create_model = lambda *names, **options: create(*names, **{**options, "pretrained": False})
    try:
        network = _network(model, {"pretrained": False})
    finally:
        timm.create_model = create
    return _filled(network, files[0])


def clipiqa(files: Sequence[Path]) -> nn.Module:
    """CLIP-IQA of CLIP's file, in which there is no further weight."""
    network: Any = _network("clipiqa", {"backbone": str(files[0])})
    network.clip = network.clip_model[0]  # registered, so that it moves to the device
    return network


def topiq(files: Sequence[Path]) -> nn.Module:
    """TOPIQ of one file, which holds its ResNet-50 too."""
    options = {"pretrained": False, "backbone_pretrain": False}
    return _filled(_network("topiq_nr", options), files[0])


def pi(border: int, files: Sequence[Path]) -> nn.Module:
    """The perceptual index.

    Args:
        border: Pixels cut off at each side.
        files: That of Ma's metric as pyiqa has it, and that of NIQE's model as we have it.
    """
    from scipy.io import savemat

    options = {"crop_border": border, "color_space": "ycbcr"}
    mean, covariance = read_model(files[1])
    with tempfile.TemporaryDirectory() as folder:  # pyiqa reads the model from MATLAB's format
        path = str(Path(folder, "niqe.mat"))
        content = {"mu_prisparam": mean[None].numpy(), "cov_prisparam": covariance.numpy()}
        savemat(path, content)
        niqe = _network("niqe", {**options, "pretrained_model_path": path})
    return PerceptualIndex(_read("nrqm", options, files[0]), niqe)


def _read(model: str, options: Mapping[str, Any], file: Path) -> nn.Module:
    try:
        return _network(model, {**options, "pretrained_model_path": str(file)})
    except Exception as error:  # whatever scipy and pyiqa raise for a file that is something else
        raise ValueError(f"{file} has no weights of pyiqa's {model}: {error}") from error


def _network(model: str, options: Mapping[str, Any]) -> nn.Module:
    """A network of pyiqa with the options that its name stands for, and these."""
    configs: Any = importlib.import_module("pyiqa.default_model_configs").DEFAULT_CONFIGS
    archs: Any = importlib.import_module("pyiqa.archs")
    with _nothing_changed():
        network: nn.Module = archs.build_network({**configs[model]["metric_opts"], **options})
    return network.requires_grad_(False).eval()


def _filled(network: nn.Module, file: Path) -> nn.Module:
    """A network with the tensors of a file.

    Raises:
        ValueError: The file is damaged, or has others.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("params", state)
        network.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    except Exception as error:  # whatever torch raises for a file that is something else
        raise ValueError(f"{file} has no weights of {type(network).__name__}: {error}") from error
    return network


@contextmanager
def _nothing_changed() -> Iterator[None]:
    """The process's random numbers and cuDNN's settings stay as they are; pyiqa tells nothing."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    level = logging.root.manager.disable
    logging.disable(logging.INFO)  # its own logger has a handler of its own beside the run's
    try:
        with torch.random.fork_rng(devices=[]):  # the random weights are replaced
            yield
    finally:
        logging.disable(level)
        cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def _pkg_resources() -> Iterator[None]:
    """What openai-clip imports from setuptools' pkg_resources, which setuptools 82 has no more."""
    if importlib.util.find_spec("pkg_resources") is not None:
        yield
        return
    stand_in: Any = types.ModuleType("pkg_resources")
    stand_in.packaging = importlib.import_module("packaging")
    importlib.import_module("packaging.version")
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
