"""MSRResNet against its form in BasicSR, written here from its description and names."""

import pytest
import torch
from torch.nn import functional

from lightning_modules import MSRResNet
from tests import make


@pytest.mark.parametrize(("scale", "factors"), [(2, [2]), (3, [3]), (4, [2, 2])])
@torch.no_grad()
def test_msrresnet_equals_basicsrs_form(scale, factors):
    network = make.fill(MSRResNet(scale, blocks=1, channels=8))
    state = network.state_dict()
    tensors = {}  # by the official names
    for name, tensor in state.items():
        name = name.replace("body.0.body.0", "body.0.conv1").replace(
            "body.0.body.2", "body.0.conv2"
        )
        tensors[name] = tensor
    lr = make.uniform(2, 3, 9, 7)

    def conv(name, x):
        return functional.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1)

    x = functional.leaky_relu(conv("conv_first", lr), 0.1)
    x = x + conv("body.0.conv2", conv("body.0.conv1", x).relu())
    for number, factor in enumerate(factors, 1):
        x = functional.pixel_shuffle(conv(f"upconv{number}", x), factor)
        x = functional.leaky_relu(x, 0.1)
    x = conv("conv_last", functional.leaky_relu(conv("conv_hr", x), 0.1))
    expected = x + functional.interpolate(lr, scale_factor=scale, mode="bilinear")

    torch.testing.assert_close(network(lr), expected)
    torch.testing.assert_close(network.official(tensors), dict(state), rtol=0, atol=0)
