"""EMA: the formula, what counts as a step, the swap, checkpoints.

That a resumed run has the same averages is in tests/contracts, for all callbacks.
"""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback, OnExceptionCheckpoint
from torch import nn

from callbacks.training.ema import EMA
from tests.callbacks.tiny import Images, Tiny, loader, trainer
from tests.make import assert_near

FOUR_BATCHES = loader(Images(count=8), batch_size=2)  # an epoch
ONE_BATCH = loader(Images(count=2), batch_size=2)  # a validation


class Note(Callback):
    """Keep the trained weight before training and after each batch, and the validated ones."""

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
    """average = d average + (1 - d) weight for each weight after the first, in float64.

    d = min(decay, (1 + n) / (10 + n)), with n = first, first + 1 ...; d = decay if first is None.
    """
    average = weights[0].double()
    for n, weight in enumerate(weights[1:], first or 0):
        d = decay if first is None else min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * weight.double()
    return average.float()


def average_of(ema):
    return ema.state_dict()["weights"]["net.weight"]


@pytest.mark.parametrize(
    ("decay", "first"),
    [(0.3, 0), (0.999, 0), (0.9, 1), (0.9, None)],
    ids=["warm-up of 3 steps", "warm-up in all steps", "first n of InvSR", "none, as ResShift"],
)
def test_the_average_follows_its_formula_with_warm_up(tmp_path, decay, first):
    """A decay of 0.3 is less than (1 + n) / (10 + n) from n = 3 on: 4 / 13 = 0.31."""
    note = Note()
    ema = EMA(decay, first=first)

    trainer(tmp_path, note, ema, max_epochs=3).fit(Tiny(), FOUR_BATCHES)

    assert ema.updates == 3 * len(FOUR_BATCHES)
    assert len(note.trained) == 1 + ema.updates
    assert_near(average_of(ema), expected_average(note.trained, decay, first), 1e-6)


def test_fitting_another_model_starts_new_averages(tmp_path):
    ema = EMA()
    note = Note()
    trainer(tmp_path, ema).fit(Tiny(), FOUR_BATCHES)

    trainer(tmp_path, note, ema).fit(Tiny(), FOUR_BATCHES)

    assert ema.updates == len(FOUR_BATCHES)  # of the second fit alone
    assert_near(average_of(ema), expected_average(note.trained), 1e-6)


def test_a_second_fit_of_the_same_model_continues_its_averages(tmp_path):
    ema = EMA()
    note = Note()
    model = Tiny()
    trainer(tmp_path, note, ema, max_epochs=2).fit(model, FOUR_BATCHES)
    del note.trained[-1]  # noted again when the second fit starts

    trainer(tmp_path, note, ema).fit(model, FOUR_BATCHES)

    assert ema.updates == (2 + 1) * len(FOUR_BATCHES)
    assert len(note.trained) == 1 + ema.updates
    assert_near(average_of(ema), expected_average(note.trained), 1e-6)


def test_the_average_is_updated_once_for_accumulated_batches(tmp_path):
    ema = EMA()
    note = Note()

    trainer(tmp_path, note, ema, accumulate_grad_batches=2, max_epochs=2).fit(Tiny(), FOUR_BATCHES)

    assert ema.updates == 4  # 2 epochs of 4 batches, 2 a step
    weights_of_steps = note.trained[::2]  # noted after each batch; every second one is a step
    assert_near(average_of(ema), expected_average(weights_of_steps), 1e-6)


def test_validation_uses_the_average_within_fit_only(tmp_path):
    note = Note()
    model = Tiny()
    run = trainer(tmp_path, note, EMA(), max_epochs=2)

    run.fit(model, FOUR_BATCHES, ONE_BATCH)
    run.validate(model, ONE_BATCH, verbose=False)

    after_epoch_1, after_epoch_2, after_fit = note.validated
    weights_of_epoch_1 = note.trained[: 1 + len(FOUR_BATCHES)]
    assert_near(after_epoch_1, expected_average(weights_of_epoch_1), 1e-6)
    assert_near(after_epoch_2, expected_average(note.trained), 1e-6)
    assert torch.equal(after_fit, note.trained[-1])
    assert torch.equal(model.net.weight, note.trained[-1])


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_checkpoint_written_during_validation_holds_the_trained_weights(tmp_path, weights_only):
    """Validation has the averages in the place of the weights, which a resumed run would train.

    A callback writes one checkpoint, and Lightning another after its exception.
    """

    class SavesAndFails(Callback):
        def on_validation_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "early.ckpt", weights_only)
            raise RuntimeError("planned")

    note = Note()
    saver = OnExceptionCheckpoint(tmp_path, "broken")
    model = Tiny()
    run = trainer(tmp_path, saver, note, EMA(), SavesAndFails(), enable_checkpointing=True)

    with pytest.raises(RuntimeError, match="planned"):
        run.fit(model, FOUR_BATCHES, FOUR_BATCHES)

    early = torch.load(tmp_path / "early.ckpt", weights_only=True)
    broken = torch.load(tmp_path / "broken.ckpt", weights_only=True)
    average = broken["callbacks"]["EMA"]["weights"]["net.weight"]
    assert not torch.equal(note.validated[-1], note.trained[-1])  # validation had the averages
    assert torch.equal(early["state_dict"]["net.weight"], note.trained[-1])
    assert torch.equal(broken["state_dict"]["net.weight"], note.trained[-1])
    assert_near(average, expected_average(note.trained), 1e-6)
    assert not model._state_dict_hooks  # the hook that gave them to checkpoints is gone


