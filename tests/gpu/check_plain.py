"""Methods in Lightning's own Trainer on the pretended GPU, with a DataLoader of the user's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, default_collate

from callbacks.training.ema import EMA
from callbacks.training.guard import Guard
from lightning_modules.base import ImageModel
from lightning_modules.casarbi import CasArbi
from lightning_modules.diffusion import Diffusion
from lightning_modules.invsr import InvSR
from lightning_modules.one_pass.real_esrgan import RealESRGAN
from lightning_modules.one_pass.regression import Regression
from lightning_modules.resshift import ResShift
from tests.contracts.model_contract import batch_of
from tests.contracts.test_models import EXAMPLES
from tests.gpu.device import pretended_gpu
from tests.quick import quick

KINDS = (Regression, RealESRGAN, ResShift, Diffusion, CasArbi, InvSR)


def images(as_list: bool) -> list[dict[str, Any]]:
    """Samples as a user's own dataset has them."""
    whole = batch_of((8, 8), count=4)
    kept = ("key", "seed", "hr", "lr")
    found = [{name: whole[name][n] for name in kept} for n in range(4)]
    return [{**one, "seed": int(one["seed"])} for one in found] if as_list else found


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {**default_collate(samples), "size": tuple(samples[0]["hr"].shape[-2:])}


def made(kind: type[ImageModel], folder: Path) -> ImageModel:
    torch.manual_seed(0)
    make: Any = next(iter(EXAMPLES[kind].values()))
    method: ImageModel = make(2.0, folder)
    if isinstance(method, InvSR):
        method.denoiser.source = "trained"  # or it refuses to train
    return method


def run(folder: Path, method: ImageModel, accelerator: str, as_list: bool = False) -> list[Any]:
    """Train two steps, with a validation, and predict."""
    loader = DataLoader(images(as_list), batch_size=2, collate_fn=collate)  # type: ignore[arg-type]
    trainer = Trainer(
        default_root_dir=folder,
        accelerator=accelerator,
        devices=1,
        max_steps=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,  # under it, the device would not see the operations
        callbacks=[EMA(), Guard()],
    )
    trainer.fit(method, loader, loader)
    assert trainer.global_step == 2
    found: Any = trainer.predict(method, loader)
    return [batch["sr"].cpu() for batch in found]


@pytest.mark.parametrize("kind", quick(KINDS, RealESRGAN, ResShift))
def test_a_plain_trainer_trains_and_predicts(tmp_path: Path, kind: type[ImageModel]) -> None:
    expected = run(tmp_path / "cpu", made(kind, tmp_path), "cpu")
    with pretended_gpu(), warnings.catch_warnings():
        warnings.filterwarnings("error", "You have overridden")
        got = run(tmp_path / "gpu", made(kind, tmp_path), "gpu")
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


def test_seeds_are_integers_of_any_kind(tmp_path: Path) -> None:
    with pretended_gpu():
        tensors = run(tmp_path / "a", made(ResShift, tmp_path), "gpu")
        numbers = run(tmp_path / "b", made(ResShift, tmp_path), "gpu", as_list=True)
    assert all(map(torch.equal, tensors, numbers))
