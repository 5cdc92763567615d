"""LIIF: our convolutional form against the slow official one, and the traps between them."""

import pytest
import torch
from torch.nn import functional

from degradations.bicubic import resize
from lightning_modules.networks.liif import LIIF, grid, nearest
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


def official_image(net, lr, height, width, **options):
    state = net.state_dict()
    features = liif_official.encode(state, lr * 2 - 1)
    coord = liif_official.cell_centres(height, width).expand(len(lr), -1, 2)
    cell = torch.tensor([2 / height, 2 / width]).expand_as(coord)
    values = liif_official.query(state, features, coord, cell, **options) * 0.5 + 0.5
    return values.view(len(lr), height, width, 3).permute(0, 3, 1, 2)


# ---------------------------------------------------------------------------- size and names


@pytest.mark.parametrize(
    ("options", "count", "inputs"),
    [
        ({}, 1_567_299, 580),
        ({"unfold": False}, 1_436_227, 68),
        ({"cell": False}, 1_566_787, 578),
    ],
)
def test_size_and_names(options, count, inputs):
    net = LIIF(4, **options)
    state = net.state_dict()
    assert sum(p.numel() for p in net.parameters()) == count
    layers = {"sub_mean", "add_mean", "head.0", "body.16"}
    layers = {f"encoder.{name}" for name in layers}
    layers |= {f"encoder.body.{i}.body.{j}" for i in range(16) for j in (0, 2)}
    layers |= {f"imnet.layers.{i}" for i in range(0, 10, 2)}
    assert state.keys() == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert len(state) == 82
    assert state["imnet.layers.0.weight"].shape == (256, inputs)
    assert state["imnet.layers.8.weight"].shape == (3, 256)


def test_published_layouts_load_strictly():
    state = small().state_dict()
    checkpoint = {
        "model": {"name": "liif", "args": {"local_ensemble": True}, "sd": state},
        "optimizer": {"name": "adam", "sd": {"state": {}}},
        "epoch": 1000,
    }
    net = LIIF(2, blocks=1, channels=8, hidden=(32, 32))
    for given in (checkpoint, state):
        net.load_state_dict(LIIF.official(given), strict=True)
    lr = torch.rand(1, 3, 5, 6, generator=generator())
    with torch.no_grad():
        torch.testing.assert_close(net(lr, (9, 7)), small()(lr, (9, 7)), atol=0, rtol=0)


def test_the_encoder_carries_means_but_does_not_use_them():
    net, lr = small(), torch.rand(1, 3, 5, 6, generator=generator())
    expected = net.encode(lr)
    net.encoder.sub_mean.bias += 1
    net.encoder.add_mean.bias += 1
    torch.testing.assert_close(net.encode(lr), expected, atol=0, rtol=0)


# ---------------------------------------------------------------------------- parity


def test_the_published_size_equals_the_official_form():
    torch.manual_seed(0)
    net = LIIF(4)
    lr = torch.rand(1, 3, 12, 10, generator=generator())
    with torch.no_grad():
        expected = official_image(net, lr, 44, 37)
        found = net(lr, (44, 37))
    assert expected.std() > 5e-3
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("unfold", [True, False])
@pytest.mark.parametrize("cell", [True, False])
@pytest.mark.parametrize("ensemble", [True, False])
def test_every_option_equals_the_official_form(unfold, cell, ensemble):
    net = small(unfold=unfold, cell=cell, ensemble=ensemble)
    lr = torch.rand(2, 3, 12, 10, generator=generator())
    with torch.no_grad():
        expected = official_image(net, lr, 44, 37, unfold=unfold, use_cell=cell, ensemble=ensemble)
        found = net(lr, (44, 37))
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


# x3 puts pixels on cell centres, x2 down puts them on boundaries: ties that the nudge decides.
@pytest.mark.parametrize("size", [(36, 30), (12, 10), (6, 5), (1, 1), (13, 150)])
def test_sizes_with_ties_equal_the_official_form(size):
    net = small()
    lr = torch.rand(1, 3, 12, 10, generator=generator())
    with torch.no_grad():
        expected = official_image(net, lr, *size)
        torch.testing.assert_close(net(lr, size), expected, atol=TOLERANCE, rtol=0)


def test_a_single_pixel_can_be_enlarged():
    net, lr = small(), torch.rand(1, 3, 1, 1, generator=generator())
    with torch.no_grad():
        expected = official_image(net, lr, 4, 4)
        torch.testing.assert_close(net(lr), expected, atol=TOLERANCE, rtol=0)


