"""`run.matmul_precision` and `trainer.benchmark`: by the device, as given, and put back."""

from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace

from commands.run.arithmetic import arithmetic
from commands.run.directory import RunOptions
from datamodules.base import CropSettings, SRDataModule
from datamodules.scales import Scales

# Precision of matrix products ("high" is TF32, "highest" float32), cuDNN's benchmark, and TF32 in
# convolutions.
TORCHS_OWN = ("highest", False, True)  # what torch begins with
EXACT = ("highest", False, False)
FAST = ("high", True, True)
WITHOUT_BENCHMARK = ("high", False, True)
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
        # cuDNN would time its algorithms again for each size.
        pytest.param(AMPERE, {"scales": Scales()}, WITHOUT_BENCHMARK, id="crops of many sizes"),
        pytest.param(AMPERE, {"benchmark": False}, WITHOUT_BENCHMARK, id="trainer.benchmark false"),
        pytest.param(AMPERE, {"deterministic": True}, EXACT, id="deterministic"),
        pytest.param(AMPERE, {"device": "cpu"}, TORCHS_OWN, id="cpu"),
        pytest.param(TURING, {}, TORCHS_OWN, id="a GPU without TF32"),
        pytest.param(AMPERE, {"command": "test"}, TORCHS_OWN, id="no training"),
        pytest.param(AMPERE, GIVEN, EXACT, id="no training, but as given"),
    ],
)
def test_only_training_on_tensor_cores_is_fast(monkeypatch, capability, settings, expected):
    """TF32 is faster and less exact than float32; an evaluation must not depend on the GPU.

    That is by default: arguments that are given count. After a command, torch's settings are back.
    """
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert settings_now() == TORCHS_OWN
    assert settings_within(**settings) == expected
    assert settings_now() == TORCHS_OWN
