"""EMA: the formula, what counts as a step, the swap, checkpoints.

That a resumed run has the same averages is in tests/contracts, for all callbacks.
"""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback, OnExceptionCheckpoint
from torch import nn

from callbacks.training.ema import EMA
from tests.callbacks.tiny import Tiny, loader, trainer
from tests.make import assert_near


class Note(Callback):
    """Keep the trained weight after each batch, and the one that validation used."""

    def __init__(self):
        self.trained = []
        self.validated = []

    def on_train_start(self, trainer, pl_module):
        self.trained.append(pl_module.net.weight.detach().clone())

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.trained.append(pl_module.net.weight.detach().clone())

    def on_validation_batch_end(self, trainer, pl_module, *_):
        self.validated.append(pl_module.net.weight.detach().clone())


def expected_average(weights, decay=0.999, first=0):
    """The average of weights[1:], starting at weights[0], in float64."""
    average = weights[0].double()
    for n, weight in enumerate(weights[1:], first or 0):
        warm_up = 1.0 if first is None else (1 + n) / (10 + n)
        share = min(decay, warm_up)
        average = share * average + (1 - share) * weight.double()
    return average.float()


def average_of(ema):
    return ema.state_dict()["weights"]["net.weight"]


@pytest.mark.parametrize(("decay", "first"), [(0.3, 0), (0.999, 0), (0.9, 1), (0.9, None)])
def test_the_formula_with_its_warm_up(tmp_path, decay, first):
    """0.3 is reached by the 4th step, 4 / 13; InvSR's warm-up counts from 1, ResShift has none."""
    note = Note()
    ema = EMA(decay, first=first)

    trainer(tmp_path, note, ema, max_epochs=3).fit(Tiny(), loader())

    assert ema.updates == 12  # 3 epochs of 4 batches
    assert len(note.trained) == 13  # before the first step and after each
    assert_near(average_of(ema), expected_average(note.trained, decay, first), 1e-6)


def test_the_averages_of_another_model_start_anew(tmp_path):
    ema = EMA()
    note = Note()
    trainer(tmp_path, ema).fit(Tiny(), loader())

    trainer(tmp_path, note, ema).fit(Tiny(), loader())

    assert ema.updates == 4  # batches of the second fit alone
    assert_near(average_of(ema), expected_average(note.trained), 1e-6)


def test_a_second_fit_of_a_model_goes_on_with_its_averages(tmp_path):
    ema = EMA()
    note = Note()
    model = Tiny()
    trainer(tmp_path, note, ema, max_epochs=2).fit(model, loader())
    del note.trained[-1]  # noted again when the second one starts

    trainer(tmp_path, note, ema).fit(model, loader())

    assert ema.updates == 12  # 2 epochs and 1, of 4 batches each
    assert len(note.trained) == 13  # before the first step and after each
    assert_near(average_of(ema), expected_average(note.trained), 1e-6)


def test_accumulated_batches_are_one_step(tmp_path):
    ema = EMA()
    note = Note()

    trainer(tmp_path, note, ema, accumulate_grad_batches=2, max_epochs=2).fit(Tiny(), loader())

    assert ema.updates == 4  # 2 epochs of 2 steps
    steps = [note.trained[0], *note.trained[2::2]]  # 4 batches an epoch, 2 a step
    assert_near(average_of(ema), expected_average(steps), 1e-6)


def test_only_validation_in_fit_sees_the_average(tmp_path):
    note = Note()
    model = Tiny()
    run = trainer(tmp_path, note, EMA(), max_epochs=2)

    run.fit(model, loader(), loader(batch_size=7))  # a validation is one batch
    run.validate(model, loader(batch_size=7), verbose=False)

    first, second, after_fit = note.validated
    assert_near(first, expected_average(note.trained[:5]), 1e-6)  # 4 steps of the first epoch
    assert_near(second, expected_average(note.trained), 1e-6)
    assert torch.equal(model.net.weight, note.trained[-1])
    assert torch.equal(after_fit, note.trained[-1])


