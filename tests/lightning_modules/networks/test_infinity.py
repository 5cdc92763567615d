"""Infinity's transformer: counts, released layout, and the same logits in any order of asking."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lightning_modules.networks.infinity import (
    Cache,
    InfinityTransformer,
    Mixture,
    Text,
    from_official,
    rotation,
)
from lightning_modules.networks.scales import Scales, published
from tests.reference import infinity_official

BITS, SIZES = 6, (128, 4, 2, 6, 256, 16)  # width, depth, chunks, bits, texts
SCALES = Scales([(1, 1), (2, 1), (2, 3), (4, 5)], full=(7, 9))


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return infinity_official.random_weights(*SIZES)


@pytest.fixture(scope="module")
def network(official: dict[str, Tensor]) -> InfinityTransformer:
    found = InfinityTransformer(BITS, 4, 128, 4, 256, 16).eval()
    found.load_state_dict(from_official(official, 16))
    return found


@pytest.fixture(scope="module")
def text() -> Text:
    generator = torch.Generator().manual_seed(1)
    return Text(torch.randn(2, 5, 256, generator=generator), torch.tensor([3, 5]))


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(2, SCALES.tokens - 1, BITS, generator=torch.Generator().manual_seed(2))


# ------------------------------------------------------------------------------ counts and weights


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({}, 8375.8),
        ({"bits": 32, "depth": 32, "width": 2048, "heads": 16}, 2204.6),
        ({"bits": 32, "depth": 12, "width": 768, "heads": 8}, 125.2),
        ({"bits": 32, "depth": 16, "width": 1152, "heads": 12}, 361.6),
        ({"bits": 32, "depth": 24, "width": 1536, "heads": 16}, 940.9),
        ({"bits": 32, "depth": 32, "width": 2080, "heads": 20}, 2256.7),
        ({"bits": 32, "depth": 40, "width": 2688, "heads": 24}, 4716.4),
        ({"bits": 32, "depth": 48, "width": 3360, "heads": 28}, 8767.2),
        ({"bits": 32, "depth": 58, "width": 4608, "heads": 36}, 19952.2),
    ],
    ids=["8b", "2b", "layer12", "layer16", "layer24", "layer32", "layer40", "layer48", "20b"],
)
def test_parameters(options: dict[str, int], millions: float) -> None:
    with torch.device("meta"):
        network = InfinityTransformer(**options)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


def test_parameters_of_tests() -> None:
    assert (
        sum(p.numel() for p in InfinityTransformer(8, 4, 128, 4, 256, 16).parameters()) == 1_331_744
    )
    assert (
        sum(p.numel() for p in InfinityTransformer(16, 4, 128, 4, 256, 16).parameters())
        == 1_334_832
    )


def test_keys_and_values_of_8b() -> None:
    cache = Cache(published(patch=2).tokens)
    k = torch.empty(1, 28, 1, 3584 // 28, dtype=torch.bfloat16, device="meta")
    for number in range(40):
        cache.extended(number, k, k)
    assert cache.tokens == 10_521
    held = sum(part.nbytes for pair in cache.own.values() for part in pair)
    assert round(held / 1e9, 1) == 6.0


def test_later_blocks_are_passed_by_more_often() -> None:
    network = InfinityTransformer(BITS, 5, 128, 4, 256, 16, drop_path=0.2)
    rates = [block.drop.p for block in network.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_released_names(network: InfinityTransformer, chunks: int) -> None:
    tensors = infinity_official.random_weights(*(*SIZES[:2], chunks, *SIZES[3:]))
    old = {"lvl_1L": torch.zeros(3), "attn_bias_for_masking": torch.zeros(3, 3)}
    found = from_official({**tensors, **old}, 16)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in found.items()} == shapes
    number = "block_chunks.1.module.1" if chunks == 2 else "block_chunks.3.module.0"
    last = tensors[f"{number if chunks > 1 else 'blocks.3'}.ffn.fc2.bias"]
    assert torch.equal(found["blocks.3.mlp.2.bias"], last)


def test_another_length_of_texts(official: dict[str, Tensor]) -> None:
    table = official["cfg_uncond"]
    assert torch.equal(from_official(official, 10)["no_text"], table[:10])
    longer = from_official(official, 20)["no_text"]
    assert torch.equal(longer[:16], table)
    assert not longer[16:].any()


def test_logits_are_those_of_the_equations(
    network: InfinityTransformer, official: dict[str, Tensor], text: Text, inputs: Tensor
) -> None:
    with torch.no_grad():
        found = network(inputs, SCALES, network.encode_text(text))
    for sample in range(2):
        expected = infinity_official.logits(
            *(official, inputs[sample], SCALES.grids, SCALES.full),
            *(text.features[sample, : text.lengths[sample]], 2),
        )
        torch.testing.assert_close(found[sample].flatten(1), expected, rtol=1e-4, atol=1e-4)


def test_attention_is_at_most_a_hundred_times_as_sharp(text: Text, inputs: Tensor) -> None:
    official = infinity_official.random_weights(*SIZES)
    name = next(name for name in official if name.endswith("sa.scale_mul_1H11"))
    found = []
    for log_scale in (math.log(100), 6.0):
        official[name] = torch.full_like(official[name], log_scale)
        network = InfinityTransformer(BITS, 4, 128, 4, 256, 16).eval()
        network.load_state_dict(from_official(official, 16))
        with torch.no_grad():
            found.append(network(inputs, SCALES, network.encode_text(text)))
    torch.testing.assert_close(*found)


# ------------------------------------------------------------------------------- one path for both


@pytest.mark.parametrize("cuts", [(0, 1, 2, 3, 4), (0, 3, 4), (0, 2, 4)])
def test_scale_by_scale_is_as_all_at_once(
    network: InfinityTransformer, text: Text, inputs: Tensor, cuts: tuple[int, ...]
) -> None:
    with torch.no_grad():
        told = network.encode_text(text)
        whole = network(inputs, SCALES, told)
        cache, parts = Cache(SCALES.tokens), []
        for first, last in pairwise(cuts):
            start, end = SCALES.spans[first].start, SCALES.spans[last - 1].stop
            given = inputs[:, max(start, 1) - 1 : end - 1] if end > 1 else None
            parts.append(network(given, SCALES, told, first, cache))
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)
    assert cache.length == SCALES.tokens


def test_tokens_see_their_scale_and_those_before(
    network: InfinityTransformer, text: Text, inputs: Tensor
) -> None:
    with torch.no_grad():
        told = network.encode_text(text)
        whole = network(inputs, SCALES, told)
        for number, span in enumerate(SCALES.spans[1:], 1):
            other = inputs.clone()
            other[:, span.start - 1] += 1
            changed = (network(other, SCALES, told) - whole).abs().amax((0, 2, 3)) > 1e-6
            assert not changed[: span.start].any()
            assert changed[span.start :].all(), number


def test_padding_of_texts_changes_nothing(
    network: InfinityTransformer, text: Text, inputs: Tensor
) -> None:
    longer = Text(torch.cat([text.features, torch.full((2, 4, 256), 7.0)], 1), text.lengths)
    with torch.no_grad():
        whole = network(inputs, SCALES, network.encode_text(text))
        padded = network(inputs, SCALES, network.encode_text(longer))
        alone = Text(text.features[:1, :3], text.lengths[:1])
        one = network(inputs[:1], SCALES, network.encode_text(alone))
    torch.testing.assert_close(padded, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one, whole[:1], rtol=1e-5, atol=1e-5)


def test_no_text(network: InfinityTransformer, text: Text, inputs: Tensor) -> None:
    none = network.without_text(text, torch.tensor([True, False]))
    assert torch.equal(none.features[1], text.features[1])
    assert torch.equal(none.features[0], network.no_text[:5])
    with torch.no_grad():
        one, other = (network(inputs, SCALES, network.encode_text(t)) for t in (text, none))
    assert torch.equal(one[1], other[1])
    assert not torch.allclose(one[0], other[0])


def test_guidance_within_the_network(
    network: InfinityTransformer, text: Text, inputs: Tensor
) -> None:
    same = inputs[:1].repeat(2, 1, 1)
    spans = [(span.stop - span.start, span.stop) for span in SCALES.spans]
    with torch.no_grad():
        told = network.encode_text(text)
        turn = rotation(SCALES, 0, len(SCALES), network.width // network.heads, same.device)
        for after in range(5):
            x, _ = network._sequence(same, SCALES, told, 0)
            for number in range(4 + 1):
                if number == after:  # 1.5 of what is told, less 0.5 of what is not
                    x = (1.5 * x[:1] - 0.5 * x[1:]).expand_as(x)
                if number < 4:
                    x = network.blocks[number](x, told, spans, turn, None, number)
            expected = network._logits(x, told)
            found = network(same, SCALES, told, mixture=Mixture(after, 1.5))
            torch.testing.assert_close(found, expected)
        plain = network(same, SCALES, told)
    assert not torch.allclose(plain[0], plain[1])
    assert not torch.allclose(found[0], plain[0])


def test_blocks_computed_again_have_the_same_gradients(text: Text, inputs: Tensor) -> None:
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        network = InfinityTransformer(
            BITS, 2, 128, 4, 256, 16, checkpointing=again, drop_path=0.5
        ).train()
        torch.manual_seed(1)
        network(inputs, SCALES, network.encode_text(text)).square().sum().backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(network.parameters())) - 1  # all but the table for no text
    torch.testing.assert_close(*found)


def test_in_bfloat16(network: InfinityTransformer, text: Text, inputs: Tensor) -> None:
    with torch.no_grad():
        told = network.encode_text(text)
        expected = network(inputs, SCALES, told)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found_told = network.encode_text(text)
            found = network(inputs, SCALES, found_told)
    # What all blocks are scaled and shifted by is not rounded.
    torch.testing.assert_close(tuple(found_told), tuple(told), rtol=0, atol=0)
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_tokens_are_embedded_unrounded_under_autocast(
    network: InfinityTransformer, text: Text, inputs: Tensor
) -> None:
    with torch.no_grad():
        told = network.encode_text(text)
        expected, _ = network._sequence(inputs, SCALES, told, 0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, _ = network._sequence(inputs, SCALES, told, 0)
    assert torch.equal(found, expected)


def test_at_first_blocks_do_little_and_no_bit_is_likelier(text: Text, inputs: Tensor) -> None:
    torch.manual_seed(0)
    network = InfinityTransformer(BITS, 4, 128, 4, 256, 16).eval()
    with torch.no_grad():
        logits = network(inputs, SCALES, network.encode_text(text))
    assert logits.abs().max() < 0.1


# ---------------------------------------------------------------------------------------- rotation


def test_positions_are_counted_in_the_finest_grid() -> None:
    scales = published(budget="0.06M")  # counted in 64 x 64 all the same
    cos, sin = rotation(scales, 3, 4, 128, torch.device("cpu"))
    assert cos.shape == (36, 64)
    theta = [10000 ** (-2 * j / 64) for j in range(32)]
    for row, column, y, x in ((0, 0, 0, 0), (1, 0, 11, 0), (0, 5, 0, 53), (3, 2, 32, 21)):
        angles = torch.tensor([y * t for t in theta] + [x * t for t in theta])
        torch.testing.assert_close(cos[6 * row + column], angles.cos(), rtol=0, atol=1e-5)
        torch.testing.assert_close(sin[6 * row + column], angles.sin(), rtol=0, atol=1e-5)


def test_halves_are_rounded_to_even() -> None:
    scales = Scales([(2, 4)], full=(5, 10))
    cos, _ = rotation(scales, 0, 1, 4, torch.device("cpu"))
    assert cos[4, 0].item() == pytest.approx(math.cos(2))  # 1 * 5 / 2
    assert [round(math.acos(c), 3) for c in cos[:2, 1].tolist()] == [0, 2]  # 1 * 10 / 4


# --------------------------------------------------------------------------------------- bad input


def test_what_does_not_fit(network: InfinityTransformer, text: Text, inputs: Tensor) -> None:
    with pytest.raises(ValueError, match="width is 100 with 4 heads"):
        InfinityTransformer(8, 1, 100, 4, 128)
    with pytest.raises(ValueError, match="text_width is 100"):
        InfinityTransformer(8, 1, 128, 4, 100)
    with pytest.raises(ValueError, match="drop_path is 1"):
        InfinityTransformer(8, 1, 128, 4, 128, drop_path=1)
    with pytest.raises(ValueError, match="features of texts have 128 channels; expected 256"):
        network.encode_text(Text(text.features[..., :128], text.lengths))
    with pytest.raises(
        ValueError, match=r"texts have up to 17 tokens; expected at most 16, .* text_length"
    ):
        network.without_text(Text(torch.zeros(1, 17, 256), torch.tensor([17])), torch.ones(1))
    told = network.encode_text(text)
    with pytest.raises(ValueError, match=r"5 tokens begin at scale 0 .* one of \[1, 3, 9, 29\]"):
        network(inputs[:, :4], SCALES, told)
    with pytest.raises(ValueError, match="scale 1 follows on 1 tokens, and 0 are known"):
        network(inputs[:, :2], SCALES, told, first=1)
    with pytest.raises(
        ValueError, match=r"there are 16 scales, and the network knows 15: set .*levels"
    ):
        network(inputs[:, :15], Scales([(1, 1)] * 16), told)
