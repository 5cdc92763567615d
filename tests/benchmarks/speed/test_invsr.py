"""The benchmark of InvSR measures the released networks."""

from __future__ import annotations

import torch

from benchmarks.speed import invsr
from benchmarks.speed.invsr import Case, build, parameters


def test_networks_of_width_1_have_as_many_parameters_as_the_released(monkeypatch):
    """Else the benchmark would measure another model than InvSR.

    Its paper states 33.84 M for the predictor. SD-Turbo's U-Net and autoencoder are those of
    Stable Diffusion 2.1, 866 M and 84 M.
    """
    prompt = invsr._prompt()  # it writes a file, which tensors of `meta` cannot
    monkeypatch.setattr(invsr, "_prompt", lambda: prompt)

    with torch.device("meta"):  # without memory for the weights
        counts = parameters(build(Case("all"), width=1.0))

    assert counts == {"predictor": 33_837_576, "unet": 865_910_724, "autoencoder": 83_653_863}