def test_gradients_equal_the_official_form():
    net = small().double()
    source = generator()
    lr = torch.rand(2, 3, 9, 8, generator=source, dtype=torch.float64, requires_grad=True)
    coord = torch.rand(2, 50, 2, generator=source, dtype=torch.float64) * 2 - 1
    cell = torch.rand(2, 50, 2, generator=source, dtype=torch.float64)  # one each, as in training
    target = torch.rand(2, 50, 3, generator=source, dtype=torch.float64)
    state = dict(net.named_parameters())

    ours = net.query(net.encode(lr), coord, cell)
    features = liif_official.encode(state, lr * 2 - 1)
    official = liif_official.query(state, features, coord, cell) * 0.5 + 0.5
    wanted = [lr, *net.parameters()]
    found, expected = (
        torch.autograd.grad((values - target).abs().mean(), wanted) for values in (ours, official)
    )
    torch.testing.assert_close(ours, official, atol=1e-12, rtol=0)
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


# ---------------------------------------------------------------------------- traps


def tap_major(net, coord, cell):
    weight = net.imnet.first.weight
    taps = weight.data[:, :72].view(-1, 8, 9).transpose(1, 2).flatten(1)
    weight.data[:, :72] = taps.clone()
    return coord, cell


def swapped_axes(net, coord, cell):
    return coord.flip(-1), cell


def corner_aligned(net, coord, cell):
    return coord * torch.tensor([44 / 43, 37 / 36]), cell


def scaled_cell(net, coord, cell):
    return coord, cell * torch.tensor([12.0, 10.0])


@pytest.mark.parametrize("mistake", [tap_major, swapped_axes, corner_aligned, scaled_cell])
def test_the_tolerance_would_notice(mistake):
    net, lr = small(), torch.rand(1, 3, 12, 10, generator=generator())
    coord = grid(44, 37, lr.device).unsqueeze(0)
    cell = torch.tensor([2 / 44, 2 / 37]).expand_as(coord)
    with torch.no_grad():
        features = net.encode(lr)
        right = net.query(features, coord, cell)
        wrong = net.query(features, *mistake(net, coord, cell))
    assert (right - wrong).abs().max() > 100 * TOLERANCE


def test_first_layer_is_that_of_the_unfolded_features():
    net = small()
    features = torch.randn(2, 8, 5, 4, generator=generator())
    unfolded = functional.unfold(features, 3, padding=1).transpose(1, 2).flatten(0, 1)
    expected = unfolded @ net.imnet.first.weight[:, :72].t() + net.imnet.first.bias
    torch.testing.assert_close(net._first_layer(features), expected, atol=1e-5, rtol=0)


def test_grid_holds_centres_row_first():
    found = grid(2, 4, torch.device("cpu"))
    rows, columns = [-0.5, 0.5], [-0.75, -0.25, 0.25, 0.75]
    torch.testing.assert_close(found, torch.tensor([[y, x] for y in rows for x in columns]))


def test_one_lr_pixel_spans_two_units():
    # Four cells with centres -0.75, -0.25, 0.25, 0.75; the point lies an eighth right of -0.25.
    point = torch.tensor([-0.25 + 0.0625])
    for shift, index, offset in [(0, 1, 0.25), (1, 2, -1.75), (-1, 1, 0.25)]:
        cell, relative = nearest(point, 4, shift)
        assert cell.item() == index
        assert relative.item() == pytest.approx(offset, abs=1e-6)


def test_both_shifts_pick_the_same_cell_at_the_border():
    for point, index in [(-0.99, 0), (0.99, 3), (-1.0, 0), (1.0, 3)]:
        for shift in (-1, 1):
            assert nearest(torch.tensor([point]), 4, shift)[0].item() == index


def test_ties_go_to_the_later_cell():
    # From a cell's centre, half a cell either way is exactly a boundary.
    centres = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    assert nearest(centres, 4, 1)[0].tolist() == [1, 2, 3, 3]
    assert nearest(centres, 4, -1)[0].tolist() == [0, 1, 2, 3]


def test_ensemble_weights_sum_to_one():
    net = small()
    for parameter in net.imnet.layers[-1].parameters():
        parameter.data.zero_()
    net.imnet.layers[-1].bias.data[:] = torch.tensor([0.0, 0.5, -1.0])
    with torch.no_grad():
        found = net(torch.rand(1, 3, 6, 5, generator=generator()), (17, 13))
    expected = torch.tensor([0.5, 0.75, 0.0]).view(1, 3, 1, 1).expand_as(found)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_ensemble_removes_seams_between_cells():
    # Along a row, a step of 1e-5 must not jump where the nearest cell changes.
    lr = torch.rand(1, 3, 6, 6, generator=generator())
    boundary = torch.linspace(-1, 1, 7)[1:-1]
    columns = torch.stack([boundary - 5e-6, boundary + 5e-6])
    coord = torch.stack([torch.full_like(columns, 0.1), columns], dim=-1).view(1, -1, 2)
    cell = torch.full((1, 1, 2), 0.1)
    jumps = {}
    for ensemble in (True, False):
        net = small(ensemble=ensemble)
        with torch.no_grad():
            before, after = net.query(net.encode(lr), coord, cell).view(2, -1, 3)
        jumps[ensemble] = (before - after).abs().max().item()
    assert jumps[False] > 0.01
    assert jumps[True] < 1e-3


