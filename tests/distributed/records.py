"""Records of the crops that each process trained on, written by a callback; newest checkpoints."""

import json
import time
from collections import Counter
from pathlib import Path

import torch
from lightning.pytorch import Callback


class Record(Callback):
    """Write one line a step and process: which crops it took; and be slow, to be killed in time.

    Args:
        folder: Where ``rank-N.jsonl`` goes.
        seconds: Time that each step takes longer.
        images: Also keep the LR crops.
    """

    def __init__(self, folder: str, seconds: float = 0.0, images: bool = False):
        self.folder = Path(folder)
        self.seconds = seconds
        self.images = images

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Write the line, which a later one of the same step replaces."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rank = trainer.global_rank
        seeds = batch["seed"].tolist()
        line = {
            "at": time.time_ns(),
            "step": trainer.global_step,
            "rank": rank,
            "world": trainer.world_size,
            "crops": list(zip(batch["key"], seeds, strict=True)),
        }
        if self.images:
            images = dict(zip(seeds, batch["lr"], strict=True))
            torch.save(images, self.folder / f"step-{trainer.global_step}-rank-{rank}.pt")
        with (self.folder / f"rank-{rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(self.seconds)


def lines_of(path):
    """The lines of a process, without one that it has only begun."""
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def steps_of(folder, rank):
    """The steps that a process has done, in order, with repeated ones."""
    return [line["step"] for line in lines_of(folder / f"rank-{rank}.jsonl")]


def global_batches(folder):
    """The crops of each step over all processes, the last time it was done."""
    lines = [line for path in folder.glob("rank-*.jsonl") for line in lines_of(path)]
    latest = {}
    for line in sorted(lines, key=lambda line: line["at"]):
        of_step = latest.setdefault(line["step"], {})
        if any(other["world"] != line["world"] for other in of_step.values()):
            of_step.clear()  # the run went on with another number of processes
        of_step[line["rank"]] = line
    return {
        step: Counter(tuple(crop) for line in of_step.values() for crop in line["crops"])
        for step, of_step in sorted(latest.items())
    }


def images_of(folder, step):
    """The LR crops of a step over all processes, by seed."""
    images = {}
    for path in folder.glob(f"step-{step}-rank-*.pt"):
        images |= torch.load(path, weights_only=True)
    return images


def newest(run):
    """The newest checkpoint of a run."""
    path = max((run / "checkpoints").glob("step-*.ckpt"))
    return torch.load(path, weights_only=True)


def assert_same(a, b):
    """Assert that two checkpoints have the same bits."""
    assert a["lr_schedulers"] == b["lr_schedulers"]
    for part in ("state_dict", "optimizer_states", "callbacks", "global_step"):
        torch.testing.assert_close(a[part], b[part], rtol=0, atol=0, msg=f"{part} differs")
