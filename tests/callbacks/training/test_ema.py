"""EMA: the formula, what counts as a step, the swap, checkpoints, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor, nn

from callbacks.training.ema import EMA
from tests.callbacks.tiny import Tiny, loader, trainer


class Note(Callback):
    """Record the trained weight after each batch, and the one that validation used."""

    def __init__(self) -> None:
        self.raw: list[Tensor] = []
        self.seen: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.raw.append(pl_module.net.weight.detach().clone())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.raw.append(pl_module.net.weight.detach().clone())

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        self.seen.append(pl_module.net.weight.detach().clone())


def reference(weights: list[Tensor], decay: float, first: int | None = 0) -> Tensor:
    """Return the average of weights[1:], starting at weights[0], in float64."""
    average = weights[0].double()
    for n, weight in enumerate(weights[1:], first or 0):
        d = decay if first is None else min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * weight.double()
    return average


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("decay", "first"), [(0.3, 0), (0.999, 0), (0.9, 1), (0.9, None)])
def test_the_formula_with_its_warm_up(tmp_path: Path, decay: float, first: int | None) -> None:
    """0.3 is reached after 5 steps; InvSR's warm-up counts from 1, ResShift has none."""
    note, ema = Note(), EMA(decay, first=first)
    trainer(tmp_path, note, ema, max_epochs=3).fit(Tiny(), loader())
    assert ema.updates == len(note.raw) - 1 == 12
    close(ema.state_dict()["weights"]["net.weight"], reference(note.raw, decay, first))


def test_another_model_starts_anew(tmp_path: Path) -> None:
    ema = EMA()
    for _ in range(2):
        note = Note()
        trainer(tmp_path, note, ema, max_epochs=1).fit(Tiny(), loader())
        assert ema.updates == 4
        close(ema.state_dict()["weights"]["net.weight"], reference(note.raw, 0.999))


def test_a_second_fit_goes_on_with_one_update_a_step(tmp_path: Path) -> None:
    note, ema, model = Note(), EMA(), Tiny()
    trainer(tmp_path, note, ema, max_epochs=2).fit(model, loader())
    del note.raw[-1]  # noted again when the second one starts
    trainer(tmp_path, note, ema, max_epochs=1).fit(model, loader())
    assert ema.updates == len(note.raw) - 1 == 12
    close(ema.state_dict()["weights"]["net.weight"], reference(note.raw, 0.999))


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    note, ema = Note(), EMA()
    model = Tiny()
    trainer(tmp_path, note, ema, accumulate_grad_batches=2, max_epochs=2).fit(model, loader())
    assert ema.updates == 4
    distinct = [w for i, w in enumerate(note.raw) if i == 0 or not torch.equal(w, note.raw[i - 1])]
    close(ema.state_dict()["weights"]["net.weight"], reference(distinct, 0.999))


def test_only_validation_in_fit_sees_the_average(tmp_path: Path) -> None:
    note, ema, model = Note(), EMA(), Tiny()
    run = trainer(tmp_path, note, ema, max_epochs=2)
    run.fit(model, loader(), loader(batch_size=7))
    close(note.seen[0], reference(note.raw[:5], 0.999))
    close(note.seen[1], reference(note.raw, 0.999))
    assert torch.equal(model.net.weight, note.raw[-1])
    run.validate(model, loader(batch_size=7), verbose=False)
    assert torch.equal(note.seen[-1], note.raw[-1])


class Fails(Callback):
    def on_validation_batch_end(self, *_: Any) -> None:
        raise RuntimeError("planned")


