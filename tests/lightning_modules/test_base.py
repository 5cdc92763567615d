"""What every method gets: optimisers, keyed randomness, weights and checkpoints."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader

from callbacks.training.ema import EMA
from lightning_modules.base import ImageModel
from lightning_modules.methods.regression import Regression
from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.imdn import IMDN
from lightning_modules.optimisation import optimizer_of
from tests.datamodules.memory import trainer
from tests.lightning_modules.tiny import Model, batch_of

TRAINED = {
    *("net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias"),
    *("net.1.running_mean", "net.1.running_var", "net.1.num_batches_tracked"),
    *("tail.weight", "tail.bias"),
    *("whiten.running_mean", "whiten.running_var", "whiten.num_batches_tracked"),
    "seen",
}


def batches(count: int = 10) -> DataLoader[Any]:
    made = [batch_of(2, side=4 + 0 * i, name=f"b{i}") for i in range(count)]
    return DataLoader(made, batch_size=None, collate_fn=lambda batch: dict(batch))


def fitted(root: Path, *callbacks: Callback, model: Model | None = None, **settings: Any) -> Any:
    run = trainer(root, callbacks=list(callbacks), **{"max_epochs": 1} | settings)
    run.fit(model or Model(), batches())
    return run


class Line(ImageModel):
    """Plain gradient descent of one number by a different loss for each batch."""

    def __init__(self):
        super().__init__(1, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5))
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return (self.weight - batch["hr"].mean()).square()


class Drawing(Line):
    """Notes what it draws."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def training_step(self, batch, batch_idx):
        self.drawn.append(torch.rand(()).item())
        return super().training_step(batch, batch_idx)


