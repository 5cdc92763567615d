"""Cost of our training loop against a plain Lightning loop: `python -m benchmarks.speed.loop`.

Both train the same tiny network on the same batches, which are in memory already, so that nothing
but the loop is measured: ours logs six values at each step, shows its progress, measures its
throughput, reseeds for every batch and looks after checkpoints; the plain one only trains. They run
in turns in one process; the ratio is that of the medians over the turns. With glibc's allocator
as it is, either loop is at times a third slower from one run to the next, by where its tensors come
to lie; MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000 takes that away. On a
GPU both loops also bring the batch there, and numbers are in `loop_cuda.json`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks import report
from callbacks.training.progress import Progress
from callbacks.training.throughput import Throughput
from commands.run.checkpoints import Checkpoints
from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise

SEED = 0
WARM_UP = 50


def tiny_network() -> nn.Module:
    """Three convolutions, x2."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.PixelShuffle(2),
    )


class Ours(SuperResolver):
    """A method as one is written here, with six logged values."""

    def __init__(self) -> None:
        super().__init__(2.0)
        self.network = tiny_network()

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leave the seeds on the host, as the data module does."""
        images = {name: value for name, value in batch.items() if name != "seed"}
        moved = super().transfer_batch_to_device(images, device, dataloader_idx)
        return {**moved, "seed": batch["seed"]}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """An L1 step."""
        sr = self.network(batch["lr"])
        loss = functional.l1_loss(sr, batch["hr"])
        self.log("train/loss", loss, prog_bar=True)
        for number in range(5):
            self.log(f"train/value_{number}", loss)
        return loss

    def restore(self, batch: Any, noise: Noise) -> Tensor:
        """Enlarge."""
        restored: Tensor = self.network(batch["lr"])
        return restored


class Plain(LightningModule):
    """The same step in plain Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_network()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """An L1 step."""
        return functional.l1_loss(self.network(batch["lr"]), batch["hr"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as ours."""
        return torch.optim.Adam(self.parameters(), lr=2e-4, fused=True)


class Stopwatch(Callback):
    """Seconds from the end of the warm-up to the end of training."""

    def __init__(self) -> None:
        self.start = self.seconds = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Start when warm."""
        if trainer.global_step == WARM_UP:
            self.start = _now()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.seconds = _now() - self.start


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # or what was begun would not count
    return time.perf_counter()


def seconds(
    model: LightningModule,
    callbacks: list[Callback],
    steps: int,
    crop: int,
    folder: str,
    device: str = "cpu",
) -> float:
    """Time of ``steps`` steps after the warm-up, on 16 crops each."""
    batch: Any = {
        "key": [str(i) for i in range(16)],
        "seed": torch.arange(16),
        "size": (crop, crop),
        "lr": torch.rand(16, 3, crop // 2, crop // 2),
        "hr": torch.rand(16, 3, crop, crop),
    }
    batches: Any = [batch] * (WARM_UP + steps)
    loader: Any = DataLoader(batches, batch_size=None)
    stopwatch, with_extras = Stopwatch(), bool(callbacks)
    trainer = Trainer(
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=1,
        max_epochs=1,
        default_root_dir=folder,
        callbacks=[stopwatch, *callbacks],
        enable_progress_bar=with_extras,
        enable_checkpointing=with_extras,
        enable_model_summary=False,
        logger=TensorBoardLogger(folder) if with_extras else False,
        log_every_n_steps=50,
    )
    trainer.fit(model, loader)
    return stopwatch.seconds


def compare(steps: int, turns: int, crop: int, device: str = "cpu") -> dict[str, float]:
    """Both loops in turns."""
    ours: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(turns):
            callbacks = [Progress(), Throughput(), Checkpoints(every_n_minutes=0)]
            ours.append(seconds(Ours(), callbacks, steps, crop, folder, device))
            plain.append(seconds(Plain(), [], steps, crop, folder, device))
    return {
        "ours_ms_a_step": round(statistics.median(ours) / steps * 1e3, 4),
        "plain_ms_a_step": round(statistics.median(plain) / steps * 1e3, 4),
        "ratio": round(statistics.median(ours) / statistics.median(plain), 4),
        "least_ratio": round(min(ours) / min(plain), 4),
    }


def main() -> None:
    """Measure in turns and write the result."""
    parser = argparse.ArgumentParser(description="Time our training loop against a plain one.")
    parser.add_argument("--steps", type=int, default=500, help="timed steps of each turn")
    parser.add_argument("--turns", type=int, default=9, help="turns of each loop")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default=report.device(), help="by default what is there")
    arguments = parser.parse_args()

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    results: dict[str, Any] = {"steps": arguments.steps, "turns": arguments.turns}
    for crop in (96, 48):
        results[f"16 crops of {crop} px"] = compare(
            arguments.steps, arguments.turns, crop, arguments.device
        )
    report.write_report("loop", results, SEED, device=arguments.device)


if __name__ == "__main__":
    main()
