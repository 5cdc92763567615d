"""Perceptual metrics: LPIPS, NIQE, and those of pyiqa."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import savemat
from skimage import data
from torch import Tensor, nn
from torchvision import models

from callbacks.metrics import iqa
from callbacks.metrics.iqa import IQA
from callbacks.metrics.niqe import NIQE, block_features, mean_and_covariance, read_model
from callbacks.metrics.perceptual import LPIPS, Perceptual
from files import manifest
from tests.make import as_tensor, keys, noisy, photograph, read, smooth, uniform
from tests.reference import niqe_numpy
from tests.stand_ins import save_niqe_model

BUILD = {"alex": models.alexnet, "squeeze": models.squeezenet1_1, "vgg": models.vgg16}
PUBLISHED = {"alex": "alexnet", "squeeze": "squeezenet", "vgg": "vgg16"}


class Network:
    """A network of random weights, as torchvision publishes it and as the package has it."""

    def __init__(self, name, folder):
        self.name = name
        self.file = folder / f"{name}.pth"
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            # Without the classifier's 120 million random weights, which do not matter.
            with torch.device("meta"):
                features = BUILD[name](weights=None).features
            features.to_empty(device="cpu")
            for parameter in features.parameters():
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            self.package = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)
        state = features.state_dict()
        names = self.package.net.state_dict()
        self.package.net.load_state_dict({key: state[key.split(".", 1)[1]] for key in names})
        published = {f"features.{key}": value for key, value in state.items()}
        torch.save(published | {"classifier.1.bias": torch.zeros(9)}, self.file)

    def loaded(self, cls, monkeypatch):
        """Our metric, or loss, with this file instead of the published one."""
        files = {PUBLISHED[self.name]: self.file}
        for module in ("base", "perceptual"):
            monkeypatch.setattr(f"callbacks.metrics.{module}.locate", files.__getitem__)
        metric = cls(self.name)
        metric.load()
        return metric


# VGG is as large as the others together ten times, and run like them.
@pytest.fixture(
    scope="module", params=["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)]
)
def network(request, tmp_path_factory):
    return Network(request.param, tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("size", [pytest.param((64, 80), marks=pytest.mark.slow), (33, 45)])
def test_distances_are_the_packages(network, monkeypatch, size):
    hr = uniform(2, 3, *size) * 2 - 1
    sr = uniform(2, 3, *size, seed=1) * 2 - 1
    ours = network.loaded(LPIPS, monkeypatch).network

    distances = ours.distances(ours(sr), ours(hr))

    with torch.no_grad():
        expected = network.package(sr, hr).flatten()
    torch.testing.assert_close(distances, expected, rtol=1e-6, atol=0)
    assert (distances > 0).all()


def test_images_are_rounded_as_those_of_files(network, monkeypatch):
    hr = uniform(3, 3, 33, 45)
    sr = noisy(hr, 0.1)

    values = network.loaded(LPIPS, monkeypatch).compute(sr, hr, keys(3))

    files = [(x * 255).round() / 255 * 2 - 1 for x in (sr, hr)]
    with torch.no_grad():
        expected = network.package(*files).flatten()
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=0)


def test_as_a_loss_it_has_the_packages_gradient(network, monkeypatch):
    hr = uniform(2, 3, 64, 80)
    sr = noisy(hr, 0.1).requires_grad_()
    theirs = sr.detach().clone().requires_grad_()
    loss = network.loaded(Perceptual, monkeypatch).train()  # in which nothing is dropped

    value = loss(sr, hr)
    value.sum().backward()

    expected = network.package(theirs * 2 - 1, hr * 2 - 1).flatten()
    expected.sum().backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(sr.grad, theirs.grad, rtol=1e-3, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in loss.parameters())


# ------------------------------ NIQE against the published number and a transcription of its paper


NAMES = ["astronaut", "coffee", "rocket"]


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=40)
    return np.array(Image.open(file))


def bicubic(image):
    whole = Image.fromarray(image)
    small = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.BICUBIC)
    return np.array(small.resize(whole.size, Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A model of parts of three photographs."""
    lumas = []
    for name in NAMES:
        image = getattr(data, name)()
        for left in range(0, image.shape[1] - 191, 64):
            lumas.append(niqe_numpy.luma(image[:288, left : left + 192]))
    features = block_features(torch.from_numpy(np.stack(lumas))).flatten(0, 1)
    mean, covariance = mean_and_covariance(features[None])
    path = tmp_path_factory.mktemp("niqe") / "mine.npz"
    save_niqe_model(path, mean[0], covariance[0])
    return path


