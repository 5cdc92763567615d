"""Regression: any network, two losses, the layout in memory, official weights."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.imdn import IMDN
from lightning_modules.networks.liif import LIIF
from lightning_modules.noise import Noise
from lightning_modules.one_pass.losses import charbonnier
from lightning_modules.one_pass.regression import Regression
from tests.lightning_modules.tiny import Convolution, Resizing, batch_of

NETWORKS = {
    "EDSR": functools.partial(EDSR, blocks=1, channels=8),
    "IMDN": functools.partial(IMDN, channels=16, blocks=2),
    "LIIF": functools.partial(LIIF, blocks=1, channels=8, hidden=(16, 16)),
    "Convolution": Convolution,
    "Resizing": Resizing,
}


pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")


class TestNetworks:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_any_network(self, name):
        torch.manual_seed(0)
        model, batch = Regression(2, NETWORKS[name]).eval(), batch_of(2, side=12)
        sr = model.validation_step(batch, 0)["sr"]
        assert sr.shape == batch["hr"].shape
        model.training_step(batch, 0).backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    def test_a_network_that_takes_the_size_gets_it(self):
        batch = batch_of(2, side=6, scale=2.5)
        assert Regression(2.5, Resizing).test_step(batch, 0)["sr"].shape == (2, 3, 15, 20)

    def test_a_network_that_is_built_is_in_the_state_once(self):
        """Weights fit, whether Python or the command line built the network."""
        built, made = Regression(2, Convolution(2)), Regression(2, Convolution)
        assert list(built.state_dict()) == list(made.state_dict())
        built.load_state_dict(made.state_dict())
        assert built.scale_of(Regression(4, Convolution).state_dict()) is None

    def test_the_network_gets_the_scale(self):
        scales = []

        def network(scale: float) -> nn.Module:
            scales.append(scale)
            return Convolution(scale)

        Regression(3, network)
        assert scales == [3.0]
        assert type(scales[0]) is float

    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_layout_in_memory_changes_nothing(self, name):
        outputs, gradients = [], []
        for channels_last in (True, False):
            torch.manual_seed(0)
            model = Regression(2, NETWORKS[name], channels_last=channels_last)
            loss = model.training_step(batch_of(2, side=12), 0)
            loss.backward()
            outputs.append(model.eval().test_step(batch_of(2, side=12), 0)["sr"])
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)

    def test_weights_and_images_are_in_that_layout(self):
        seen: list[Tensor] = []

        class Watched(Convolution):
            def forward(self, lr: Tensor) -> Tensor:
                seen.append(lr)
                return super().forward(lr)

        for channels_last in (True, False):
            model = Regression(2, Watched, channels_last=channels_last)
            model.training_step(batch_of(2, side=12), 0)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            assert seen[-1].is_contiguous(memory_format=layout)
            assert model.network.conv.weight.is_contiguous(memory_format=layout)

    def test_restore_draws_nothing(self):
        model, batch = Regression(2, Convolution), batch_of()
        noise = Noise(batch["seed"])
        sr = model.restore(batch, noise)
        assert noise.calls == 0
        assert not sr.requires_grad


class TestLoss:
    def test_l1(self):
        model, batch = Regression(2, Convolution), batch_of()
        loss = model.training_step(batch, 0)
        expected = (model(batch["lr"], batch["size"]) - batch["hr"]).abs().mean()
        torch.testing.assert_close(loss, expected)

    def test_charbonnier(self):
        model, batch = Regression(2, Convolution, loss="charbonnier"), batch_of()
        difference = (model(batch["lr"], batch["size"]) - batch["hr"]).double()
        expected = torch.hypot(difference, torch.tensor(1e-3).double()).mean()
        torch.testing.assert_close(model.training_step(batch, 0).double(), expected)

    def test_charbonnier_is_smooth_at_zero(self):
        x = torch.zeros(4, requires_grad=True)
        loss = charbonnier(x, torch.zeros(4))
        loss.backward()
        torch.testing.assert_close(loss.item(), 1e-3)
        assert x.grad.abs().max() == 0

    def test_an_unknown_loss(self):
        with pytest.raises(
            ValueError, match=r"model\.init_args\.loss is 'l2'; expected l1 or char"
        ):
            Regression(2, Convolution, loss="l2")

    def test_a_network_of_another_scale(self):
        model = Regression(2, lambda scale: Convolution(3))
        message = r"Convolution made \(2, 3, 18, 24\) of \(2, 3, 6, 8\), expected \(2, 3, 12, 16\)"
        with pytest.raises(ValueError, match=message):
            model.training_step(batch_of(), 0)

    def test_a_shape_that_would_be_broadcast(self):
        class Mean(Convolution):
            def forward(self, lr: Tensor) -> Tensor:
                return super().forward(lr).mean((2, 3), keepdim=True)

        with pytest.raises(ValueError, match=r"Mean made \(2, 3, 1, 1\)"):
            Regression(2, Mean).training_step(batch_of(), 0)


class Renaming(Convolution):
    """Its authors' names differ; ``module.`` of DDP is removed before."""

    @staticmethod
    def official(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"conv.{name.removeprefix('head.')}": v for name, v in state.items()}


