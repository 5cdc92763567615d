"""AnySize: networks of one factor at any size, and as the base of a cascade."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from degradations.bicubic import resize
from lightning_modules.methods.casarbi import CasArbi
from lightning_modules.networks.edsr import EDSR
from lightning_modules.networks.liif import AnySize
from tests.lightning_modules.tiny import Convolution, fill

SMALL = partial(EDSR, blocks=1, channels=8, global_skip=True)


class Published(Convolution):
    """Loads its weights itself, as Spandrel does."""

    weights_source = "my/swinir.pth"


@pytest.mark.parametrize("size", [(24, 18), (31, 27), (20, 15), (50, 9)])
@pytest.mark.parametrize("network", [SMALL, Convolution])
def test_the_networks_own_image_at_any_size(network, size):
    net = AnySize(3.5, network)
    fill(net.network)
    lr = torch.rand(2, 3, 12, 9)
    expected = resize(net.network(lr), size, clamp=False)
    torch.testing.assert_close(net(lr, size), expected)
    torch.testing.assert_close(net.render(net.encode(lr), lr, size), expected)
    assert net(lr).shape == (2, 3, 42, 32)


def test_released_weights_of_the_network():
    inner = fill(SMALL(2.0))
    net = AnySize(3.5, SMALL)
    net.load_state_dict(net.official(inner.state_dict()))
    lr = torch.rand(1, 3, 6, 8)
    torch.testing.assert_close(net(lr, (12, 16)), inner(lr), rtol=0, atol=1e-4)


def test_a_base_that_has_its_weights_needs_no_file():
    def unasked(*_):
        pytest.fail("it looked for a file")

    model = CasArbi(2.0, partial(AnySize, network=Published))
    model.load_parts(unasked)
    assert not model.needs_weights
    assert model.weights_source == "my/swinir.pth"
    assert isinstance(model.base, nn.Module)
    assert model.base.source.startswith("my/swinir.pth ")
    with pytest.raises(ValueError, match="CasArbi needs a trained base"):
        CasArbi(2.0, partial(AnySize, network=SMALL)).load_parts(unasked)
