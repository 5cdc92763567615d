"""What ResShift takes HR for at each timestep: from a mixture as in training, and along its chain.

Where the second error grows from step to step and the first does not, outputs lose by what each
step makes of the one before it; where both are large at the last steps, the network does not keep
what it is given, and that is for a longer training or a larger network.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from files.owned import write_whole
from lightning_modules.latents import latent_pair
from lightning_modules.resshift import ResShift
from lightning_modules.sampling.solvers import residual_shift

FILE = "chain.json"
MIXED, CHAINED, START = "mixed", "chained", "start"


class Chain(Callback):
    """Write mean squared errors of predicted HR, in the diffusion's space, to ``chain.json``.

    ``mixed`` has one for each timestep from the first one sampled on, of noise that HR was mixed
    with; ``chained`` the same of what sampling has there; ``start`` that of the enlarged LR. Models
    other than ResShift are passed over.
    """

    def __init__(self) -> None:
        self._found: dict[str, list[Tensor]] = defaultdict(list)
        self._written = False

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure on the pictures of one batch."""
        # Its noise is the pictures': what a further seed of sampling would give is the same.
        if type(pl_module) is ResShift and not self._written:
            for name, errors in chain(pl_module, batch).items():
                self._found[name].append(errors)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the means over all pictures."""
        if self._found and not self._written:
            self._written = True
            found = {name: torch.cat(parts).mean(0).tolist() for name, parts in self._found.items()}
            write_whole(Path(trainer.default_root_dir, FILE), json.dumps(found, indent=1))


@torch.no_grad()
def chain(model: ResShift, batch: Any) -> dict[str, Tensor]:
    """The errors of a batch.

    Args:
        model: Trained.
        batch: With HR and LR.

    Returns:
        (B, steps) of ``mixed`` and ``chained``, (B, 1) of ``start``.
    """
    z, y = latent_pair(model.space, batch)
    process, lr = model.sampled, batch["lr"] * 2 - 1
    draws = torch.Generator().manual_seed(int(batch["seed"][0]))

    def noise() -> Tensor:
        return torch.randn(z.shape, generator=draws).to(z)

    def predicted(x: Tensor, step: int) -> Tensor:
        t = torch.full((len(x),), process.timesteps[step], device=x.device)
        return process.to_x0(model.network(process.scale_input(x, step), t, lr), x, step, y)

    def error(x0: Tensor) -> Tensor:
        return (x0 - z).square().flatten(1).mean(1)

    mixed, chained = [], []
    x = process.prior(y, noise())
    for step in reversed(range(process.steps)):
        t = torch.full((len(z),), step, device=z.device)
        mixed.append(error(predicted(process.add_noise(z, y, noise(), t), step)))
        x0 = predicted(x, step)
        chained.append(error(x0))
        fresh = noise() if step else None
        x = residual_shift(x, x0, process.eta(step), process.eta(step - 1), process.kappa, fresh)
    return {
        MIXED: torch.stack(mixed, 1),
        CHAINED: torch.stack(chained, 1),
        START: error(y)[:, None],
    }