class Nested(nn.Module):
    """A network that has a `network` in it."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.network = Convolution(scale)

    def forward(self, lr: Tensor) -> Any:
        return self.network(lr)


class Finished(Convolution):
    """Comes with its weights."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.weights_source = "/models/finished.pth"


class TestWeights:
    def load(self, network: Any, tensors: dict[str, Tensor], path: Any) -> Regression:
        torch.save(tensors, path)
        model = Regression(2, network)
        model.load_weights(path)
        return model

    @pytest.fixture
    def tensors(self):
        return {name: value + 1 for name, value in Convolution(2).state_dict().items()}

    def test_a_network_without_a_map(self, tmp_path, tensors):
        model = self.load(Convolution, tensors, tmp_path / "w.pth")
        assert torch.equal(model.network.conv.weight, tensors["conv.weight"])

    def test_a_network_with_a_map(self, tmp_path, tensors):
        theirs = {k.replace("conv.", "module.head."): v for k, v in tensors.items()}
        model = self.load(Renaming, theirs, tmp_path / "w.pth")
        assert torch.equal(model.network.conv.weight, tensors["conv.weight"])

    @pytest.mark.parametrize("network", [Convolution, Renaming])
    def test_an_exported_file_of_ours(self, tmp_path, tensors, network):
        ours = {f"network.{name}": value for name, value in tensors.items()}
        save_file(ours, tmp_path / "w.safetensors")
        model = Regression(2, network)
        model.load_weights(tmp_path / "w.safetensors")
        assert torch.equal(model.network.conv.weight, tensors["conv.weight"])

    def test_a_network_in_a_network(self, tmp_path, tensors):
        theirs = {f"network.{name}": value for name, value in tensors.items()}
        model = self.load(Nested, theirs, tmp_path / "w.pth")
        assert torch.equal(model.network.network.conv.weight, tensors["conv.weight"])

    def test_another_network(self, tmp_path, tensors):
        message = r"missing \(network\.network\.conv\.weight, .*unexpected \(network\.conv\.weight"
        with pytest.raises(ValueError, match=message):
            self.load(Nested, tensors, tmp_path / "w.pth")

    def test_another_scale(self, tmp_path):
        message = r"of another shape \(network\.conv\.weight 27x3x3x3 for 12x3x3x3"
        with pytest.raises(ValueError, match=message):
            self.load(Convolution, Convolution(3).state_dict(), tmp_path / "w.pth")

    def test_a_network_that_has_its_weights(self):
        model = Regression(2, Finished)
        assert model.weights_source == "/models/finished.pth"
        assert not model.needs_weights
        assert Regression(2, Convolution).needs_weights

    @pytest.mark.parametrize("scale", [2, 3, 4])
    def test_published_weights_of_imdn(self, weights_root, scale):
        model = Regression(scale, IMDN)
        model.load_weights(weights_root / f"imdn-x{scale}.pth")
        batch = batch_of(1, side=24, scale=scale)
        assert model.eval().test_step(batch, 0)["sr"].shape == batch["hr"].shape
