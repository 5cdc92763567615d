"""MSRResNet against its form in BasicSR, written here from its description and names."""

import pytest
import torch
from torch.nn import functional

from lightning_modules.networks.srresnet import MSRResNet


@pytest.mark.parametrize(("scale", "convolutions"), [(2, 1), (3, 1), (4, 2)])
def test_equals_the_official_form(scale, convolutions):
    generator = torch.Generator().manual_seed(0)
    factor = 3 if scale == 3 else 2
    shapes = {"conv_first": (8, 3), "conv_hr": (8, 8), "conv_last": (3, 8)}
    shapes |= {"body.0.conv1": (8, 8), "body.0.conv2": (8, 8)}
    shapes |= {f"upconv{i}": (8 * factor**2, 8) for i in range(1, convolutions + 1)}
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = 0.2 * torch.randn(*shape, 3, 3, generator=generator)
        tensors[f"{name}.bias"] = torch.randn(shape[0], generator=generator)
    lr = torch.rand(2, 3, 9, 7, generator=generator)

    def conv(name, x):
        return functional.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1)

    x = functional.leaky_relu(conv("conv_first", lr), 0.1)
    x = x + conv("body.0.conv2", conv("body.0.conv1", x).relu())
    for i in range(1, convolutions + 1):
        x = functional.leaky_relu(functional.pixel_shuffle(conv(f"upconv{i}", x), factor), 0.1)
    x = conv("conv_last", functional.leaky_relu(conv("conv_hr", x), 0.1))
    expected = x + functional.interpolate(lr, scale_factor=scale, mode="bilinear")

    network = MSRResNet(scale, blocks=1, channels=8)
    network.load_state_dict(network.official(tensors))
    with torch.no_grad():
        torch.testing.assert_close(network(lr), expected)
