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
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from degradations.draws import seed_of
from files.own_modules import class_path
from lightning_modules.base import ImageModel, SuperResolver
from tests.contracts.arguments import check_arguments
from tests.contracts.degradation_contract import global_generators_untouched

SCALE = 2.0
COUNT = 3
SIZES = [(8, 8), (9, 13), (14, 6)]  # of LR


def batch_of(size: tuple[int, int] = (16, 16), count: int = COUNT) -> dict[str, Any]:
    """A batch as the data module makes them; its keys are `16x16/0`, `16x16/1`, ..."""
    h, w = size
    keys = [f"{h}x{w}/{i}" for i in range(count)]
    seeds = torch.tensor([seed_of(key) for key in keys])
    large = (round(h * SCALE), round(w * SCALE))

    def smooth(height: int, width: int) -> Tensor:
        y = torch.linspace(0, 5, height).view(-1, 1)
        x = torch.linspace(0, 5, width)
        phase = torch.arange(count * 3.0).view(count, 3, 1, 1)
        return 0.5 + 0.5 * torch.sin(x + 2 * y + phase)

    return {"key": keys, "seed": seeds, "size": large, "lr": smooth(h, w), "hr": smooth(*large)}


def part_of(batch: dict[str, Any], images: slice) -> dict[str, Any]:
    """Some images of a batch."""
    return {k: v if k == "size" else v[images] for k, v in batch.items()}


def copy_of(batch: dict[str, Any]) -> dict[str, Any]:
    """The same, in memory of its own."""
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in batch.items()}