def test_an_exception_in_validation_puts_the_weights_back(tmp_path: Path) -> None:
    note, ema, model = Note(), EMA(), Tiny()
    saver = OnExceptionCheckpoint(tmp_path, "broken")
    run = trainer(tmp_path, saver, note, ema, Fails(), enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="planned"):
        run.fit(model, loader(), loader())
    assert torch.equal(model.net.weight, note.raw[-1])
    saved = torch.load(tmp_path / "broken.ckpt", weights_only=True)
    assert torch.equal(saved["state_dict"]["net.weight"], note.raw[-1])
    close(saved["callbacks"]["EMA"]["weights"]["net.weight"], reference(note.raw, 0.999))


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_checkpoint_written_while_swapped_holds_raw_weights(
    tmp_path: Path, weights_only: bool
) -> None:
    class SavesEarly(Callback):
        def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "early.ckpt", weights_only)

    note, model = Note(), Tiny()
    trainer(tmp_path, note, EMA(), SavesEarly()).fit(model, loader(), loader())
    state = torch.load(tmp_path / "early.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["net.weight"], note.raw[-1])
    assert not torch.equal(note.seen[-1], note.raw[-1])  # the weights were swapped
    assert torch.equal(model.state_dict()["net.weight"], note.raw[-1])
    assert not model._state_dict_hooks


def fit(folder: Path, epochs: int, ckpt: Path | None = None, *more: Callback) -> EMA:
    ema = EMA(0.9)
    saver = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True)
    run = trainer(folder, *more, ema, saver, max_epochs=epochs, enable_checkpointing=True)
    run.fit(Tiny(), loader(), loader(), ckpt_path=ckpt)
    return ema


def test_resuming_is_exact_and_the_file_holds_plain_trained_tensors(tmp_path: Path) -> None:
    uninterrupted = fit(tmp_path / "whole", 4)
    fit(tmp_path / "parts", 2)
    checkpoint = tmp_path / "parts/last.ckpt"
    state = torch.load(checkpoint, weights_only=True)["callbacks"]["EMA"]
    assert set(state) == {"weights", "updates", "decay", "step"}
    assert set(state["weights"]) == {"net.weight", "net.bias"}  # nothing frozen
    assert (state["updates"], state["step"], state["decay"]) == (8, 8, 0.9)
    resumed = fit(tmp_path / "parts", 4, checkpoint)
    torch.testing.assert_close(resumed.state_dict(), uninterrupted.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_between_a_step_and_its_average_resumes_exactly(tmp_path: Path) -> None:
    class FailsBeforeEMA(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 6:
                raise RuntimeError("planned")

    folder = tmp_path / "parts"
    saver = OnExceptionCheckpoint(folder, "broken")
    with pytest.raises(RuntimeError, match="planned"):
        fit(folder, 2, None, FailsBeforeEMA(), saver)
    saved = torch.load(folder / "broken.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    assert saved["callbacks"]["EMA"]["updates"] == 5

    ema, seven = EMA(0.9), Note()
    run = trainer(folder, seven, ema, max_steps=7, max_epochs=-1)
    run.fit(Tiny(), loader(), ckpt_path=folder / "broken.ckpt")
    six = Note()
    trainer(tmp_path, six, max_steps=6, max_epochs=-1).fit(Tiny(), loader())
    assert torch.equal(seven.raw[0], six.raw[6])
    assert ema.updates == 7
    close(ema.state_dict()["weights"]["net.weight"], reference([*six.raw, seven.raw[-1]], 0.9))


def test_averages_of_another_network(tmp_path: Path) -> None:
    fit(tmp_path, 1)
    ema = EMA()
    ema.load_state_dict(torch.load(tmp_path / "last.ckpt")["callbacks"]["EMA"])
    model = Tiny()
    model.frozen.requires_grad_(True)
    with pytest.raises(ValueError, match=r"the 4 trained .* 2 are missing.*\(frozen.bias, "):
        trainer(tmp_path, ema).fit(model, loader())


def test_bfloat16_weights_are_averaged_in_float32() -> None:
    ema, module = EMA(0.999), nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    module.weight.data.fill_(1)
    ema.track(module)
    ema.updates = 10**6
    module.weight.data.fill_(2)
    for _ in range(100):
        ema.update()
    average = ema.state_dict()["weights"]["weight"]
    assert average.dtype == torch.float32
    assert average.item() == pytest.approx(2 - 0.999**100, abs=1e-5)
    ema.swap_in(module)
    assert module.weight.dtype == torch.bfloat16
    ema.swap_out()
    assert module.weight.item() == 2


def test_tied_parameters_are_under_all_their_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.b = nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

    ema, module = EMA(), Tied()
    raw = module.a.weight.detach().clone()
    ema.track(module)
    weights = ema.state_dict()["weights"]
    assert weights["a.weight"] is weights["b.weight"]
    weights["a.weight"].zero_()
    ema.swap_in(module)
    assert all(torch.equal(value, raw) for value in module.state_dict().values())
    ema.swap_out()
