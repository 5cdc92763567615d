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
        ((8, 0), {}, FAST),  # Ampere: the first with tensor cores for float32
        # Crops of many sizes: cuDNN would time each.
        ((8, 0), {"scales": Scales()}, ("high", False, True)),
        ((7, 5), {}, TORCHS_OWN),  # Turing
        ((9, 0), {"command": "test"}, TORCHS_OWN),  # only training is fast by default
        ((9, 0), {"device": "cpu"}, TORCHS_OWN),
        ((9, 0), {"deterministic": True}, EXACT),
        ((9, 0), {"command": "test", "matmul_precision": "highest"}, EXACT),
        ((9, 0), {"benchmark": False}, ("high", False, True)),  # Lightning has set it
    ],
)
def test_precision_and_benchmark_are_by_device_and_command_and_put_back(
    monkeypatch, capability, settings, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert settings_now() == TORCHS_OWN
    assert settings_within(**settings) == expected
    assert settings_now() == TORCHS_OWN
