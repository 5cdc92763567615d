"""Speed of training: `python -m benchmarks.speed.training`, for the shipped networks.

Each row is `main.py fit` of a configuration, in a process of its own, on the photographs that come
with the environment: steps a second once it runs, seconds until its first step has ended, TFLOP a
step (matrix products and convolutions, forward and backward) and, on a GPU, their rate, its share
of the card's bf16 and memory. A step is counted, too: its operations, views left out, and the
convolutions whose images are not channels_last. `--profile` adds the ten longest kernels.
Frozen parts that others trained have random weights. Writes benchmarks/results/training_<row>.json,
of a GPU training_<row>_cuda.json, after each row.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import REPOSITORY, device, write_report

SETTINGS = "ENLARGER_TRAINING"  # variable with the settings of Measured, as JSON
COUNTED, WARM = 1, 8  # the batch that is counted; the first that is timed
PROFILED = 10  # batches at the end, which are not timed
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}  # TFLOP/s of dense bf16
PHOTOS = (
    "--data datamodules.SRDataModule --data.train datamodules.Photos --data.val null "
    "--data.scale 4 --data.crops.per_image 8"
)
RESSHIFT = f"resshift_natural {PHOTOS} --data.batch_size 64 --data.crop_size 256"
UNET = (  # SD-Turbo's
    "{block_out_channels: [320, 640, 1280, 1280], attention_head_dim: [5, 10, 20, 20], "
    "cross_attention_dim: 1024, use_linear_projection: true}"
)
VAE = (
    "{down_block_types: [DownEncoderBlock2D, DownEncoderBlock2D, DownEncoderBlock2D, "
    "DownEncoderBlock2D], up_block_types: [UpDecoderBlock2D, UpDecoderBlock2D, UpDecoderBlock2D, "
    "UpDecoderBlock2D], block_out_channels: [128, 256, 512, 512], layers_per_block: 2}"
)
# A configuration and what is set beside it: photographs for data, no weights of others.
ROWS = {
    "ResShift": RESSHIFT,
    "ResShift-compiled": f"{RESSHIFT} --model.network.compile true "
    "--degradation.init_args.compile true",
    "CasArbi": f"casarbi --model.base_weights {{runs}}/casarbi_base {PHOTOS} "
    "--data.batch_size 16 --data.crop_size 128",
    "Real-ESRGAN": "realesrgan_x4plus --model.weights null --model.losses "
    f"'{{l1: lightning_modules.L1}}' {PHOTOS} --data.batch_size 12 --data.crop_size 256",
    "InvSR": f"invsr_sd_turbo --model.denoiser.network '{UNET}' --model.space.vae '{VAE}' "
    "--model.prompt null --model.training '{perceptual: null, perceptual_weights: null, "
    f"discriminator: {{init_args: {{text_width: null}}}}}}' {PHOTOS} "
    "--data.batch_size 8 --data.crop_size 512",
    # With Infinity's smallest transformer; of the photographs, only retina has 1024 pixels.
    "NSARM": "nsarm_8b_stage2 --model.space_weights null --model.encoder null "
    "--model.transformer '{class_path: lightning_modules.InfinityTransformer, "
    "init_args: {depth: 12, width: 768, heads: 8}}' "
    f"--model.stage_two '{{mapper_weights: null, transformer_weights: null}}' {PHOTOS} "
    "--data.train.names [retina] --data.batch_size 4 --data.crop_size 1024 "
    "--trainer.strategy auto --trainer.accumulate_grad_batches 1",
}
# Trained before: a base that is farther from HR than bicubic is refused.
BASES = {"CasArbi": f"casarbi_base --model.noise_probability 0 --model.optimizer.lr 3e-4 {PHOTOS}"}


class Operations(TorchDispatchMode):
    """Count what torch dispatches but views, and convolutions of images in another layout."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.not_channels_last = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count it, and do it."""
        self.all += not func.is_view
        if func is torch.ops.aten.convolution.default and args[0].dim() == 4:
            last = args[0].is_contiguous(memory_format=torch.channels_last)
            self.not_channels_last += not last
        return func(*args, **(kwargs or {}))


