"""Metrics of pyiqa, against the package itself: `make test-iqa` installs it."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
import torch
import yaml
from scipy.io import savemat
from torch import nn

from callbacks.metrics import iqa
from callbacks.metrics.iqa import IQA
from files import manifest
from tests.make import keys, noisy, smooth
from tests.stand_ins import save_niqe_model

pyiqa = pytest.importorskip("pyiqa")
# Options that make pyiqa's networks small, for ours and for theirs.
SMALL = {
    "musiq": {"num_layers": 2, "mlp_dim": 64},
    "topiq_nr": {"semantic_model_name": "resnet18", "inter_dim": 64},
}


# ------------------------------------------------------------------- files of small random networks


def filled(network):
    """Return its state, with random numbers for values that its constructor leaves at 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    state = network.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            spread = value.detach().std() if value.numel() > 1 else torch.tensor(0.0)
            noise = torch.randn(value.shape, generator=generator)
            state[name] = value + noise * (0.02 + 0.2 * spread)
        if "running_var" in name:
            state[name] = state[name].abs()
    return state


def musiq_files(folder):
    from pyiqa.archs import musiq_arch

    network = musiq_arch.MUSIQ(pretrained=False, **SMALL["musiq"])
    torch.save(filled(network), folder / "file")
    return {"musiq-koniq": folder / "file"}


def topiq_files(folder):
    from pyiqa.archs.topiq_arch import CFANet

    options = {"use_ref": False, "pretrained": False, "backbone_pretrain": False}
    network = CFANet(**options, **SMALL["topiq_nr"])
    torch.save({"params": filled(network)}, folder / "file")
    return {"topiq-koniq": folder / "file"}


def clip_files(folder):
    """A CLIP of ResNet blocks with few channels, whose vocabulary is the real one."""
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
    return {"clip-rn50": folder / "file"}


def forest(generator, features):
    """Three trees of one node and two leaves, as columns, in the layout of Ma et al.'s file."""
    left = np.zeros((3, 3), np.int64)
    right = np.zeros((3, 3), np.int64)
    left[0] = 2
    right[0] = 3
    return {
        "ldau": left,
        "rdau": right,
        "status": left,
        "count": left,
        "threshold": generator.random((3, 3)),
        "prediction": 10 * generator.random((3, 3)),
        "attribute": generator.integers(1, features + 1, (3, 3)),
    }


def pi_files(folder):
    """Ma et al.'s forests, and a model of NIQE."""
    generator = np.random.default_rng(0)
    forests = np.empty((1, 3), object)
    for number, features in enumerate((18, 45, 75)):  # of each of the paper's three forests
        forests[0, number] = forest(generator, features)
    linear = np.array([[0.5], [0.2], [0.3], [0.4]])
    savemat(folder / "ma.mat", {"model": {"linear": linear, "rf": forests}})
    root = torch.from_numpy(generator.normal(size=(36, 36)))
    mean = torch.from_numpy(generator.random(36))
    save_niqe_model(folder / "niqe.npz", mean, root @ root.T / 36)
    return {"nrqm": folder / "ma.mat", "niqe-pristine": folder / "niqe.npz"}


MAKE = {"musiq": musiq_files, "clipiqa": clip_files, "topiq_nr": topiq_files, "pi": pi_files}


@pytest.fixture(params=MAKE)
def files(request, tmp_path, monkeypatch):
    """Name of a metric and its files, which are found as if they were the published ones."""
    import timm
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    for name, options in SMALL.items():
        arguments = {**DEFAULT_CONFIGS[name]["metric_opts"], **options}
        monkeypatch.setitem(DEFAULT_CONFIGS[name], "metric_opts", arguments)
    create = timm.create_model

    def create_without_pretrained_weights(name, pretrained=False, **options):
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create_without_pretrained_weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        files = MAKE[request.param](tmp_path)
    entries = yaml.safe_load(manifest.MANIFEST.read_text())
    weights = tmp_path / "weights"
    weights.mkdir()
    for name, file in files.items():
        content = file.read_bytes()
        (weights / entries[name]["file"]).write_bytes(content)
        if entries[name]["sha256"] is not None:
            entries[name]["sha256"] = hashlib.sha256(content).hexdigest()
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(manifest, "MANIFEST", tmp_path / "manifest.yaml")
    monkeypatch.setattr(manifest, "_torch_cache", lambda: tmp_path / "nowhere")
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(weights))
    manifest._fetch.cache_clear()
    iqa._warn_of_licence.cache_clear()
    iqa._warn_if_unverified.cache_clear()
    return request.param, files


@pytest.fixture
def ours(files):
    metric = IQA(files[0])
    assert metric.absent() == ""
    metric.load()
    return metric


@pytest.fixture
def theirs(files, tmp_path, monkeypatch):
    """pyiqa's own metric of the same files."""
    from pyiqa.utils import download_util

    name, paths = files
    file = str(next(iter(paths.values())))
    options = {
        "musiq": {"pretrained_model_path": file},
        "clipiqa": {"backbone": file},
        "topiq_nr": {"pretrained_model_path": file, "backbone_pretrain": False},
        "pi": {},
    }
    if name == "pi":
        cache = tmp_path / "cache"
        cache.mkdir()
        shutil.copy(paths["nrqm"], cache / "NRQM_model.mat")
        with np.load(paths["niqe-pristine"]) as model:
            content = {
                "mu_prisparam": model["mu_pris_param"],
                "cov_prisparam": model["cov_pris_param"],
            }
        savemat(cache / "niqe_modelparameters.mat", content)
        monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(cache))
    return pyiqa.create_metric(name, device="cpu", **options[name])


@pytest.fixture
def images():
    """Smooth images of integer levels with some noise."""
    images = noisy(smooth(2, (112, 208), cell=8))
    return (images * 255).round() / 255


def test_a_metric_has_the_values_of_pyiqa(ours, theirs, images):
    values = ours.compute(images, torch.zeros_like(images), keys(2))  # no metric here reads HR

    expected = torch.stack([theirs(image).reshape(()) for image in images.split(1)]).float()
    assert expected[0] != expected[1]
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)


def test_loading_and_computing_leave_the_random_state_and_cudnns_settings(
    ours, images, monkeypatch
):
    """pyiqa draws the weights that ours replace, and sets cuDNN."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", False)
    monkeypatch.setattr(cudnn, "benchmark", True)
    state = torch.get_rng_state()

    ours.load()
    ours.compute(images, images, keys(2))

    assert torch.equal(torch.get_rng_state(), state)
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)
