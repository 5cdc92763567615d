"""Metrics of pyiqa: against pyiqa itself with small random networks."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.io import savemat
from torch import Tensor, nn

from callbacks.metrics import iqa
from callbacks.metrics.iqa import IQA
from files import manifest
from tests.make import keys, noisy, smooth
from tests.stand_ins import save_niqe_model

needs_pyiqa = pytest.mark.skipif(
    importlib.util.find_spec("pyiqa") is None, reason="needs the optional package pyiqa"
)
# The networks of pyiqa's configuration, made small on both sides.
SMALL: dict[str, dict[str, Any]] = {
    "musiq": {"num_layers": 2, "mlp_dim": 64},
    "topiq_nr": {"semantic_model_name": "resnet18", "inter_dim": 64},
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights as the only place to search, and no earlier warnings."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(folder))
    monkeypatch.setattr(manifest, "_torch_cache", lambda: tmp_path / "nowhere")
    manifest._fetch.cache_clear()
    iqa._warn_of_licence.cache_clear()
    iqa._warn_if_unverified.cache_clear()
    return folder


def put(place: Path, monkeypatch: pytest.MonkeyPatch, **files: Path) -> None:
    """Put files under the official names, and their hashes into the manifest if it has any."""
    entries: dict[str, Any] = yaml.safe_load(manifest.MANIFEST.read_text())
    for name, file in files.items():
        entry = entries[name.replace("_", "-")]
        content = file.read_bytes()
        (place / entry["file"]).write_bytes(content)
        if entry["sha256"] is not None:
            entry["sha256"] = hashlib.sha256(content).hexdigest()
    (place / "manifest.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(manifest, "MANIFEST", place / "manifest.yaml")


def images_of_files(count: int) -> Tensor:
    """Smooth images of integer levels with some noise."""
    images = noisy(smooth(count, (112, 208), cell=8))
    return (images * 255).round() / 255


# ------------------------------------------------------------------- files of small random networks


def filled(network: nn.Module) -> dict[str, Tensor]:
    """Return its state, with random numbers for values that its constructor leaves at 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    state = network.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            spread = value.detach().std() if value.numel() > 1 else torch.tensor(0.0)
            extra = torch.randn(value.shape, generator=generator) * (0.02 + 0.2 * spread)
            state[name] = (value + extra).abs() if "running_var" in name else value + extra
    return state


def musiq_file(folder: Path) -> Path:
    from pyiqa.archs import musiq_arch

    torch.save(filled(musiq_arch.MUSIQ(pretrained=False, **SMALL["musiq"])), folder / "file")
    return folder / "file"


def topiq_file(folder: Path) -> Path:
    from pyiqa.archs.topiq_arch import CFANet

    options = {"use_ref": False, "pretrained": False, "backbone_pretrain": False}
    network = CFANet(**options, **SMALL["topiq_nr"])
    torch.save({"params": filled(network)}, folder / "file")
    return folder / "file"


def clip_file(folder: Path) -> Path:
    """Return a CLIP of ResNet blocks with few channels, whose vocabulary is the real one."""
    from pyiqa.archs.clip_model import CLIP

    network = CLIP(
        embed_dim=32,
        image_resolution=64,
        vision_layers=(1, 1, 1, 1),
        vision_width=8,
        vision_patch_size=None,
        context_length=77,
        vocab_size=49408,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=2,
    )
    archive = nn.Module()  # the published file is TorchScript; its tensors are read
    for name, value in filled(network).items():
        *path, last = name.split(".")
        place = archive
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.register_buffer(last, value)
    torch.jit.script(archive).save(str(folder / "file"))
    return folder / "file"


def forest(generator: np.random.Generator, features: int, trees: int = 3) -> dict[str, Any]:
    """Return trees with one node and two leaves, in the layout of Ma et al.'s file."""
    left, right = np.zeros((3, trees), np.int64), np.zeros((3, trees), np.int64)
    left[0], right[0] = 2, 3
    column = generator.integers(1, features + 1, (3, trees))
    threshold, answer = generator.random((3, trees)), 10 * generator.random((3, trees))
    names = ("ldau", "rdau", "status", "count", "threshold", "prediction", "attribute")
    return dict(zip(names, (left, right, left, left, threshold, answer, column), strict=True))


