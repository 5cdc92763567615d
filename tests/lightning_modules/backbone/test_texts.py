"""Features of captions: of T5, of a file, of classes, and those that were cached."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.backbone import prompt
from lightning_modules.backbone.condition import T5, FixedText, text_of
from tests import small_t5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("t5")
    small_t5.write(place)
    return str(place)


class TestT5:
    def test_rows_are_tokens_and_padding_does_not_count(self, folder):
        encoder = T5(folder)
        both = encoder(["a red car", "car"])
        assert both.features.shape == (2, 4, small_t5.WIDTH)
        assert both.lengths.tolist() == [4, 2]
        alone = encoder(["car"])
        torch.testing.assert_close(both.features[1, :2], alone.features[0])

    def test_it_is_frozen_and_names_its_weights(self, folder, monkeypatch):
        monkeypatch.setenv("PLACE", folder)
        encoder = T5("$PLACE").train()
        assert not encoder.model.training
        assert not any(p.requires_grad for p in encoder.parameters())
        assert encoder.source.split()[-1] == T5(folder).source.split()[-1]
        assert encoder.width == small_t5.WIDTH


def test_one_text_from_a_file(tmp_path):
    features = torch.randn(1, 3, 16)
    prompt.write(tmp_path / "text.safetensors", lambda _: features, {"prompt": "a car"})
    found = FixedText(tmp_path / "text.safetensors")
    said = text_of({"key": ["a", "b"]}, found, None)
    assert torch.equal(said.features, features.expand(2, -1, -1))
    assert said.lengths.tolist() == [3, 3]
    assert "text.safetensors" in found.source
    cached = {"key": ["a"], "text_features": features, "text_lengths": torch.tensor([3])}
    with pytest.raises(ValueError, match=r"a has features .*encoder is for all"):
        text_of(cached, found, None)


def test_the_command_that_writes_such_a_file(folder, tmp_path):
    out = tmp_path / "text.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no embedding of a prompt at .*--t5"):
        FixedText(out)
    words = ("--t5", "--model", folder, "--prompt", "a red car", "--out", str(out))
    assert prompt.main(words) == 0
    said = FixedText(out)(["", ""])
    expected = T5(folder)(["a red car"])
    torch.testing.assert_close(said.features[1:], expected.features)
    assert said.lengths.tolist() == [4, 4]
