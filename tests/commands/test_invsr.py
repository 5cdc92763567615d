"""InvSR by its commands: latents, a base, training with two optimisers, resuming, sampling."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

import main
from tests.commands.test_resume import assert_same, newest
from tests.conftest import REPO
from tests.small_sd import VAE

Enlarger = Callable[..., None]
Refusal = Callable[..., str]
SPACE = "{class_path: lightning_modules.KLSpace, init_args: {vae: sd, subfolder: vae}}"
PREDICTOR = """{class_path: lightning_modules.NoisePredictor,
      init_args: {widths: [32, 32], layers: 1, head_width: 16}}"""
UNET = """{in_channels: 4, out_channels: 4, block_out_channels: [16, 32], layers_per_block: 1,
          norm_num_groups: 8, down_block_types: [DownBlock2D, CrossAttnDownBlock2D],
          mid_block_type: UNetMidBlock2DCrossAttn, up_block_types: [CrossAttnUpBlock2D, UpBlock2D],
          attention_head_dim: 4, cross_attention_dim: 8}"""
REST = """
degradation: degradations.Bicubic
trainer:
  {accelerator: cpu, max_steps: 8, log_every_n_steps: 1, enable_progress_bar: false,
   enable_model_summary: false, logger: false, callbacks: [callbacks.PSNR, callbacks.EMA]}
data:
  class_path: datamodules.SRDataModule
  init_args:
    scale: 4
    batch_size: 2
    workers: 0