def calls_of(sample: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What a function returns, and how often it calls a network: rounding errors add up.

    Args:
        sample: Makes images.
    """
    calls = Counter[torch.nn.Module]()

    def count(module: torch.nn.Module, *_: Any) -> None:
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
    def make(self) -> Callable[[Any], ImageModel]:
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def discrete(self) -> bool:
        """Whether it draws bits or codes, of which rounding may turn one into another."""
        return False

    @pytest.fixture
    def model(self, make) -> ImageModel:
        torch.manual_seed(0)
        return make(SCALE)

    @pytest.fixture
    def trained(self, model) -> ImageModel:
        if not any(p.requires_grad for p in model.parameters()):
            pytest.skip("it has nothing to train")
        if not model.automatic_optimization:
            pytest.skip("it steps its optimisers itself")
        return model

    @staticmethod
    def images(model: ImageModel, batch: dict[str, Any]) -> Tensor:
        return model.eval().test_step(batch, 0)["sr"]

    def test_arguments_are_typed_and_explained(self, model):
        check_arguments(type(model))

    def test_only_the_parts_that_it_names_train(self, model):
        """Also after `train()`, which Lightning's users call."""
        model.train()
        for name, part in model.named_children():
            if model.trained_parts is not None and name not in model.trained_parts:
                assert not any(module.training for module in part.modules()), name
                assert not any(p.requires_grad for p in part.parameters()), name

    def test_a_scale_below_1_or_of_no_number_is_refused(self, make):
        for scale in (None, 0.5, -2.0, float("nan"), float("inf"), "4"):
            with pytest.raises(ValueError, match=r"data\.init_args\.scale"):
                make(scale)

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

    def test_a_smaller_output_is_no_corner(self, model):
        """Of a method of one scale it is refused."""
        if not isinstance(model, SuperResolver):
            pytest.skip("it enlarges no image")
        model.color_fix = "none"
        batch = batch_of(self.size)
        H, W = (round(1.5 * side) for side in self.size)
        try:
            found = self.images(model, {**batch, "size": (H, W)})
        except ValueError:
            return
        assert (found - self.images(model, batch)[..., :H, :W]).abs().max() > 1e-3

    def test_an_image_that_could_not_be_read_has_no_output(self, model):
        assert model.predict_step({"key": ["a"], "error": ["a.png: empty"]}, 0) is None

    def test_the_same_batch_gives_the_same_bits_with_and_without_hr(self, model):
        """It draws from the noise alone, and leaves the batch as it was."""
        batch = batch_of(self.size)
        before = copy_of(batch)
        with global_generators_untouched():
            expected = self.images(model, batch)
        assert batch.keys() == before.keys(), "the batch has other entries now"
        for name in ("seed", "lr", "hr"):
            assert torch.equal(batch[name], before[name]), f"batch[{name!r}] was changed"
        del batch["hr"]
        assert torch.equal(self.images(model, batch), expected), "it looked at the answer"

    def test_an_image_does_not_depend_on_its_batch(self, model):
        batch = batch_of(self.size)
        whole, calls = calls_of(lambda: self.images(model, batch))
        for part in (slice(0, 2), slice(2, 3)):  # several, and one alone
            sr = self.images(model, part_of(batch, part))
            torch.testing.assert_close(sr, whole[part], rtol=0, atol=1e-5 * calls)

    def test_in_inference_mode_and_in_16_bits_it_gives_the_same(self, model, discrete):
        expected, calls = calls_of(lambda: self.images(model, batch_of(self.size)))
        with torch.inference_mode():
            assert torch.equal(self.images(model, batch_of(self.size)), expected)
        with torch.autocast("cpu", torch.bfloat16):
            sr = self.images(model, batch_of(self.size))
        assert sr.dtype == torch.float32
        assert (sr - expected).abs().mean() < 0.1
        if not discrete:
            torch.testing.assert_close(sr, expected, rtol=0, atol=0.1 * calls)

    def test_nothing_to_train_is_said(self, model):
        if any(p.requires_grad for p in model.parameters()):
            pytest.skip("it can be trained")
        with pytest.raises(ValueError, match=type(model).__name__):
            model.configure_optimizers()

    def test_a_training_step_has_gradients_for_all_that_is_trained(self, trained):
        batch = batch_of(self.size)
        before = copy_of(batch)
        trained.on_train_batch_start(batch, 0)
        loss = trained.training_step(batch, 0)
        for name in ("seed", "lr", "hr"):
            assert torch.equal(batch[name], before[name]), f"batch[{name!r}] was changed"
        assert loss.shape == ()
        assert loss.isfinite()
        loss.backward()
        unused = [n for n, p in trained.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused, f"no gradient for {unused[:5]}: several processes would wait for it"
        frozen = [n for n, p in trained.named_parameters() if not p.requires_grad and p.grad]
        assert not frozen

    def test_what_training_draws_belongs_to_the_batch(self, trained):
        losses = []
        for disturbance in (1, 7):
            torch.rand(disturbance)
            trained.on_train_batch_start(batch_of(self.size), 0)
            losses.append(trained.training_step(batch_of(self.size), 0))
        assert torch.equal(losses[0], losses[1])

    def test_the_optimiser_has_what_is_trainable(self, trained):
        config = trained.configure_optimizers()
        optimizer = config["optimizer"] if isinstance(config, dict) else config
        got = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert got == {id(p) for p in trained.parameters() if p.requires_grad}

    def test_a_checkpoint_holds_all_that_was_trained(self, make, trained):
        with torch.no_grad():
            for parameter in trained.parameters():
                if parameter.requires_grad:
                    parameter += 0.01 * torch.randn_like(parameter)
        trained.train().training_step(batch_of(self.size), 0)  # running statistics move
        checkpoint: dict[str, Any] = {"state_dict": trained.state_dict()}
        trained.on_save_checkpoint(checkpoint)
        stored = checkpoint["state_dict"]
        for name, parameter in trained.named_parameters():
            assert name in stored or not parameter.requires_grad, name
        file = io.BytesIO()
        torch.save(checkpoint, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        assert loaded["model"] == class_path(type(trained))
        torch.manual_seed(1)
        other = make(SCALE)
        other.on_load_checkpoint(loaded)
        other.load_state_dict(loaded["state_dict"])
        expected = self.images(trained, batch_of(self.size))
        found = self.images(other, batch_of(self.size))
        assert torch.equal(found, expected), "the checkpoint lacks a part"

    def test_another_methods_checkpoint_is_refused(self, model):
        with pytest.raises(ValueError, match=r"trained with other\.Method"):
            model.on_load_checkpoint({"model": "other.Method", "state_dict": {}})

    @pytest.mark.gpu
    def test_on_a_gpu(self, model):
        batch = batch_of(self.size)
        expected, calls = calls_of(lambda: self.images(model, batch))
        moved = {k: v.cuda() if k in ("lr", "hr") else v for k, v in batch.items()}
        sr = self.images(model.cuda(), moved)
        assert sr.is_cuda
        torch.testing.assert_close(sr.cpu(), expected, rtol=0, atol=1e-2 * calls)
