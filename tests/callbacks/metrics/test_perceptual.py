"""LPIPS against its package; NIQE against the published number and a transcription of its paper."""

from __future__ import annotations

import io
import warnings

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn
from torchvision import models

from callbacks.metrics.niqe import NIQE, block_features, mean_and_covariance, read_model
from callbacks.metrics.perceptual import LPIPS, Perceptual
from tests.make import as_tensor, keys, noisy, photograph, uniform
from tests.reference import niqe_numpy
from tests.stand_ins import save_niqe_model

# ------------------------------------------------------------------------------------------ LPIPS

# Class and published name of each network of torchvision.
NETWORKS = {
    "alex": (models.alexnet, "alexnet"),
    "squeeze": (models.squeezenet1_1, "squeezenet"),
    "vgg": (models.vgg16, "vgg16"),
}


class Network:
    """A network of random weights, as torchvision publishes it and as the package has it."""

    def __init__(self, name, folder):
        make, published = NETWORKS[name]
        self.name = name
        self.files = {published: folder / f"{name}.pth"}
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            # Without the classifier's 120 million random weights, which do not matter.
            with torch.device("meta"):
                features = make(weights=None).features
            features.to_empty(device="cpu")
            for parameter in features.parameters():
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            self.package = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)
        state = features.state_dict()
        of_package = self.package.net.state_dict()
        for key in of_package:
            _, _, plain = key.partition(".")
            of_package[key] = state[plain]
        self.package.net.load_state_dict(of_package)
        published_state = {f"features.{key}": value for key, value in state.items()}
        published_state["classifier.1.bias"] = torch.zeros(9)
        torch.save(published_state, self.files[published])

    def loaded(self, cls, monkeypatch):
        """Our metric, or loss, with this file instead of the published one."""
        for module in ("base", "perceptual"):
            monkeypatch.setattr(f"callbacks.metrics.{module}.locate", self.files.__getitem__)
        metric = cls(self.name)
        metric.load()
        return metric


# VGG takes ten times as long as both others.
@pytest.fixture(
    scope="module", params=["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)]
)
def network(request, tmp_path_factory):
    return Network(request.param, tmp_path_factory.mktemp("weights"))


def test_lpips_of_unrounded_images_is_that_of_its_package(network, monkeypatch):
    hr = uniform(2, 3, 33, 45) * 2 - 1
    sr = uniform(2, 3, 33, 45, seed=1) * 2 - 1
    ours = network.loaded(LPIPS, monkeypatch).network

    distances = ours.distances(ours(sr), ours(hr))

    with torch.no_grad():
        expected = network.package(sr, hr).flatten()
    torch.testing.assert_close(distances, expected, rtol=1e-6, atol=0)
    assert (distances > 0).all()


def test_lpips_rounds_images_to_8_bits(network, monkeypatch):
    hr = uniform(3, 3, 33, 45)
    sr = noisy(hr, 0.1)
    metric = network.loaded(LPIPS, monkeypatch)

    values = metric.compute(sr, hr, keys(3))

    rounded_sr = (sr * 255).round() / 255
    rounded_hr = (hr * 255).round() / 255
    with torch.no_grad():
        expected = network.package(rounded_sr, rounded_hr, normalize=True).flatten()
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=0)


def test_lpips_as_a_loss_has_the_gradient_of_its_package(network, monkeypatch):
    hr = uniform(2, 3, 64, 80)
    sr = noisy(hr, 0.1).requires_grad_()
    loss = network.loaded(Perceptual, monkeypatch).train()  # its dropout stays off

    value = loss(sr, hr)

    expected = network.package(sr, hr, normalize=True).flatten()
    [gradient] = torch.autograd.grad(value.sum(), sr)
    [expected_gradient] = torch.autograd.grad(expected.sum(), sr)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in loss.parameters())


# ------------------------------------------------------------------------------------------- NIQE


def through_jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=40)
    return np.array(Image.open(file))


