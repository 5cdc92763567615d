"""What every ImageModel keeps, as a test class to run on yours.

The classes of this repository and of `pytest tests/contracts --plugin my_sr.methods` are found by
test_models.py. A class that cannot be made from the scale alone is tested by a file of your own
(run it with the repository on PYTHONPATH):

    from tests.contracts.model_contract import ModelContract

    class TestMyMethod(ModelContract):
        @pytest.fixture
        def make(self):
            return lambda scale: MyMethod(scale, channels=8)
"""

from __future__ import annotations

import io
from collections import Counter

import pytest
import torch

from degradations.draws import seed_of
from files.own_modules import class_path
from lightning_modules.base import SuperResolver
from tests.contracts.arguments import check_arguments
from tests.contracts.degradation_contract import global_generators_untouched
from tests.make import assert_near

SCALE = 2.0
COUNT = 3
SIZES = [(8, 8), (9, 13), (14, 6)]  # of LR


def waves(count, height, width):
    """Smooth images, each of another phase."""
    y = torch.linspace(0, 5, height).view(-1, 1)
    x = torch.linspace(0, 5, width)
    phase = torch.arange(count * 3.0).view(count, 3, 1, 1)
    return 0.5 + 0.5 * torch.sin(x + 2 * y + phase)


def batch_of(size=(16, 16), count=COUNT):
    """A batch as the data module makes them; its keys are `16x16/0`, `16x16/1`, ..."""
    h, w = size
    keys = [f"{h}x{w}/{i}" for i in range(count)]
    target = (round(h * SCALE), round(w * SCALE))
    return {
        "key": keys,
        "seed": torch.tensor([seed_of(key) for key in keys]),
        "size": target,
        "lr": waves(count, h, w),
        "hr": waves(count, *target),
    }


def part_of(batch, images):
    """Some images of a batch."""
    return {name: value if name == "size" else value[images] for name, value in batch.items()}


def copy_of(batch):
    """The same, in memory of its own."""
    tensors = {name: batch[name].clone() for name in ("seed", "lr", "hr")}
    return batch | tensors


def assert_unchanged(batch, before):
    assert batch.keys() == before.keys(), "the batch has other entries now"
    for name in ("seed", "lr", "hr"):
        assert torch.equal(batch[name], before[name]), f"batch[{name!r}] was changed"


def calls_of(sample):
    """What a function returns, and how often it calls a network: rounding errors add up."""
    calls = Counter()

    def count(module, *_):
        calls[module] += any(True for _ in module.parameters(recurse=False))

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        return sample(), max(calls.values(), default=1)
    finally:
        hook.remove()


@pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")
class ModelContract:
    """Subclass it and override the fixture `make`: a function from the scale to a model."""

    size = SIZES[0]  # of the images of most tests; small, for the sake of time

    @pytest.fixture
    def make(self):
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def discrete(self):
        """Whether it draws bits or codes, of which rounding may turn one into another."""
        return False

    @pytest.fixture
    def batch(self):
        return batch_of(self.size)

    @pytest.fixture
    def model(self, make):
        torch.manual_seed(0)
        return make(SCALE)

    @pytest.fixture
    def trained(self, model):
        if not any(p.requires_grad for p in model.parameters()):
            pytest.skip("it has nothing to train")
        if not model.automatic_optimization:
            pytest.skip("it steps its optimisers itself")
        return model

    @staticmethod
    def images(model, batch):
        return model.eval().test_step(batch, 0)["sr"]

    # ------------------------------------------------------------------------------ arguments

    def test_arguments_are_typed_and_explained(self, model):
        """Else the command line could not parse them, or `--help` would not explain them."""
        check_arguments(type(model))

    def test_a_scale_below_1_or_of_no_number_is_refused(self, make):
        for scale in (None, 0.5, -2.0, float("nan"), float("inf"), "4"):
            with pytest.raises(ValueError, match=r"data\.init_args\.scale"):
                make(scale)

    def test_parts_outside_of_trained_parts_are_frozen_and_stay_in_eval_mode(self, model):
        """Lightning calls `train()`, by which a frozen batch norm would learn new statistics."""
        model.train()
        for name, part in model.named_children():
            if model.trained_parts is not None and name not in model.trained_parts:
                assert not any(module.training for module in part.modules()), name
                assert not any(p.requires_grad for p in part.parameters()), name

    def test_a_method_with_nothing_to_train_refuses_to_make_an_optimiser(self, model):
        if any(p.requires_grad for p in model.parameters()):
            pytest.skip("it can be trained")
        with pytest.raises(ValueError, match=type(model).__name__):
            model.configure_optimizers()

    # ------------------------------------------------------------------------------- outputs

    @pytest.mark.parametrize(
        ("step", "size"),  # all other tests have the first size
        [
            ("test_step", SIZES[1]),
            ("test_step", SIZES[2]),
            ("validation_step", SIZES[1]),
            ("predict_step", SIZES[1]),
        ],
    )
    def test_steps_give_images(self, model, step, size):
        batch = batch_of(size)
        output = getattr(model.eval(), step)(batch, 0)
        assert set(output) == {"sr"}
        assert output["sr"].shape == (COUNT, 3, *batch["size"])
        assert output["sr"].dtype == torch.float32
        assert not output["sr"].requires_grad
        assert output["sr"].min() >= 0  # NaN fails both
        assert output["sr"].max() <= 1

    def test_an_output_smaller_than_the_scale_shows_the_whole_image(self, model, batch):
        """A corner of the output at SCALE would have the right shape, too.

        A method of one scale may refuse another size instead.
        """
        if not isinstance(model, SuperResolver):
            pytest.skip("it enlarges no image")
        model.color_fix = "none"
        H = round(1.5 * self.size[0])  # where SCALE makes 2 * self.size[0]
        W = round(1.5 * self.size[1])
        try:
            smaller = self.images(model, batch | {"size": (H, W)})
        except ValueError:
            return
        corner = self.images(model, batch)[..., :H, :W]
        assert (smaller - corner).abs().max() > 1e-3  # more than rounding

    def test_an_image_that_could_not_be_read_has_no_output(self, model):
        assert model.predict_step({"key": ["a"], "error": ["a.png: empty"]}, 0) is None

    def test_outputs_depend_only_on_the_batch_without_its_hr(self, model, batch):
        """A look at HR would be cheating; with a global generator no result could be repeated."""
        before = copy_of(batch)
        with global_generators_untouched():
            expected = self.images(model, batch)
        assert_unchanged(batch, before)

        del batch["hr"]
        assert torch.equal(self.images(model, batch), expected), "it looked at the answer"

    def test_an_image_does_not_depend_on_its_batch(self, model, batch):
        together, calls = calls_of(lambda: self.images(model, batch))
        for images in (slice(0, 2), slice(2, 3)):  # several, and one alone
            sr = self.images(model, part_of(batch, images))
            assert_near(sr, together[images], 1e-5 * calls)

    def test_inference_mode_gives_the_same_bits(self, model, batch):
        expected = self.images(model, batch)
        with torch.inference_mode():
            assert torch.equal(self.images(model, batch), expected)

    def test_in_bfloat16_outputs_are_nearly_those_of_float32(self, model, batch, discrete):
        """bfloat16 rounds by up to 2^-8 = 0.004: below 0.1 a call of a network.

        Where a bit or a code flips, a part of the image changes: there only the mean is compared.
        """
        expected, calls = calls_of(lambda: self.images(model, batch))
        with torch.autocast("cpu", torch.bfloat16):
            sr = self.images(model, batch)
        assert sr.dtype == torch.float32
        assert (sr - expected).abs().mean() < 0.1
        if not discrete:
            assert_near(sr, expected, 0.1 * calls)

    # ------------------------------------------------------------------------------ training

    def test_a_training_step_has_gradients_for_all_that_is_trained(self, trained, batch):
        before = copy_of(batch)
        trained.on_train_batch_start(batch, 0)
        loss = trained.training_step(batch, 0)
        assert_unchanged(batch, before)
        assert loss.shape == ()
        assert loss.isfinite()

        loss.backward()
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"several processes would wait for {name}"
            else:
                assert parameter.grad is None, name

    def test_training_draws_the_same_for_a_batch_whatever_was_drawn_before(self, trained, batch):
        losses = []
        for draws_before in (1, 7):
            torch.rand(draws_before)
            trained.on_train_batch_start(batch, 0)
            losses.append(trained.training_step(batch, 0))
        assert torch.equal(losses[0], losses[1])

    def test_the_optimiser_has_all_trainable_parameters_and_no_others(self, trained):
        config = trained.configure_optimizers()
        optimizer = config["optimizer"] if isinstance(config, dict) else config
        optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert optimised == {id(p) for p in trained.parameters() if p.requires_grad}

    def test_a_checkpoint_holds_all_that_was_trained(self, make, trained, batch):
        with torch.no_grad():
            for parameter in trained.parameters():
                if parameter.requires_grad:
                    parameter += 0.01 * torch.randn_like(parameter)
        trained.train().training_step(batch, 0)  # running statistics move
        checkpoint = {"state_dict": trained.state_dict()}
        trained.on_save_checkpoint(checkpoint)
        for name, parameter in trained.named_parameters():
            assert name in checkpoint["state_dict"] or not parameter.requires_grad, name
        file = io.BytesIO()
        torch.save(checkpoint, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        assert loaded["model"] == class_path(type(trained))

        torch.manual_seed(1)
        other = make(SCALE)
        other.on_load_checkpoint(loaded)
        other.load_state_dict(loaded["state_dict"])

        expected = self.images(trained, batch)
        assert torch.equal(self.images(other, batch), expected), "the checkpoint lacks a part"

    def test_another_methods_checkpoint_is_refused(self, model):
        with pytest.raises(ValueError, match=r"trained with other\.Method"):
            model.on_load_checkpoint({"model": "other.Method", "state_dict": {}})

    @pytest.mark.gpu
    def test_outputs_of_a_gpu_are_nearly_those_of_a_cpu(self, model, batch):
        """A GPU convolves in TF32, which rounds by up to 2^-11 = 0.0005: below 0.01 a call."""
        expected, calls = calls_of(lambda: self.images(model, batch))
        there = batch | {"lr": batch["lr"].cuda(), "hr": batch["hr"].cuda()}
        sr = self.images(model.cuda(), there)
        assert sr.is_cuda
        assert_near(sr.cpu(), expected, 1e-2 * calls)