def test_a_loader_of_ones_own_has_new_noise_in_each_epoch(tmp_path):
    """Of the same image, with the same seed; and torch's generator is not left seeded."""
    model = Drawing()
    torch.manual_seed(0)
    run = fitted(tmp_path, model=model, max_epochs=3)
    assert run.global_step == 30
    assert len({*model.drawn}) == 30
    found = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(found, torch.rand(()))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `Model`, after ten steps, with averages."""
    root = tmp_path_factory.mktemp("run")
    fitted(root, EMA(0.9)).save_checkpoint(root / "step.ckpt")
    return root / "step.ckpt"


class TestOptimizer:
    def test_schedules_are_stepped_once_a_step(self, tmp_path):
        def schedule(optimizer):
            return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

        model = Model(lr_scheduler=schedule)
        run = fitted(tmp_path, model=model, accumulate_grad_batches=2)
        (optimizer,) = run.optimizers
        assert optimizer.param_groups[0]["lr"] == 2e-4 * 0.5**5

    @pytest.mark.parametrize(
        ("accumulate", "settings"),
        [
            (1, {}),
            (4, {}),
            (5, {}),
            (12, {"max_epochs": 3}),
            (4, {"limit_train_batches": 6, "max_epochs": 2}),
            (4, {"gradient_clip_val": 0.01}),
            (4, {"precision": "bf16-mixed"}),
        ],
    )
    def test_an_epochs_end_steps_by_the_mean_of_what_is_left(self, tmp_path, accumulate, settings):
        settings = {"max_epochs": 1} | settings
        model, plain = Line(), Line()
        run = trainer(tmp_path, accumulate_grad_batches=accumulate, **settings)
        run.fit(model, batches())
        epoch = list(batches())[: settings.get("limit_train_batches", 10)]
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
        for start in [*range(0, len(epoch), accumulate)] * settings["max_epochs"]:
            optimizer.zero_grad()
            part = epoch[start : start + accumulate]
            torch.stack([plain.training_step(batch, 0) for batch in part]).mean().backward()
            if "gradient_clip_val" in settings:
                nn.utils.clip_grad_norm_(plain.parameters(), settings["gradient_clip_val"])
            optimizer.step()
        torch.testing.assert_close(model.weight, plain.weight)


def test_a_checkpoint_holds_what_trains_and_nothing_else(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    assert set(content["state_dict"]) == TRAINED
    assert content["model"] == "tests.lightning_modules.tiny.Model"
    averages = content["callbacks"]["EMA"]["weights"]
    assert set(averages) == {name for name in TRAINED if name.startswith(("net.0", "tail"))} | {
        "net.1.weight",
        "net.1.bias",
    }


class Odd(ImageModel):
    """Tied weights, parameters of its own, adapters inside a frozen network."""

    def __init__(self) -> None:
        super().__init__(2)
        self.own = nn.Parameter(torch.zeros(2))
        self.fixed = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("mean", torch.zeros(2))
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3, bias=False)})
        self.frozen.requires_grad_(False)
        self.frozen.source = ""
        self.frozen["two"].weight = self.frozen["one"].weight
        self.head = nn.Linear(3, 3)
        self.head.weight = self.frozen["one"].weight
        self.adapted = nn.ModuleDict({"base": nn.BatchNorm1d(3), "lora": nn.Linear(3, 1)})
        self.adapted["base"].requires_grad_(False)
        self.filter = nn.Module()
        self.filter.register_buffer("kernel", torch.ones(3))

    def training_step(self, batch: Any, batch_idx: int) -> None: ...


def test_checkpoint_keys_of_odd_ones():
    assert Odd().checkpoint_keys() == [
        *("own", "fixed", "mean"),
        *("first.weight", "first.bias", "second.weight", "second.bias"),
        *("head.weight", "head.bias"),
        *(f"adapted.base.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        *("adapted.base.num_batches_tracked", "adapted.lora.weight", "adapted.lora.bias"),
        "filter.kernel",
    ]


class TestLoadWeights:
    def test_official_by_the_methods_own_map(self, tmp_path):
        class Mapped(Model):
            def import_official(self, tensors):
                frozen = {k: v for k, v in self.state_dict().items() if k.startswith("frozen.")}
                return {k.removeprefix("net."): v for k, v in tensors.items()} | frozen

        own = {f"net.{k}": v + 1 for k, v in Model().state_dict().items() if k in TRAINED}
        torch.save(own, tmp_path / "w.pth")
        model = Mapped()
        model.load_weights(tmp_path / "w.pth")
        assert torch.equal(model.tail.weight, own["net.tail.weight"])

    def test_from_what_fits(self, tmp_path, caplog):
        half = EDSR(2, blocks=1, channels=8).state_dict()
        torch.save({"params": half | {"extra": torch.ones(2, 3)}}, tmp_path / "x2.pth")
        model = Regression(4, partial(EDSR, blocks=1, channels=8))
        first = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_weights(tmp_path / "x2.pth", strict=False)
        record = model.partly_loaded
        unequal = [k for k, v in model.state_dict().items() if not torch.equal(v, first[k])]
        assert record["taken"] == len(first) - 2
        assert len(unequal) == len(first) - 6  # as four are constants
        assert record["as initialised, as the file lacks them"] == [
            *("network.tail.0.2.weight 32x8x3x3", "network.tail.0.2.bias 32")
        ]
        assert record["of the file and not used"] == ["network.extra 2x3"]
        assert "network.tail.0.2.weight 32x8x3x3" in caplog.text
        with pytest.raises(ValueError, match=r"no tensor of .* fits"):
            Regression(4, IMDN).load_weights(tmp_path / "x2.pth", strict=False)

    def test_by_our_names_a_file_is_whole(self, tmp_path):
        torch.save({k: v for k, v in Model().state_dict().items() if k in TRAINED}, tmp_path / "w")
        with pytest.raises(ValueError, match=r"missing \(frozen\."):
            Model().load_weights(tmp_path / "w")


class Fixed(Model):
    """Returns what it is given."""

    def __init__(self, output: torch.Tensor, scale: float = 2.0) -> None:
        super().__init__(scale)
        self.output = output

    def restore(self, batch: Any, noise: Any) -> torch.Tensor:
        return self.output


class TestSteps:
    def test_clamped_float32(self):
        output = torch.linspace(-1, 2, 3 * 12 * 16).view(1, 3, 12, 16).bfloat16()
        sr = Fixed(output).enlarge(batch_of(1))["sr"]
        assert sr.dtype == torch.float32
        assert (sr.min(), sr.max()) == (0, 1)

    @pytest.mark.parametrize("shape", [(1, 3, 24, 16), (1, 1, 12, 16), (2, 3, 12, 16), (3, 12, 16)])
    def test_another_size(self, shape):
        made = "x".join(map(str, shape))
        message = rf"Fixed made {made} of a/0, expected 1x3x12x16: its scale is 2; set"
        with pytest.raises(ValueError, match=message):
            Fixed(torch.zeros(shape)).validation_step(batch_of(1), 0)


def test_infinity_is_no_good_image():
    """Clamped, it would be white, and nobody would know."""

    class Overflowing(Model):
        def restore(self, batch, noise):
            image = torch.full((len(batch["lr"]), 3, *batch["size"]), 0.5)
            image[:, 0], image[:, 1, 0] = torch.inf, -torch.inf
            return image

    sr = Overflowing().enlarge(batch_of())["sr"]
    assert sr[:, 0].isnan().all()
    assert sr[:, 1, 0].isnan().all()
    assert sr[:, 1, 1:].unique().tolist() == [0.5]


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimiser_reads_a_checkpoint_of_another_memory_layout(fused: bool) -> None:
    """A fused one takes weights and states in memory order, whatever their strides are."""
    found = []
    for layouts in ([torch.contiguous_format] * 2, [torch.contiguous_format, torch.channels_last]):
        state: Any = None
        for layout in layouts:  # of the run before, and of this one
            torch.manual_seed(0)
            net = nn.Conv2d(3, 4, 3).to(memory_format=layout)  # type: ignore[call-overload]
            optimizer = optimizer_of(partial(torch.optim.AdamW, fused=fused), net.parameters())
            if state is not None:
                optimizer.load_state_dict(state)
            net(torch.ones(1, 3, 5, 5).cumsum(1)).square().sum().backward()
            optimizer.step()
            state = copy.deepcopy(optimizer.state_dict())
        found.append(net.weight.detach().contiguous())
    torch.testing.assert_close(*found)
