"""Two optimisers in turns: against a plain loop, under accumulation, AMP, Guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.utils.data import DataLoader

from callbacks.training.ema import EMA
from callbacks.training.guard import Guard
from lightning_modules.adversarial import hinge_discriminator, hinge_generator
from tests.callbacks.tiny import Images, collate, trainer
from tests.lightning_modules.judged import Judged


def batches(count: int, size: int = 2) -> DataLoader[Any]:
    return DataLoader(Images(count * size), batch_size=size, collate_fn=collate)


def fit(folder: Path, model: Judged, data: Any, *callbacks: Callback, **settings: Any) -> Trainer:
    run = trainer(folder, *callbacks, **settings)
    run.fit(model, data)
    return run


def tensors(model: LightningModule) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def plain(data: Any, accumulate: int, clip: float | None) -> dict[str, torch.Tensor]:
    """The same training, written out."""
    model = Judged()
    judge: Any = model.discriminator
    main = torch.optim.Adam(model.net.parameters(), lr=0.01)
    second = torch.optim.Adam(judge.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(main, 0.9)
    chunks = [list(data)[i : i + accumulate] for i in range(0, len(data), accumulate)]
    for chunk in chunks:
        kept = []
        for batch in chunk:
            loss, made = model.generator_loss(batch)
            (loss / len(chunk)).backward()  # type: ignore[no-untyped-call]
            kept.append(made)
        second.zero_grad()  # what the generator's loss left there
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.net.parameters(), clip)
        main.step()
        main.zero_grad()
        schedule.step()
        for fake, real in kept:
            loss = hinge_discriminator([judge(real)], [judge(fake)])
            (loss / len(chunk)).backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(judge.parameters(), clip)
        second.step()
        second.zero_grad()
    return tensors(model)


@pytest.mark.parametrize(
    ("accumulate", "clip"), [(1, None), (1, 0.05), (2, None), (3, 0.05), (8, 0.05)]
)
def test_it_trains_as_a_plain_loop_does(
    tmp_path: Path, accumulate: int, clip: float | None
) -> None:
    """With five batches, so that the last step of an epoch has fewer where they add up."""
    data, model = batches(5), Judged(accumulate=accumulate, clip=clip)
    run = fit(tmp_path, model, data)
    assert run.global_step == -(-5 // accumulate)
    expected = plain(data, accumulate, clip)
    exact = {} if 5 % accumulate else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(tensors(model), expected, **exact)


def test_steps_are_those_of_the_main_optimiser(tmp_path: Path) -> None:
    ema, model = EMA(), Judged()
    run = fit(tmp_path, model, batches(6), ema, max_steps=4, max_epochs=-1)
    assert (run.global_step, ema.updates, model.batches) == (4, 4, 4)
    assert set(ema.state_dict()["weights"]) == {"net.weight", "net.bias"}
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.9**4)


@pytest.mark.parametrize("whose", ["generator", "discriminator"])
def test_a_left_out_update_leaves_the_other_alone(tmp_path: Path, whose: str) -> None:
    """The schedule and the count go on."""
    guard, model = Guard(), Judged(nan=1, whose=whose)
    run = fit(tmp_path, model, batches(3), guard)
    assert guard.skipped == 1
    assert run.global_step == 3
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.9**3)
    moves = {
        index: next(iter(optimizer.state.values()))["step"].item()
        for index, optimizer in enumerate(run.optimizers)
    }
    assert moves == ({0: 2.0, 1: 3.0} if whose == "generator" else {0: 3.0, 1: 2.0})
    assert all(value.isfinite().all() for value in tensors(model).values())


def test_each_optimiser_may_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()
    fit(tmp_path, Judged(nan=1, whose="generator, discriminator"), batches(3), guard)
    assert (guard.skipped, guard.rows) == (2, {})
    assert "the update of optimizer 0 in step 2 (1 so far; the step counts)" in caplog.text
    assert "the update of optimizer 1 in step 2 (2 so far; the step counts)" in caplog.text
    with pytest.raises(ValueError, match="after step 3: 1 updates in a row"):
        fit(tmp_path, Judged(nan=1, whose="discriminator"), batches(4), Guard(in_a_row=1))


class Stop(Callback):
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = True


def test_a_fit_that_was_stopped_within_a_step_leaves_nothing(tmp_path: Path) -> None:
    model, fresh = Judged(accumulate=2), Judged(accumulate=2)
    assert fit(tmp_path, model, batches(4), Stop(), min_epochs=0).global_step == 0
    for each in (model, fresh):
        fit(tmp_path, each, batches(4))
    torch.testing.assert_close(tensors(model), tensors(fresh), rtol=0, atol=0)


def test_a_schedule_that_monitors_a_value(tmp_path: Path) -> None:
    model = Judged()
    model._make_schedule = lambda optimizer: ReduceLROnPlateau(optimizer, monitor="val/psnr")
    with pytest.raises(ValueError, match="Judged steps its schedule once a step"):
        fit(tmp_path, model, batches(1))


def test_hinges_by_hand() -> None:
    real, fake = [torch.tensor([[2.0, 0.0]])], [torch.tensor([[-3.0, 1.0]])]
    assert hinge_discriminator(real, fake).item() == (0.5 + 1.0) / 2
    assert hinge_generator([torch.tensor([1.0, 3.0]), torch.tensor([-4.0])]).item() == (-2 + 4) / 2