class Measured(Callback):
    """Writes what a training takes; its settings are in the variable ``SETTINGS``."""

    def __init__(self) -> None:
        self.settings = json.loads(os.environ[SETTINGS])
        self.found: dict[str, Any] = {}
        self.modes = (FlopCounterMode(display=False), Operations())
        self.profile = profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU])
        self.begun, self.taken, self.batches = 0.0, 0.0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Name a source of frozen parts with random weights, which methods refuse."""
        for part in pl_module.modules():
            if getattr(part, "source", None) == "":
                cast(Any, part).source = "random"

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count one step, and time all from ``WARM`` on but the last ones."""
        if self.batches == COUNTED:
            for mode in self.modes:
                mode.__enter__()
        if self.batches == WARM:
            self.begun = _now()
        if self.batches == self.settings["steps"] - PROFILED:
            self.taken = _now() - self.begun
            if self.settings["profile"]:
                self.profile.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the count, and the training: a GAN's batch is two of Lightning's steps."""
        if self.batches == 0:
            self.found["first_step_s"] = round(time.time() - self.settings["started"], 1)
        if self.batches == COUNTED:
            for mode in reversed(self.modes):
                mode.__exit__(None, None, None)
        self.batches += 1
        trainer.should_stop = self.batches == self.settings["steps"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the numbers."""
        rate = (self.settings["steps"] - PROFILED - WARM) / self.taken
        flops, operations = self.modes
        tera = flops.get_total_flops() / 1e12
        self.found |= {
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "steps_a_second": round(rate, 3),
            "tflop_a_step": round(tera, 3),
            "tflop_a_second": round(tera * rate, 2),
            "operations": operations.all,
            "not_channels_last": operations.not_channels_last,
        }
        if torch.cuda.is_available():
            card = torch.cuda.get_device_name()
            peak = next((peak for name, peak in PEAKS.items() if name in card), None)
            self.found["share_of_bf16"] = peak and round(tera * rate / peak, 3)
            self.found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        if self.settings["profile"]:
            self.profile.stop()
            table = self.profile.key_averages()
            unit = "device" if torch.cuda.is_available() else "cpu"
            taken = {row.key: round(getattr(row, f"self_{unit}_time_total")) for row in table}
            longest = sorted(taken.items(), key=lambda kv: -kv[1])[:10]
            self.found["us_a_step"] = round(sum(taken.values()) / PROFILED)
            self.found["longest_us_a_step"] = {key: us // PROFILED for key, us in longest}
        Path(self.settings["out"]).write_text(json.dumps(self.found), encoding="utf-8")


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one row; what went wrong, where it failed or took longer than its limit."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        settings = {"out": str(out), "profile": options.profile, "steps": options.steps}
        os.environ[SETTINGS] = json.dumps(settings | {"started": time.time()})
        try:
            if name in BASES:
                _fit(BASES[name], folder, options, steps=500, callback="lightning.pytorch.Callback")
            callback = "benchmarks.speed.training.Measured"
            _fit(ROWS[name], folder, options, 2 * options.steps, callback)
        except subprocess.SubprocessError as error:
            return {"failed": str(error).rpartition("]' ")[2]}
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def _fit(row: str, folder: str, options: argparse.Namespace, steps: int, callback: str) -> None:
    config, *overrides = shlex.split(row.replace("{runs}", folder))
    command = [
        *(sys.executable, "main.py", "fit", "--config", f"configs/experiment/{config}.yaml"),
        *(*overrides, "--trainer.max_steps", str(steps), "--trainer.limit_val_batches", "0"),
        *("--trainer.val_check_interval", "null", "--trainer.logger", "false"),
        *("--trainer.accelerator", "gpu" if options.device == "cuda" else options.device),
        *("--trainer.devices", "1", "--trainer.precision", options.precision),
        *("--trainer.callbacks", callback, "--run.root", folder),
        *("--data.workers", str(options.workers), *shlex.split(options.more)),
    ]
    subprocess.run(command, cwd=REPOSITORY, timeout=options.limit, check=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Time training steps of the shipped networks.")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="these rows")
    parser.add_argument("--steps", type=int, default=60, help="batches of each training")
    parser.add_argument("--precision", default="bf16-mixed", help="of Lightning's trainer")
    parser.add_argument("--workers", type=int, default=8, help="of the loader")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a row gets")
    parser.add_argument("--profile", action="store_true", help="the ten longest kernels")
    parser.add_argument("--device", default=device(), help="cuda or cpu, by default what is there")
    parser.add_argument("--more", default="", help="further arguments of fit")
    options = parser.parse_args()
    for name in options.only:
        found = measure(name, options)
        write_report(f"training_{name.lower()}", found, 0, device=options.device)


if __name__ == "__main__":
    main()