def ma_file(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    forests = np.empty((1, 3), object)
    for i, features in enumerate((18, 45, 75)):
        forests[0, i] = forest(generator, features)
    linear = np.array([[0.5], [0.2], [0.3], [0.4]])
    savemat(folder / "file.mat", {"model": {"linear": linear, "rf": forests}})
    return folder / "file.mat"


def pristine_file(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(36, 36, generator=generator, dtype=torch.float64)
    mean = torch.rand(36, generator=generator, dtype=torch.float64)
    save_niqe_model(folder / "file.npz", mean, root @ root.T / 36)
    return folder / "file.npz"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyiqa's networks are small, and timm has no pretrained weights."""
    import timm
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    for name, options in SMALL.items():
        opts = {**DEFAULT_CONFIGS[name]["metric_opts"], **options}
        monkeypatch.setitem(DEFAULT_CONFIGS[name], "metric_opts", opts)
    create = timm.create_model

    def create_small(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create_small)


MAKE: dict[str, Callable[[Path], dict[str, Path]]] = {
    "musiq": lambda folder: {"musiq_koniq": musiq_file(folder)},
    "clipiqa": lambda folder: {"clip_rn50": clip_file(folder)},
    "topiq_nr": lambda folder: {"topiq_koniq": topiq_file(folder)},
    "pi": lambda folder: {"nrqm": ma_file(folder), "niqe_pristine": pristine_file(folder)},
}


@pytest.fixture(params=MAKE)
def made(
    request: pytest.FixtureRequest,
    small: None,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[IQA, dict[str, Path]]:
    """A loaded metric and its files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        files = MAKE[request.param](tmp_path)
    put(place, monkeypatch, **files)
    metric = IQA(request.param)
    assert metric.absent() == ""
    metric.load()
    return metric, files


def theirs(metric: IQA, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return pyiqa's own metric of the same files."""
    import pyiqa
    from pyiqa.utils import download_util

    file = str(next(iter(files.values())))
    options: dict[str, Any] = {
        "musiq": {"pretrained_model_path": file},
        "clipiqa": {"backbone": file},
        "topiq_nr": {"pretrained_model_path": file, "backbone_pretrain": False},
    }.get(metric.metric, {})
    if metric.metric == "pi":
        cache = files["nrqm"].parent / "cache"
        cache.mkdir()
        (cache / "NRQM_model.mat").write_bytes(files["nrqm"].read_bytes())
        with np.load(files["niqe_pristine"]) as model:
            names = {"mu_prisparam": "mu_pris_param", "cov_prisparam": "cov_pris_param"}
            content = {name: model[key] for name, key in names.items()}
        savemat(cache / "niqe_modelparameters.mat", content)
        monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(cache))
    return pyiqa.create_metric(metric.metric, device="cpu", **options)


# ------------------------------------------------------------------------------- with the package


@needs_pyiqa
def test_as_pyiqa(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    metric, files = made
    images = images_of_files(2)

    values = metric.compute(images, images, keys(2))

    reference = theirs(metric, files, monkeypatch)
    expected = torch.stack([reference(image).reshape(()) for image in images.split(1)]).float()
    assert expected[0] != expected[1]
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)


@needs_pyiqa
def test_the_process_is_left_as_it_was(made: Any) -> None:
    metric, _ = made
    images = images_of_files(1)
    cudnn = torch.backends.cudnn
    generator = torch.get_rng_state()
    settings = (cudnn.deterministic, cudnn.benchmark)

    metric.load()
    metric.compute(images, images, keys(1))

    assert torch.equal(torch.get_rng_state(), generator)
    assert (cudnn.deterministic, cudnn.benchmark) == settings
