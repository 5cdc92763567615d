"""The benchmark of InvSR: official shapes, and times that belong to the right part."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed import invsr
from benchmarks.speed.invsr import CASES, ON_GPU, Case, Parts, build, measure, parameters, scaled


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)


def test_the_whole_width_is_the_release_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """SD-Turbo's 865,910,724 and 83,653,863 parameters, and the predictor's 33,837,576."""
    prompt = invsr._prompt()
    monkeypatch.setattr(invsr, "_prompt", lambda: prompt)
    with torch.device("meta"):
        found = parameters(build(Case("all"), 1.0))
    assert found == {"predictor": 33_837_576, "unet": 865_910_724, "autoencoder": 83_653_863}


def test_widths_stay_multiples_that_normalisations_take() -> None:
    assert [scaled(w, 0.1) for w in invsr.UNET] == [32, 64, 128, 128]
    assert [scaled(w, 0.1) for w in invsr.VAE] == [32, 32, 64, 64]
    assert scaled(256, 0.0) == 32


def test_times_belong_to_their_parts() -> None:
    now = [0.0]

    def taking(seconds: float) -> Any:
        return lambda *_: now.__setitem__(0, now[0] + seconds)

    vae = SimpleNamespace(encode=taking(1), decode=taking(2))
    predictor, unet = SimpleNamespace(forward=taking(4)), SimpleNamespace(forward=taking(8))
    model: Any = SimpleNamespace(
        space=SimpleNamespace(vae=vae), predictor=predictor, denoiser=SimpleNamespace(unet=unet)
    )
    parts = Parts(model, lambda: now[0])
    vae.encode()
    predictor.forward()
    unet.forward()
    unet.forward()
    vae.decode()
    assert parts.seconds == {"encode": 1, "predictor": 4, "unet": 16, "decode": 2}


def _rows() -> list[Any]:
    cases = [case for case in (*CASES, *ON_GPU) if not case.compiled]
    first, *others = [pytest.param(case, id=case.name) for case in cases]
    return [
        first,
        *(pytest.param(*case.values, id=case.id, marks=pytest.mark.slow) for case in others),
    ]


@pytest.mark.parametrize("case", _rows())
def test_a_row(case: Case) -> None:
    found = measure(case, 0.0, side=32, repeats=1)
    assert 0 < found["outside_networks"] < 1
    parts = sum(found[name] for name in ("encode", "predictor", "unet", "decode"))
    assert parts <= found["seconds"] + 1e-4
    assert found["unet"] > 0
    assert found["peak_mb"] >= found["start_mb"] > 0


@pytest.mark.slow
def test_what_changes_no_image() -> None:
    batch: Any = {"lr": torch.rand(1, 3, 32, 32), "size": (128, 128), "key": ["a"]}
    batch["seed"] = torch.tensor([0])
    made = []
    for case in CASES[0], CASES[2], CASES[4]:
        torch.manual_seed(0)
        with torch.inference_mode(), invsr._as(case, "cpu"):
            made.append(build(case, 0.0, patch=32).enlarge(batch)["sr"])
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=0, atol=1e-4)
