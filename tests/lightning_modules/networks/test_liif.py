"""LIIF: our convolutional form against the slow official one, and the traps between them."""

import pytest
import torch

from degradations.bicubic import resize
from files.weights import read_weights
from lightning_modules.networks import liif
from lightning_modules.networks.liif import LIIF
from tests.reference import liif_official

TOLERANCE = 1e-5


def generator():
    return torch.Generator().manual_seed(0)


def small(scale=4.0, **options):
    """A network of which every part matters: the answers deviate by about 0.1."""
    torch.manual_seed(0)
    net = LIIF(scale, **{"blocks": 1, "channels": 8, "hidden": (32, 32), **options})
    for parameter in net.imnet.parameters():
        parameter.data *= 2
    return net


def official_image(net, lr, height, width):
    state = net.state_dict()
    features = liif_official.encode(state, lr * 2 - 1)
    coord = liif_official.cell_centres(height, width).expand(len(lr), -1, 2)
    cell = torch.tensor([2 / height, 2 / width]).expand_as(coord)
    values = liif_official.query(state, features, coord, cell) * 0.5 + 0.5
    return values.view(len(lr), height, width, 3).permute(0, 3, 1, 2)


# ---------------------------------------------------------------------------- size and names


def test_published_layouts_load_strictly(tmp_path):
    state = small().state_dict()
    checkpoint = {"model": {"name": "liif", "args": {}, "sd": state}, "epoch": 1000}
    net = LIIF(2, blocks=1, channels=8, hidden=(32, 32))
    for given in (checkpoint, state):
        torch.save(given, tmp_path / "liif.pth")
        net.load_state_dict(read_weights(tmp_path / "liif.pth").tensors, strict=True)
    assert all(map(torch.equal, net.state_dict().values(), state.values()))


# ---------------------------------------------------------------------------- parity


# x3 puts pixels on cell centres, x2 down puts them on boundaries: ties that the nudge decides.
@pytest.mark.parametrize(
    ("lr_size", "size"),
    [((12, 10), (44, 38)), ((12, 10), (36, 30)), ((12, 10), (6, 5)), ((1, 1), (4, 4))],
)
def test_all_sizes_equal_the_official_form(lr_size, size):
    net = small()
    lr = torch.rand(2, 3, *lr_size, generator=generator())
    with torch.no_grad():
        expected = official_image(net, lr, *size)
        found = net(lr, size)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


# ---------------------------------------------------------------------------- queries


def test_no_layer_sees_more_points_than_are_computed_at_once(monkeypatch):
    monkeypatch.setattr(liif, "CPU_POINTS", 100)
    net, rows = small(), []
    net.imnet.layers[1].register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    lr = torch.rand(3, 3, 7, 6, generator=generator())
    with torch.no_grad():
        found = net(lr, (21, 25))
        monkeypatch.undo()
        torch.testing.assert_close(found, small()(lr, (21, 25)), atol=1e-6, rtol=0)
    assert max(rows) == 99  # 33 points of each of 3 images


def test_the_skip_begins_as_bicubic():
    lr = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    model = LIIF(2.0, blocks=1, channels=8, hidden=(16,), global_skip=True)
    expected = resize(lr, (20, 13), clamp=False)
    torch.testing.assert_close(model(lr, (20, 13)), expected, rtol=0, atol=1e-6)
    torch.nn.init.constant_(model.imnet.layers[-1].bias, 0.5)  # in [-1, 1]
    torch.testing.assert_close(model(lr, (20, 13)), expected + 0.25, rtol=0, atol=1e-6)
