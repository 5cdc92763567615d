"""`run.matmul_precision` and `trainer.benchmark`: by the device, as given, and put back."""

from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace

from commands.run.arithmetic import arithmetic
from commands.run.directory import RunOptions
from datamodules.base import CropSettings, SRDataModule
from datamodules.scales import Scales

# Precision of matrix products, cuDNN's benchmark, and TF32 in convolutions.
TORCHS_OWN = ("highest", False, True)
EXACT = ("highest", False, False)
FAST = ("high", True, True)
WITHOUT_BENCHMARK = ("high", False, True)  # which would time each size of crops
AMPERE = (8, 0)  # the first compute capability with tensor cores for float32
TURING = (7, 5)
GIVEN = {"command": "test", "matmul_precision": "highest"}


def settings_now():
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32


def settings_within(
    device="cuda", command="fit", deterministic=None, benchmark=None, scales=None, **options
):
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer = SimpleNamespace(strategy=strategy)
    given = Namespace(deterministic=deterministic, benchmark=benchmark)
    data = SRDataModule(2, crops=CropSettings(scales=scales), crop_size=96)
    with arithmetic(RunOptions(**options), given, trainer, command, data):
        return settings_now()


@pytest.mark.parametrize(
    ("capability", "settings", "expected"),
    [
        pytest.param(AMPERE, {}, FAST, id="fit"),
        pytest.param(AMPERE, {"scales": Scales()}, WITHOUT_BENCHMARK, id="crops of many sizes"),
        pytest.param(AMPERE, {"benchmark": False}, WITHOUT_BENCHMARK, id="set by Lightning"),
        pytest.param(AMPERE, {"deterministic": True}, EXACT, id="deterministic"),
        pytest.param(AMPERE, {"device": "cpu"}, TORCHS_OWN, id="cpu"),
        pytest.param(TURING, {}, TORCHS_OWN, id="a GPU without TF32"),
        pytest.param(AMPERE, {"command": "test"}, TORCHS_OWN, id="no training"),
        pytest.param(AMPERE, GIVEN, EXACT, id="no training, but as given"),
    ],
)
def test_precision_and_benchmark_are_by_device_and_command_and_put_back(
    monkeypatch, capability, settings, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert settings_now() == TORCHS_OWN
    assert settings_within(**settings) == expected
    assert settings_now() == TORCHS_OWN