@pytest.mark.parametrize("weights_only", [False, True])
def test_checkpoints_that_are_written_in_a_validation_hold_trained_weights(tmp_path, weights_only):
    class SavesAndFails(Callback):
        def on_validation_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "early.ckpt", weights_only)
            raise RuntimeError("planned")

    note = Note()
    saver = OnExceptionCheckpoint(tmp_path, "broken")
    model = Tiny()
    run = trainer(tmp_path, saver, note, EMA(), SavesAndFails(), enable_checkpointing=True)

    with pytest.raises(RuntimeError, match="planned"):
        run.fit(model, loader(), loader())

    early = torch.load(tmp_path / "early.ckpt", weights_only=True)
    broken = torch.load(tmp_path / "broken.ckpt", weights_only=True)
    average = broken["callbacks"]["EMA"]["weights"]["net.weight"]
    assert not torch.equal(note.validated[-1], note.trained[-1])  # the weights were swapped
    assert torch.equal(early["state_dict"]["net.weight"], note.trained[-1])
    assert torch.equal(broken["state_dict"]["net.weight"], note.trained[-1])
    assert_near(average, expected_average(note.trained), 1e-6)
    assert not model._state_dict_hooks  # that put trained weights into checkpoints meanwhile


def test_a_checkpoint_holds_averages_of_trained_parameters_only(tmp_path):
    run = trainer(tmp_path, EMA(0.9))
    run.fit(Tiny(), loader())

    run.save_checkpoint(tmp_path / "a.ckpt")

    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["EMA"]
    assert set(state.pop("weights")) == {"net.weight", "net.bias"}  # nothing frozen
    assert state == {"updates": 4, "step": 4, "decay": 0.9}  # an epoch of 4 batches


def test_a_checkpoint_between_a_step_and_its_average_resumes_exactly(tmp_path):
    class FailsBeforeEMA(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 6:
                raise RuntimeError("planned")

    saver = OnExceptionCheckpoint(tmp_path, "broken")
    callbacks = [FailsBeforeEMA(), EMA(0.9), saver]
    run = trainer(tmp_path, *callbacks, max_epochs=2, enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="planned"):
        run.fit(Tiny(), loader())
    ema = EMA(0.9)
    seventh = Note()

    resumed = trainer(tmp_path, seventh, ema, max_steps=7, max_epochs=-1)
    resumed.fit(Tiny(), loader(), ckpt_path=tmp_path / "broken.ckpt")

    saved = torch.load(tmp_path / "broken.ckpt", weights_only=True)
    six = Note()
    trainer(tmp_path, six, max_steps=6, max_epochs=-1).fit(Tiny(), loader())
    weights = [*six.trained, seventh.trained[-1]]
    assert saved["callbacks"]["EMA"]["updates"] == 5  # the sixth step is not averaged yet
    assert ema.updates == 7
    assert torch.equal(seventh.trained[0], six.trained[6])
    assert_near(average_of(ema), expected_average(weights, 0.9), 1e-6)


def test_averages_of_another_network_are_refused(tmp_path):
    fitted = EMA()
    trainer(tmp_path, fitted).fit(Tiny(), loader())
    ema = EMA()
    ema.load_state_dict(fitted.state_dict())
    model = Tiny()
    model.frozen.requires_grad_(True)

    # Weight and bias of each convolution; the averages are of `net` alone.
    with pytest.raises(ValueError, match=r"the 4 trained .* 2 are missing.*\(frozen.bias, "):
        trainer(tmp_path, ema).fit(model, loader())


def test_bfloat16_weights_are_averaged_in_float32():
    module = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    module.weight.data.fill_(1)
    ema = EMA(0.999)
    ema.track(module)
    ema.updates = 10**6  # long after the warm-up
    module.weight.data.fill_(2)

    for _ in range(100):
        ema.update()

    average = ema.state_dict()["weights"]["weight"]
    assert average.dtype == torch.float32
    assert average.item() == pytest.approx(2 - 0.999**100, abs=1e-5)  # from 1, 100 steps to 2
    ema.swap_in(module)
    assert module.weight.dtype == torch.bfloat16
    ema.swap_out()
    assert module.weight.item() == 2


def test_tied_parameters_are_under_all_their_names():
    module = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    module["b"].weight = module["a"].weight
    trained = module["a"].weight.detach().clone()
    ema = EMA()
    ema.track(module)
    weights = ema.state_dict()["weights"]
    weights["a.weight"].zero_()

    ema.swap_in(module)

    in_a_checkpoint = module.state_dict()
    assert weights["a.weight"] is weights["b.weight"]
    assert torch.equal(in_a_checkpoint["a.weight"], trained)
    assert torch.equal(in_a_checkpoint["b.weight"], trained)
    ema.swap_out()