def halved_and_doubled(image):
    """A photograph of 300x300 pixels with less detail."""
    small = Image.fromarray(image).resize((150, 150), Image.Resampling.BICUBIC)
    return np.array(small.resize((300, 300), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """NIQE's model, of windows of three photographs."""
    lumas = []
    for image in (data.astronaut(), data.coffee(), data.rocket()):
        for left in range(0, image.shape[1] - 191, 64):
            lumas.append(niqe_numpy.luma(image[:288, left : left + 192]))
    features = block_features(torch.from_numpy(np.stack(lumas))).flatten(0, 1)
    mean, covariance = mean_and_covariance(features[None])
    path = tmp_path_factory.mktemp("niqe") / "mine.npz"
    save_niqe_model(path, mean[0], covariance[0])
    return path


def niqe(model, image, color="y"):
    """Our NIQE of an image (H, W, 3) uint8."""
    metric = NIQE()
    metric.build([model])
    metric.color = color
    tensor = as_tensor(image)
    return metric.measure(tensor, tensor, keys(1)).item()


def by_paper(model, luma, precision=np.float64):
    """NIQE by the transcription of the paper in numpy, which follows no code of ours."""
    with np.load(model) as file:
        mean = file["mu_pris_param"]
        covariance = file["cov_pris_param"]
    expected = niqe_numpy.niqe(luma, mean, covariance, precision)
    return pytest.approx(expected, rel=1e-4)


def test_niqe_of_baboon_is_the_published_number(data_root, weights_root):
    """MATLAB's release and BasicSR: 5.7296."""
    baboon = np.array(Image.open(data_root / "niqe/baboon.png").convert("RGB"))

    value = niqe(weights_root / "niqe-pristine.npz", baboon)

    assert value == pytest.approx(5.7296, abs=1e-3)


@pytest.mark.parametrize(
    "change", [np.array, halved_and_doubled, through_jpeg], ids=["unchanged", "less detail", "jpeg"]
)
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_niqe_is_that_of_the_paper_in_numpy(pristine, name, change):
    """In float32, in which ours keeps pixels: it matters in nearly flat areas."""
    image = change(photograph(height=300, width=300, name=name, corner=0))

    value = niqe(pristine, image)

    assert value == by_paper(pristine, niqe_numpy.luma(image), precision=np.float32)


@pytest.mark.parametrize("name", ["kodim01", "kodim02", "kodim05"])
def test_niqe_of_the_published_model_is_that_of_the_paper_in_float64(data_root, weights_root, name):
    """Ours keeps pixels in float32, which matters in nearly flat areas; here by less than 1e-4."""
    model = weights_root / "niqe-pristine.npz"
    image = np.array(Image.open(data_root / f"kodak24/{name}.png").convert("RGB"))

    value = niqe(model, image)

    assert value == by_paper(model, niqe_numpy.luma(image))


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_niqe_leaves_flat_blocks_out_as_in_numpy(pristine):
    """A flat block has no statistics (0 / 0): left out of the covariance, and of the means."""
    image = photograph(height=300, width=300, name="coffee", corner=0)
    image[:99, :99] = 128  # more than a block of 96 pixels

    value = niqe(pristine, image)

    assert value == by_paper(pristine, niqe_numpy.luma(image), np.float32)


def test_niqe_can_be_of_the_luma_of_yiq(pristine):
    """As pyiqa's: in [0, 255], where the default, Y of BT.601, is in [16, 235]."""
    image = photograph(height=300, width=300, name="coffee", corner=0)
    luma = np.round(image @ np.array([0.299, 0.587, 0.114]))

    value = niqe(pristine, image, "yiq")

    assert value == by_paper(pristine, luma, np.float32)
    assert value != niqe(pristine, image)


def test_a_model_of_niqe_with_a_pickle_is_refused(tmp_path):
    """Unpickling could run any code."""
    path = tmp_path / "bad.npz"
    pickled = np.array([object()] * 36)
    np.savez(path, mu_pris_param=pickled, cov_pris_param=np.eye(36))

    with pytest.raises(ValueError, match="pickle"):
        read_model(path)
