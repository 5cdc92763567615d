"""Records of the crops that each process trained on, written by a callback."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Record(Callback):
    """Write one line a step and process: which crops it took; and be slow, to be killed in time.

    Args:
        folder: Where ``rank-N.jsonl`` goes.
        seconds: Time that each step takes longer.
        images: Also keep the LR crops.
    """

    def __init__(self, folder: str, seconds: float = 0.0, images: bool = False) -> None:
        self.folder, self.seconds, self.images = Path(folder), seconds, images

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the line, which a later one of the same step replaces."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {
            "at": time.time_ns(),
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "rank": trainer.global_rank,
            "world": trainer.world_size,
            "crops": list(zip(batch["key"], batch["seed"].tolist(), strict=True)),
        }
        if self.images:
            name = f"step-{trainer.global_step}-rank-{trainer.global_rank}.pt"
            torch.save(
                dict(zip(batch["seed"].tolist(), batch["lr"], strict=True)), self.folder / name
            )
        with (self.folder / f"rank-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(self.seconds)


def steps_of(folder: Path, rank: int) -> list[int]:
    """Return the steps that a process has done, in order, with repeated ones."""
    path = folder / f"rank-{rank}.jsonl"
    if not path.is_file():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line)["step"] for line in whole.splitlines() if line]


def global_batches(folder: Path) -> dict[int, Counter[tuple[str, int]]]:
    """Return the crops of each step over all processes, the last time it was done."""
    lines = [
        json.loads(text)
        for path in folder.glob("rank-*.jsonl")
        for text in path.read_text().splitlines()
    ]
    latest: dict[int, dict[int, Any]] = {}
    for line in sorted(lines, key=lambda line: line["at"]):
        of_step = latest.setdefault(line["step"], {})
        if any(other["world"] != line["world"] for other in of_step.values()):
            of_step.clear()  # the run went on with another number of processes
        of_step[line["rank"]] = line
    return {
        step: Counter(tuple(crop) for line in lines.values() for crop in line["crops"])
        for step, lines in sorted(latest.items())
    }


def images_of(folder: Path, step: int) -> dict[int, torch.Tensor]:
    """Return the LR crops of a step over all processes, by seed."""
    found: dict[int, torch.Tensor] = {}
    for path in folder.glob(f"step-{step}-rank-*.pt"):
        found |= torch.load(path, weights_only=True)
    return found


def newest(run: Path) -> dict[str, Any]:
    """Return the newest checkpoint of a run."""
    path = sorted((run / "checkpoints").glob("step-*.ckpt"))[-1]
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Assert that two checkpoints have the same bits."""
    assert a["lr_schedulers"] == b["lr_schedulers"]
    for part in ("state_dict", "optimizer_states", "callbacks", "global_step"):
        torch.testing.assert_close(a[part], b[part], rtol=0, atol=0, msg=f"{part} differs")