def test_a_checkpoint_holds_averages_of_trained_parameters_only(tmp_path):
    run = trainer(tmp_path, EMA(0.9))
    run.fit(Tiny(), FOUR_BATCHES)

    run.save_checkpoint(tmp_path / "a.ckpt")

    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["EMA"]
    assert set(state.pop("weights")) == {"net.weight", "net.bias"}  # nothing frozen
    steps = len(FOUR_BATCHES)
    assert state == {"updates": steps, "step": steps, "decay": 0.9}


def test_a_checkpoint_between_a_step_and_its_average_resumes_exactly(tmp_path):
    """After an exception, a checkpoint may have the weights of step 6 but the average of step 5.

    Resuming has to make up for the missing update.
    """

    class FailsAfterStep6(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 6:
                raise RuntimeError("planned")

    saver = OnExceptionCheckpoint(tmp_path, "broken")
    callbacks = [FailsAfterStep6(), EMA(0.9), saver]  # it fails before EMA's hook is called
    run = trainer(tmp_path, *callbacks, max_epochs=2, enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="planned"):
        run.fit(Tiny(), FOUR_BATCHES)
    saved = torch.load(tmp_path / "broken.ckpt", weights_only=True)
    assert saved["callbacks"]["EMA"]["updates"] == 5  # the sixth step is not averaged yet
    ema = EMA(0.9)
    resumed = Note()

    run = trainer(tmp_path, resumed, ema, max_steps=7, max_epochs=-1)
    run.fit(Tiny(), FOUR_BATCHES, ckpt_path=tmp_path / "broken.ckpt")

    uninterrupted = Note()
    trainer(tmp_path, uninterrupted, max_steps=6, max_epochs=-1).fit(Tiny(), FOUR_BATCHES)
    # Step 7 is on the first batch, as the epoch starts again.
    after_step_6, after_step_7 = resumed.trained
    assert ema.updates == 7
    assert torch.equal(after_step_6, uninterrupted.trained[-1])
    expected = expected_average([*uninterrupted.trained, after_step_7], 0.9)
    assert_near(average_of(ema), expected, 1e-6)


def test_averages_of_other_parameters_are_refused(tmp_path):
    fitted = EMA()
    trainer(tmp_path, fitted).fit(Tiny(), FOUR_BATCHES)
    ema = EMA()
    ema.load_state_dict(fitted.state_dict())
    model = Tiny()
    model.frozen.requires_grad_(True)

    # Weight and bias of `net` and `frozen`; the averages are those of `net` alone.
    with pytest.raises(ValueError, match=r"the 4 trained .* 2 are missing.*\(frozen.bias, "):
        trainer(tmp_path, ema).fit(model, FOUR_BATCHES)


def test_bfloat16_weights_are_averaged_in_float32():
    """The 8 bits of bfloat16 cannot hold 1.001, the average of 1 and 2 after one step."""
    module = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    module.weight.data.fill_(1)
    ema = EMA(decay=0.999)
    ema.track(module)
    ema.updates = 10**6  # the warm-up is over
    module.weight.data.fill_(2)

    for _ in range(100):
        ema.update()

    average = ema.state_dict()["weights"]["weight"]
    assert average.dtype == torch.float32
    expected = 1 * 0.999**100 + 2 * (1 - 0.999**100)  # of 1 before, and 2 in 100 steps
    assert average.item() == pytest.approx(expected, abs=1e-5)
    ema.swap_in(module)
    assert module.weight.dtype == torch.bfloat16
    ema.swap_out()
    assert module.weight.item() == 2


def test_tied_parameters_have_one_average_and_keep_both_names_in_checkpoints():
    """Checkpoints hold the trained weights under each name, also while averages replace them."""
    module = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    module["b"].weight = module["a"].weight
    trained = module["a"].weight.detach().clone()
    ema = EMA()
    ema.track(module)
    averages = ema.state_dict()["weights"]
    averages["a.weight"].zero_()  # unlike the trained weights

    ema.swap_in(module)
    in_a_checkpoint = module.state_dict()
    ema.swap_out()

    assert averages["a.weight"] is averages["b.weight"]
    assert torch.equal(in_a_checkpoint["a.weight"], trained)
    assert torch.equal(in_a_checkpoint["b.weight"], trained)
