"""Metrics and the report of scales on the pretended GPU: waits of a batch of an evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models

from callbacks.metrics.base import Metric
from callbacks.metrics.fid import InceptionMetric
from callbacks.metrics.iqa import IQA
from callbacks.metrics.niqe import FEATURES, NIQE
from callbacks.metrics.perceptual import LPIPS
from callbacks.metrics.pixels import PSNR
from callbacks.metrics.sets import SetMetric
from callbacks.metrics.video import FVD, KVD, Flicker, FrameSWD
from callbacks.results.digests import hashes_of
from callbacks.results.files import read_file
from callbacks.results.results import Results
from callbacks.validation_images import ValidationImages
from tests.callbacks.tiny import Images, collate, trainer
from tests.contracts import discovery
from tests.contracts.arguments import build
from tests.contracts.test_callbacks import EXAMPLES as IMAGES
from tests.contracts.test_set_metrics import EXAMPLES as SETS
from tests.gpu.device import GPU, counted, pretended_gpu

# Most waits of a batch. May only fall; an image's metric that is not listed must not wait at all.
OF_SETS = 2  # features of outputs and of HR are kept on the host
LIMITS = {"NIQE": 1, "TorchMetric": 2, "Flicker": 5}  # the flow is computed on the host
CLIPS = (Flicker, FrameSWD)
# Networks that are files of the user, or of a package not tested here.
SKIPPED = (FVD, KVD, IQA)


class Clips(Images):
    """Clips of three frames in the place of images."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample | {"clip": torch.stack([sample["hr"]] * 3)}


def collate_with_clips(samples):
    batch = collate(samples)
    if "clip" in samples[0]:
        batch["clip"] = torch.stack([sample["clip"] for sample in samples])
    return batch


class Echo(LightningModule):
    """Its outputs are a darker HR, or clip."""

    def test_step(self, batch, batch_idx):
        assert batch["hr"].device == GPU
        return {"sr": batch.get("clip", batch["hr"]) * 0.9}


class Few(nn.Module):
    """Stands in for a large network: a few features of images, or distances of two."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, *images):
        features = [self.conv(image / 255).mean((2, 3)) for image in images]
        return features[0] if len(images) == 1 else (features[0] - features[1]).norm(dim=1)


class Begins(Callback):
    """First of the callbacks: begins to count the waits of the others after a batch."""

    def on_test_batch_start(self, trainer, model, batch, *_):
        batch["seed"] = batch["seed"].cpu()  # as the data module has it

    def on_test_batch_end(self, *_):
        self.counting = counted()
        self.waits = self.counting.__enter__()


class Ends(Callback):
    """Last of the callbacks."""

    def __init__(self, begins):
        self.begins = begins

    def on_test_batch_end(self, *_):
        self.begins.counting.__exit__(None, None, None)


def waits_of_a_batch(folder, model, data, *callbacks):
    """Those of the second of two batches, when tables are on the device."""
    begins = Begins()
    with pretended_gpu():
        # Under inference mode, the device would not see the operations.
        settings = {"accelerator": "gpu", "inference_mode": False}
        run = trainer(folder, begins, *callbacks, Ends(begins), **settings)
        batches = DataLoader(data, batch_size=2, collate_fn=collate_with_clips)
        run.test(model, batches, verbose=False)
    return begins.waits


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Files of random features, by the name of their network."""
    files = {}
    for name, make in (("squeezenet", models.squeezenet1_1), ("vgg16", models.vgg16)):
        files[name] = tmp_path_factory.mktemp(name) / f"{name}.pth"
        state = make().features.state_dict()
        torch.save({f"features.{key}": value for key, value in state.items()}, files[name])
    return files


@pytest.fixture
def _stand_ins(features, monkeypatch):
    """Random or small networks in the place of published ones."""

    def few(metric):
        metric.net = metric.network = Few().requires_grad_(False)

    def pristine(metric):
        metric.pristine = torch.zeros(FEATURES).double(), torch.eye(FEATURES).double()

    monkeypatch.setattr(InceptionMetric, "load", few)
    monkeypatch.setattr(NIQE, "load", pristine)
    for cls in (InceptionMetric, NIQE):
        monkeypatch.setattr(cls, "absent", lambda metric: "")
    monkeypatch.setattr("callbacks.metrics.base.locate", features.__getitem__)


@pytest.mark.usefixtures("_stand_ins")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "cls",
    [c for c in discovery.concrete_subclasses(Metric, "callbacks") if c not in SKIPPED],
    ids=lambda cls: cls.__name__,
)
def test_a_metric_waits_no_more_often_than_its_limit(cls, tmp_path):
    """A GPU is idle after a metric for which the host waits, in each batch of an evaluation."""
    examples = {LPIPS: lambda: LPIPS("squeeze"), **IMAGES, **SETS}
    default = OF_SETS if issubclass(cls, SetMetric) else 0
    side = 304 if "Patch" in cls.__name__ else 208  # more than crops of 299; four blocks of NIQE
    data = (Clips if cls in CLIPS else Images)(count=4, side=side)
    metric = build(cls, examples, "")

    waits = waits_of_a_batch(tmp_path, Echo(), data, metric)

    assert not math.isnan(metric.records[0]["value"])
    assert waits.total() <= LIMITS.get(cls.__name__, default), f"a batch waits:\n{waits}"


def test_hashes_of_hr_are_those_of_the_cpu_and_cost_no_wait(tmp_path):
    """By them results of two machines are known to be of the same images."""
    data = Images(count=4, side=9)

    waits = waits_of_a_batch(tmp_path, Echo(), data, PSNR(), Results())

    # A digest is the hash of HR, a space, and the detail of LR.
    stored = {row.image: row.digest.split()[0] for row in read_file(tmp_path / "images.json")}
    hashes = hashes_of(torch.stack([data[index]["hr"] for index in range(4)]))
    for key, expected in zip(data.keys, hashes.tolist(), strict=True):
        assert stored[key] == f"{expected:08x}"
    assert not waits, f"a batch waits:\n{waits}"


def test_validation_images_are_cut_out_on_the_device_without_a_wait():
    """They go to the host, for TensorBoard, only when the validation ends."""
    data = Images(count=2, side=64)
    with pretended_gpu():
        batch = collate([data[0], data[1]])
        batch["lr"] = batch["lr"].to(GPU)
        batch["hr"] = batch["hr"].to(GPU)
        second = slice(1, 2)
        with counted() as waits:
            sr = batch["hr"][second] * 0.9
            images = ValidationImages(side=32)._middles(sr, batch, second)

        assert {image.device for image in images.values()} == {GPU}
    assert not waits, f"a batch waits:\n{waits}"
