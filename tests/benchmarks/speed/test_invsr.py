"""The benchmark of InvSR measures the released networks."""

from __future__ import annotations

import torch

from benchmarks.speed import invsr
from benchmarks.speed.invsr import Case, build, parameters


def test_networks_of_width_1_have_as_many_parameters_as_the_released(monkeypatch):
    """Those of InvSR's predictor, and of SD-Turbo's U-Net and autoencoder."""
    prompt = invsr._prompt()  # it writes a file, which tensors of `meta` cannot
    monkeypatch.setattr(invsr, "_prompt", lambda: prompt)

    with torch.device("meta"):
        counts = parameters(build(Case("all"), width=1.0))

    assert counts == {"predictor": 33_837_576, "unet": 865_910_724, "autoencoder": 83_653_863}