"""
READS = """    train: {class_path: datamodules.Latents, init_args: {urls: latents/*.tar}}
"""
ENCODE = f"""
model:
  class_path: lightning_modules.LatentRegression
  init_args:
    predictor: {PREDICTOR}
    space: {SPACE}
{REST}
    train: {{class_path: datamodules.Folder, init_args: {{root: PHOTOS}}}}
"""
BASE = f"""
model:
  class_path: lightning_modules.Diffusion
  init_args:
    space: {SPACE}
    timesteps: [0, 300]
    denoiser:
      class_path: lightning_modules.UNet2D
      init_args:
        network: {UNET}
{REST}{READS}
"""
INVSR = f"""
model:
  class_path: lightning_modules.InvSR
  init_args:
    predictor: {PREDICTOR}
    denoiser:
      class_path: lightning_modules.UNet2D
      init_args:
        flags: {{frozen: true}}
        network: {UNET}
    denoiser_weights: runs/base
    space: {SPACE}
    patch: 8
    training:
      adversarial_start: 3
      discriminator:
        class_path: lightning_modules.LatentDiscriminator
        init_args: {{widths: [32, 32], layers: [1, 1], heads: 4, text_width: null}}
      accumulate: 2
      clip: 1.0
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 1.0e-3, weight_decay: 0.0}}}}
    lr_scheduler: {{class_path: lightning_modules.WarmUp, init_args: {{warm_up: 5}}}}
{REST}{READS}
    test:
      photos: {{class_path: datamodules.Folder, init_args: {{root: PHOTOS, files: [3.png]}}}}
"""
FIT = ("fit", "--config", "invsr.yaml")


@pytest.fixture(scope="session")
def _whole(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """Return a folder with latents, a trained base and, as the run `whole`, trained InvSR."""
    folder = tmp_path_factory.mktemp("invsr")
    with torch.random.fork_rng(devices=[]):
        AutoencoderKL(**VAE).save_pretrained(folder / "sd" / "vae")
    for name, text in (("encode", ENCODE), ("base", BASE), ("invsr", INVSR)):
        (folder / f"{name}.yaml").write_text(text.replace("PHOTOS", str(photo_folder)))
    squares = ("--encode.crop", "32", "--encode.crops_per_image", "2", "--encode.pairs", "true")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main.main(["encode", "--config", "encode.yaml", "--encode.out", "latents", *squares])
        main.main(["fit", "--config", "base.yaml", "--trainer.max_steps", "2"])
        main.main([*FIT, "--run.name", "whole"])
    return folder


@pytest.fixture
def work(_whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of it as the working directory."""
    shutil.copytree(_whole, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


# ---------------------------------------------------------------------------------------- training


class Interruption(Callback):
    """Raise once, in the n-th batch of the run; armed by its class attributes."""

    place = ""
    batch = 0

    def _raise(self, place: str, trainer: Trainer) -> None:
        here = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if (place, here) == (Interruption.place, Interruption.batch):
            Interruption.place = ""
            raise RuntimeError("interrupted")

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._raise("before the batch", trainer)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        second = optimizer is trainer.optimizers[1]
        self._raise("between the optimisers" if second else "before the step", trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._raise("after the batch", trainer)


# 20 pairs of latents in batches of 2, of which 2 make a step: 5 steps an epoch, 8 in all.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "batch"),
    [
        ("before the batch", 12),  # within an accumulation, in the second epoch
        ("before the step", 8),  # the discriminator trains by now
        ("between the optimisers", 8),  # one of them has stepped, the other has not
        ("after the batch", 10),  # the last one of an epoch
    ],
)
def test_a_run_that_was_stopped(place: str, batch: int, work: Path, enlarger: Enlarger) -> None:
    """Both networks, both optimisers, the schedule and the averages, bit for bit."""
    command = (*FIT, "--run.name", "stopped", "--checkpoint.every_n_steps", "1")
    armed = (*command, "--trainer.callbacks+", f"{__name__}.Interruption")
    Interruption.place, Interruption.batch = place, batch
    with pytest.raises(RuntimeError, match="interrupted"):
        enlarger(*armed)
    assert newest("stopped")["global_step"] < 8
    enlarger(*armed)
    assert_same("stopped", "whole")


def test_what_a_checkpoint_of_two_optimisers_holds(work: Path) -> None:
    checkpoint = newest("whole")
    names = {name.partition(".")[0] for name in checkpoint["state_dict"]}
    assert names == {"predictor", "discriminator"}
    assert len(checkpoint["optimizer_states"]) == 2
    for state in checkpoint["optimizer_states"]:
        assert {int(parameter["step"]) for parameter in state["state"].values()} == {8}
    assert checkpoint["global_step"] == 8
    assert checkpoint["lr_schedulers"][0]["_last_lr"] == [1e-3]  # warmed up
    averages = checkpoint["callbacks"]["EMA"]["weights"]
    moved = [not torch.equal(averages[name], checkpoint["state_dict"][name]) for name in averages]
    assert moved
    assert all(moved)
    assert checkpoint["frozen"].keys() == {"denoiser", "space"}


@pytest.mark.slow
def test_after_sigkill(work: Path) -> None:
    more = ("--run.name", "killed", "--checkpoint.every_n_steps", "1")
    command = [sys.executable, str(REPO / "main.py"), *FIT, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(Path("runs/killed/checkpoints").glob("step-00000000[3-6].ckpt")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no checkpoint within two minutes"
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    shutil.rmtree("runs/whole")
    for name in ("killed", "whole"):
        subprocess.run([*command, "--run.name", name], env=environment, check=True)
    assert_same("killed", "whole")


# ---------------------------------------------------------------------------------------- sampling


def test_the_run_is_tested(work: Path, enlarger: Enlarger) -> None:
    enlarger("test", "--config", "invsr.yaml", "--run.name", "whole")
    (found,) = json.loads(Path("runs/whole/results.json").read_text())["results"]
    assert np.isfinite(found["value"])
    assert found["checkpoint"].endswith("step-000000008.ckpt (EMA), timesteps 200, patch 8")


@pytest.mark.slow
def test_options_of_sampling(work: Path, enlarger: Enlarger) -> None:
    """Each makes a different image, and is recorded beside it."""
    ramp = np.linspace(60, 190, 9 * 14 * 3).reshape(9, 14, 3).astype(np.uint8)
    Image.fromarray(ramp).save("image.png")
    asked = {
        "plain": (),
        "again": (),
        "steps": ("--model.init_args.sampling.steps", 3),
        "start": ("--model.init_args.sampling.start", 100),
        "color": ("--model.init_args.color_fix", "wavelet"),
        "mean": ("--model.init_args.sampling.deterministic", "true"),
    }
    made: dict[str, bytes] = {}
    for name, arguments in asked.items():
        enlarger(
            *("predict", "--config", "invsr.yaml", "--run.name", "whole", *arguments),
            *("--data.init_args.predict", "image.png", "--writer.folder", name),
        )
        with Image.open(next(Path(name).glob("*.png"))) as image:
            assert image.size == (56, 36)
            made[name] = image.tobytes()
    assert made["again"] == made["plain"]
    assert len(set(made.values())) == len(made) - 1
    line = json.loads(Path("steps/predictions.jsonl").read_text().splitlines()[0])
    assert line["options"]["model.init_args.sampling.steps"] == 3


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.slow
def test_what_does_not_fit(work: Path, refusal: Refusal) -> None:
    asked = {
        ("--model.init_args.sampling.start", 180): (
            "start at timestep 180",
            "set sampling.start to one of 250, 200, 150, 100",
        ),
        ("--model.init_args.sampling.timesteps", "[100,200]"): ("[100, 200]", "a falling list"),
        ("--data.init_args.scale", 2): (
            "holds LR images of scale 4",
            "data.init_args.scale is 2",
        ),
        ("--trainer.gradient_clip_val", 0.5): (
            "trainer.gradient_clip_val is 0.5",
            "set model.init_args.training.clip instead",
        ),
        ("--trainer.accumulate_grad_batches", 4): (
            "trainer.accumulate_grad_batches is 4",
            "set model.init_args.training.accumulate instead",
        ),
        ("--model.init_args.denoiser_weights", "runs/nowhere"): (
            "model.init_args.denoiser_weights is 'runs/nowhere'",
            "train it first",
        ),
        ("--model.init_args.denoiser_weights", "null"): (
            "needs a trained denoiser",
            "set its folder or denoiser_weights",
        ),
        ("--model.init_args.denoiser.init_args.flags.frozen", "false"): ("flags.frozen to true",),
    }
    for arguments, sentences in asked.items():
        sentence = refusal(*FIT, "--run.name", "other", *arguments)
        assert len(sentence.splitlines()) == 1, sentence
        for part in sentences:
            assert part in sentence


@pytest.mark.slow
def test_weights_that_are_no_good(work: Path, refusal: Refusal) -> None:
    """Files as released: only the predictor."""
    tensors = newest("whole")["state_dict"].items()
    prefix = "predictor."
    released = {k.removeprefix(prefix): v for k, v in tensors if k.startswith(prefix)}
    first = next(iter(released))
    torch.save({k: v for k, v in released.items() if k != first}, "short.pth")
    spoiled = released[first].clone()
    spoiled.view(-1)[0] = torch.nan
    torch.save({**released, first: spoiled}, "nan.pth")
    command = ("test", "--config", "invsr.yaml", "--run.name", "other", "--model.init_args.weights")
    sentence = refusal(*command, "short.pth")
    assert f"short.pth do not fit the model: 1 missing (predictor.{first})" in sentence
    sentence = refusal(*command, "nan.pth")
    assert "nan.pth has NaN or infinity in 1 of its tensors" in sentence
    assert "set another file" in sentence