# ---------------------------------------------------------------------------- queries


@pytest.mark.parametrize("chunk", [1, 97, 500, 100_000])
def test_result_does_not_depend_on_the_chunk(chunk):
    lr = torch.rand(2, 3, 7, 6, generator=generator())
    with torch.no_grad():
        expected = small()(lr, (21, 25))
        found = small(chunk=chunk)(lr, (21, 25))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_no_layer_sees_more_points_than_a_chunk():
    net = small(chunk=100)
    rows = []
    net.imnet.layers[1].register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    with torch.no_grad():
        net(torch.rand(3, 3, 7, 6, generator=generator()), (21, 25))
    assert max(rows) == 99  # 33 points of each of 3 images
    assert sum(rows) == 4 * 3 * 21 * 25


def test_images_of_a_batch_do_not_mix():
    net, lr = small(), torch.rand(3, 3, 6, 8, generator=generator())
    with torch.no_grad():
        alone = torch.cat([net(image, (14, 19)) for image in lr.split(1)])
        torch.testing.assert_close(net(lr, (14, 19)), alone, atol=1e-6, rtol=0)


def test_one_cell_for_all_points_or_one_each():
    net, source = small(), generator()
    features = torch.randn(2, 8, 5, 4, generator=source)
    coord = torch.rand(2, 30, 2, generator=source) * 2 - 1
    cell = torch.tensor([0.1, 0.2]).expand(2, 1, 2)
    with torch.no_grad():
        one, each = (
            net.query(features, coord, cell),
            net.query(features, coord, cell.expand_as(coord)),
        )
    torch.testing.assert_close(one, each, atol=0, rtol=0)


@pytest.mark.parametrize(("scale", "size"), [(2, (14, 18)), (2.5, (18, 22)), (0.5, (4, 4))])
def test_size_is_the_scale_unless_given(scale, size):
    net, lr = small(scale), torch.rand(1, 3, 7, 9, generator=generator())
    with torch.no_grad():
        assert net(lr).shape[-2:] == size
        assert net(lr, (3, 40)).shape[-2:] == (3, 40)


def test_the_skip_begins_as_bicubic():
    lr = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    model = LIIF(2.0, blocks=1, channels=8, hidden=(16,), global_skip=True)
    expected = resize(lr, (20, 13), clamp=False)
    torch.testing.assert_close(model(lr, (20, 13)), expected, rtol=0, atol=1e-6)
    torch.nn.init.constant_(model.imnet.layers[-1].bias, 0.5)  # in [-1, 1]
    torch.testing.assert_close(model(lr, (20, 13)), expected + 0.25, rtol=0, atol=1e-6)


def test_channels_last():
    net, lr = small(), torch.rand(2, 3, 8, 10, generator=generator())
    with torch.no_grad():
        expected = net(lr, (20, 23))
        net.to(memory_format=torch.channels_last)
        found = net(lr.contiguous(memory_format=torch.channels_last), (20, 23))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_autocast_keeps_coordinates_and_blend_exact():
    # Trained in bf16: the answer is float32, near the exact one, and gradients reach every weight.
    net, lr = small(), torch.rand(1, 3, 40, 40, generator=generator())
    expected = net(lr, (160, 160))
    with torch.autocast("cpu", torch.bfloat16):
        found = net(lr, (160, 160))
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.02 * expected.std()
    found.mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


# ---------------------------------------------------------------------------- errors, speed


@pytest.mark.parametrize("scale", [0, -2.0, float("nan"), float("inf")])
def test_scale_that_is_none(scale):
    with pytest.raises(ValueError, match=r"data\.init_args\.scale is .*positive number"):
        LIIF(scale)


def test_output_without_pixels():
    with pytest.raises(ValueError, match=r"0x1 pixels from 2x8: data\.init_args\.scale is 0\.1"):
        small(0.1)(torch.rand(1, 3, 2, 8))


@pytest.mark.parametrize(
    ("options", "message"), [({"chunk": 0}, "chunk of LIIF is 0"), ({"hidden": ()}, "hidden")]
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        LIIF(2, blocks=1, channels=8, **options)
