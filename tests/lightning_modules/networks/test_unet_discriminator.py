"""Real-ESRGAN's discriminator: layout, spectral norms, and its equation layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.discriminator import UNetDiscriminator

WIDTHS = [(1, 2), (2, 4), (4, 8), (8, 4), (4, 2), (2, 1), (1, 1), (1, 1)]  # conv1 to conv8


def released(width: int) -> dict[str, Tensor]:
    """Random tensors with names and shapes of RealESRGAN_x4plus_netD.pth, of another width."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv0.weight": (width, 3, 3, 3), "conv0.bias": (width,)}
    for number, (inputs, outputs) in enumerate(WIDTHS, 1):
        side = 4 if number <= 3 else 3
        shape = (outputs * width, inputs * width, side, side)
        shapes |= {
            f"conv{number}.weight_orig": shape,
            f"conv{number}.weight_u": (shape[0],),
            f"conv{number}.weight_v": (shape[1] * side**2,),
        }
    shapes |= {"conv9.weight": (1, width, 3, 3), "conv9.bias": (1,)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for number in range(1, 9):
        v = functional.normalize(state[f"conv{number}.weight_v"], dim=0)
        u = functional.normalize(state[f"conv{number}.weight_orig"].flatten(1) @ v, dim=0)
        state |= {f"conv{number}.weight_u": u, f"conv{number}.weight_v": v}
    return state


def computed(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The paper's figure 6, with weights divided by u W v."""

    def layer(number: int, x: Tensor) -> Tensor:
        bias = state.get(f"conv{number}.bias")
        if f"conv{number}.weight" in state:
            weight, stride = state[f"conv{number}.weight"], 1
        else:
            raw = state[f"conv{number}.weight_orig"]
            u, v = state[f"conv{number}.weight_u"], state[f"conv{number}.weight_v"]
            weight, stride = raw / (u @ raw.flatten(1) @ v), 2 if number <= 3 else 1
        y = functional.conv2d(x, weight, bias, stride, padding=1)
        return y if number == 9 else functional.leaky_relu(y, 0.2)

    def twice(x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    x0 = layer(0, x)
    x1 = layer(1, x0)
    x2 = layer(2, x1)
    x4 = layer(4, twice(layer(3, x2))) + x2
    x6 = layer(6, twice(layer(5, twice(x4)) + x1)) + x0
    return layer(9, layer(8, layer(7, x6)))


def test_released_files_load_and_compute_the_figure() -> None:
    network = UNetDiscriminator(4).double().eval()
    state = {name: tensor.double() for name, tensor in released(4).items()}
    network.load_state_dict(network.official(state))
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    (found,) = network(x)
    assert found.shape == (2, 1, 16, 24)
    torch.testing.assert_close(found, computed(state, x), rtol=1e-9, atol=1e-9)
