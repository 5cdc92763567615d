"""Real-ESRGAN: a network trained against a discriminator that judges pixels.

Wang et al., ICCVW 2021 (arXiv 2107.10833), section 3.4. Two stages, which are two runs:

Real-ESRNet    L1 alone: this method without a discriminator
Real-ESRGAN    from its weights: L1, perceptual and adversarial loss, weighted 1, 1 and 0.1

y      HR image                              usm(y)   sharpened by an unsharp mask
x      network(LR), the output               D        discriminator, logits for each pixel

loss of the network         sum of weight x term(x, usm(y)), and gan.weight x gan(D(x))
loss of the discriminator   gan(D(y), D(x)): it sees HR that is not sharpened, as released

Any network and discriminator are arguments, and so are the terms: ``losses.py`` has them.
Differs from the released code in: only the network's learning rate has a schedule; the power
iterations of the spectral norms run in the discriminator's update alone. The degradation is a part
of the data: ``degradations.RealESRGAN``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from degradations.base import ieee_float32
from degradations.stages.sharpen import USM
from files.batch import Batch
from files.method import Averages
from lightning_modules.adversarial import Adversarial, frozen
from lightning_modules.losses import GAN, L1, Loss, Term, TrainedLoss
from lightning_modules.methods.regression import NetworkCallable, OnePass

RELEASED = GAN()


def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 1e-4 and momenta of 0.9 and 0.99, as released."""
    return torch.optim.Adam(parameters, lr=1e-4, betas=(0.9, 0.99), fused=True)


class RealESRGAN(Adversarial, OnePass):
    """Train a network by a sum of losses, against a discriminator.

    ``weights`` may be as released, and so may ``discriminator_weights``.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        network: The network: a class whose first argument is the scale, such as
            ``lightning_modules.RRDBNet``.
        losses: Terms of the loss, by names that are logged; null leaves one out. By default
            ``lightning_modules.L1`` alone.
        gan: The adversarial loss; only with a discriminator.
        sharpen: Compare outputs with HR sharpened by an unsharp mask. The discriminator always sees
            HR itself.
        discriminator_optimizer: Makes the discriminator's optimiser.
        optimizer: Makes the network's optimiser.
    """

    trained_parts = ("network", "discriminator", "losses")  # of losses each `TrainedLoss`
    training_only = ("discriminator.", "losses.")

    def __init__(
        self,
        scale: float,
        network: NetworkCallable,
        losses: dict[str, Loss | TrainedLoss | None] | None = None,
        gan: GAN = RELEASED,
        sharpen: bool = True,
        discriminator_optimizer: OptimizerCallable = adam,
        optimizer: OptimizerCallable = adam,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            scale,
            network=network,
            discriminator_optimizer=discriminator_optimizer,
            optimizer=optimizer,
            **kwargs,
        )
        losses = losses or {"l1": L1()}
        terms = {name: loss for name, loss in losses.items() if loss is not None}
        for name, loss in terms.items():
            if isinstance(loss, Loss):
                loss.refuse_training(f"model.init_args.losses.{name}")
        self.losses = nn.ModuleDict(terms)
        self.gan = gan
        self.usm = USM() if sharpen else None
        self._averages: list[Averages] = []  # callbacks that average the weights

    # ------------------------------------------------------------------------------------- training

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the weighted sum of all terms that count at this step."""
        hr = batch["hr"]
        step = self.global_step
        sr = self.enlarged_for(batch["lr"], hr, batch["size"])
        target = self.sharpened(hr)
        values = []
        for name, loss in self._terms.items():
            if step < loss.start:
                continue
            images = [sr, target]
            if loss.takes_average:
                images.append(self.averaged(batch))
            values.append(loss.weight * loss(*images))
            self.log(f"train/{name}", values[-1])
        if self.discriminator is not None and step >= self.gan.start:
            logits = self.discriminator(sr)
            values.append(self.gan.weight * self.gan.generator(logits))
            self.log("train/adversarial", values[-1])
        total = torch.stack(values).sum()
        self.log("train/loss", total)
        return total, (hr, sr.detach())

    def discriminator_loss(self, judged: Any) -> Tensor:
        """Return the discriminator's loss of HR and outputs."""
        real, fake = (cast(nn.Module, self.discriminator)(images) for images in judged)
        loss = self.gan.discriminator(real, fake)
        self.log("train/discriminator", loss)
        for name, maps in (("real", real), ("fake", fake)):
            self.log(f"train/logits_{name}", torch.stack([x.float().mean() for x in maps]).mean())
        return loss

    @property
    def _terms(self) -> Mapping[str, Term]:
        """The terms of the loss by name, with their type."""
        return cast("Mapping[str, Term]", self.losses)

    def on_fit_start(self) -> None:
        """Find the averages that a term needs.

        Raises:
            ValueError: If no callback averages the weights.
        """
        super().on_fit_start()
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        self._averages = [callback for callback in callbacks if isinstance(callback, Averages)]
        for name, loss in self._terms.items():
            if loss.takes_average and not self._averages:
                raise ValueError(
                    f"model.init_args.losses.{name} compares with averaged weights, and nothing "
                    "averages them: add callbacks.EMA to trainer.callbacks"
                )

    @torch.no_grad()
    def averaged(self, batch: Batch) -> Tensor:
        """Return the output of the averaged weights, (B, 3, H, W).

        Args:
            batch: Batch of ``training_step``.
        """
        averages = self._averages[0]
        averages.swap_in(self)
        try:
            with frozen(self.network):  # a pass in training mode would change running statistics
                return self(batch["lr"], batch["size"])
        finally:
            averages.swap_out()

    @torch.no_grad()
    def sharpened(self, hr: Tensor) -> Tensor:
        """Return usm(y) of HR (B, 3, H, W) in [0, 1]; HR itself without ``sharpen``."""
        if self.usm is None:
            return hr
        with torch.autocast(hr.device.type, enabled=False), ieee_float32(hr.device):
            return self.usm(hr, {})

    # -------------------------------------------------------------------------------------- weights

    def load_training_parts(self) -> None:
        """Load what losses need.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        super().load_training_parts()
        for name, loss in self._terms.items():
            # A term with a source is loaded already.
            if loss.file and not getattr(loss, "source", "") and self._find_weights is not None:
                loss.load(
                    self._find_weights(f"losses.{name}.init_args.perceptual_weights", loss.file)
                )

    def _fitted(
        self, where: str, state: dict[str, Tensor], required: set[str]
    ) -> dict[str, Tensor]:
        """As ``Loaded._fitted``, without terms that only the checkpoint has."""
        terms = tuple(f"losses.{name}." for name in self.losses)
        fitting = {
            name: tensor
            for name, tensor in state.items()
            if not name.startswith("losses.") or name.startswith(terms)
        }
        return super()._fitted(where, fitting, required)