def niqe(model, image, color=None):
    """Ours, of an image (H, W, 3) uint8."""
    metric = NIQE()
    metric.build([model])
    metric.color = color or metric.color
    return metric.measure(as_tensor(image), as_tensor(image), keys(1)).item()


def by_paper(model, luma, *precision):
    with np.load(model, allow_pickle=False) as file:
        return niqe_numpy.niqe(luma, file["mu_pris_param"], file["cov_pris_param"], *precision)


def test_baboon_is_the_published_number(data_root, weights_root):
    """MATLAB's release and BasicSR: 5.7296."""
    metric = NIQE()
    metric.build([weights_root / "niqe-pristine.npz"])
    baboon = read(data_root / "niqe/baboon.png")

    assert metric.measure(baboon, baboon, keys(1)).item() == pytest.approx(5.7296, abs=1e-3)


@pytest.mark.parametrize("change", [np.array, bicubic, jpeg])
@pytest.mark.parametrize("name", NAMES)
def test_as_the_paper_in_numpy(pristine, name, change):
    image = change(photograph(300, 300, name, corner=0))

    expected = by_paper(pristine, niqe_numpy.luma(image), np.float32)

    assert niqe(pristine, image) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["kodim01", "kodim02", "kodim05"])
def test_as_the_paper_in_float64(data_root, weights_root, name):
    """What float32 does to pixels matters in nearly flat areas, and may move a shape by a step."""
    model = weights_root / "niqe-pristine.npz"
    image = np.array(Image.open(data_root / f"kodak24/{name}.png").convert("RGB"))

    expected = by_paper(model, niqe_numpy.luma(image))

    assert niqe(model, image) == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_flat_blocks_as_in_numpy(pristine):
    """A flat block has no statistics (0 / 0): left out of the covariance, and of the means."""
    image = photograph(300, 300, "coffee", corner=0)
    image[:99, :99] = 128

    expected = by_paper(pristine, niqe_numpy.luma(image), np.float32)

    assert niqe(pristine, image) == pytest.approx(expected, rel=1e-4)


def test_the_luma_of_yiq(pristine):
    """As pyiqa has it: in [0, 255], where BT.601 is in [16, 235]."""
    image = photograph(300, 300, "coffee", corner=0)
    luma = np.round(image @ np.array([0.299, 0.587, 0.114]))

    expected = by_paper(pristine, luma, np.float32)

    assert niqe(pristine, image, "yiq") == pytest.approx(expected, rel=1e-4)
    assert niqe(pristine, image, "yiq") != niqe(pristine, image)


def test_a_model_with_a_pickle_is_refused(tmp_path):
    """It could run anything."""
    path = tmp_path / "bad.npz"
    np.savez(path, mu_pris_param=np.array([object()] * 36), cov_pris_param=np.eye(36))

    with pytest.raises(ValueError, match="pickle"):
        read_model(path)


# -------------------------------------------------------------------------------- Metrics of pyiqa


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
    left = np.zeros((3, trees), np.int64)
    right = np.zeros((3, trees), np.int64)
    left[0] = 2
    right[0] = 3
    column = generator.integers(1, features + 1, (3, trees))
    threshold = generator.random((3, trees))
    answer = 10 * generator.random((3, trees))
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
