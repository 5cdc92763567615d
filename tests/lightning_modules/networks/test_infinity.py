"""Infinity as a method: what it trains on, what it is given, and what it makes."""

from __future__ import annotations

import io

import pytest
import torch

from files.class_path import class_path
from lightning_modules.backbone.condition import Classes
from lightning_modules.networks.infinity import InfinityTransformer, Text
from lightning_modules.next_scale.infinity import Infinity
from lightning_modules.next_scale.next_scale import (
    Bitwise,
    bit_losses,
    scale_weights,
    self_correction,
    teacher_forcing,
)
from tests.lightning_modules.next_scale_parts import BITS, space, transformer
from tests.reference.infinity_official import random_weights


def method(**settings):
    found = Infinity(1, space(), transformer(), **settings)
    found.logged = {}
    found.log = lambda name, value, **_: found.logged.update({name: float(value.detach())})
    return found


def batch(count=2, text=None):
    generator = torch.Generator().manual_seed(0)
    found = {
        "key": ["a", "b"][:count],
        "seed": torch.tensor([3, 4])[:count],
        "hr": torch.rand(2, 3, 32, 32, generator=generator)[:count],
        "size": (32, 32),
    }
    return found | ({} if text is None else {"text": text})


def wanted(given):
    return {name: given[name] for name in ("key", "seed", "size", "text") if name in given}


class TestTraining:
    def test_the_loss_is_that_of_bits_said_by_the_image(self):
        model = method(flip_strength=0.0)
        loss = model.training_step(batch(), 0)
        f = model.space.encode(batch()["hr"])
        scales = model.space.scales((4, 4))
        given = teacher_forcing(f, scales)
        none = model.transformer.no_text[:1].expand(2, 1, -1)
        got = model.transformer.encode_text(Text(none, torch.ones(2)))
        odds = model.transformer(given.inputs, scales, got).diff(dim=-1)[..., 0]
        each = torch.nn.functional.softplus(torch.where(given.bits > 0, -odds, odds)).mean(-1)
        torch.testing.assert_close(loss, (each * scale_weights(scales)).sum(1).mean())
        assert model.logged["train/loss"] == pytest.approx(float(loss.detach()))
        right = (odds > 0) == (given.bits > 0)
        assert model.logged["train/bit_accuracy"] == pytest.approx(float(right.float().mean()))
        last = each[:, scales.spans[3]].mean()
        assert model.logged["train/loss_scale_4"] == pytest.approx(float(last), rel=1e-5)

    def test_bits_are_said_wrong_and_labels_mend_them(self):
        model = method(flip_strength=1.0, flip_scales=2, reweight=False)
        torch.manual_seed(1)
        loss = model.training_step(batch(), 0)
        scales = model.space.scales((4, 4))
        torch.manual_seed(1)
        change = self_correction(1.0, 2)
        given = teacher_forcing(model.space.encode(batch()["hr"]), scales, change)
        none = model.transformer.no_text[:1].expand(2, 1, -1)
        got = model.transformer.encode_text(Text(none, torch.ones(2)))
        logits = model.transformer(given.inputs, scales, got)
        torch.testing.assert_close(loss, bit_losses(logits, given.bits).mean())
        plain = method(flip_strength=0.0, reweight=False).training_step(batch(), 0)
        none_of_it = method(flip_strength=1.0, flip_scales=0, reweight=False)
        assert torch.equal(none_of_it.training_step(batch(), 0), plain)
        assert abs(loss - plain) > 1e-3

    def test_latents_that_were_encoded_before(self):
        model, given = method(flip_strength=0.0), batch()
        encoded = given | {"latent": model.space.encode(given["hr"])}
        del encoded["hr"]
        encoded["space"] = model.space.identity
        losses = [model.training_step(each, 0) for each in (given, encoded)]
        assert torch.equal(*losses)
        with pytest.raises(ValueError, match="were made by another"):
            method().training_step(encoded | {"space": "another"}, 0)

    def test_only_the_transformer_is_trained(self):
        model = method()
        model.training_step(batch(), 0).backward()
        trained = {name for name, p in model.named_parameters() if p.grad is not None}
        assert trained == {f"transformer.{n}" for n, _ in model.transformer.named_parameters()}

    def test_tables_and_norms_are_not_decayed(self):
        groups = method().configure_optimizers().param_groups
        assert [group["weight_decay"] for group in groups] == [0.005, 0.0]
        model = method()
        named = {id(p): n for n, p in model.named_parameters()}
        decayed, others = ({named[id(p)] for p in group["params"]} for group in model.optimized())
        assert "transformer.blocks.0.mlp.0.weight" in decayed
        assert {n for n in others if "weight" in n and "norm" not in n} == {
            "transformer.level.weight"
        }
        for table in ("no_text", "start", "blocks.1.own", "blocks.0.attention.log_scale"):
            assert f"transformer.{table}" in others
        assert decayed | others == {n for n, p in model.named_parameters() if p.requires_grad}

    @pytest.mark.slow
    def test_it_learns(self):
        torch.manual_seed(0)
        model = method(flip_strength=0.0, encoder=Classes(["a", "b"]), text_dropout=0.0)
        given = batch(text=["a", "b"])
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, 2e-3)
        for _ in range(200):
            optimizer.zero_grad()
            model.training_step(given, 0).backward()
            optimizer.step()
        assert model.logged["train/bit_accuracy"] > 0.99
        made = model.eval().sample(wanted(given))["sr"]
        f = model.space.encode(given["hr"])
        expected = model.space.decode(f).clamp(0, 1)
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-3)


class TestTexts:
    def test_the_table_for_no_text_begins_as_released(self):
        """Normal numbers of deviation 1.2, none beyond 2, and then divided."""
        torch.manual_seed(0)
        table = InfinityTransformer(BITS, 1, 64, 2, text_width=128, text_length=64).no_text
        numbers = table.detach() * 128**0.5
        assert numbers.abs().max() <= 2 + 1e-5
        assert 0.93 < numbers.std() < 0.99  # the deviation of such numbers is 0.955

    def test_dropped_captions_are_no_text(self):
        given = batch(text=["a", "b"])
        model = method(encoder=Classes(["a", "b"]), text_dropout=1.0, flip_strength=0.0)
        plain = method(flip_strength=0.0)
        torch.testing.assert_close(model.training_step(given, 0), plain.training_step(given, 0))
        model.text_dropout = 0.0
        assert model.training_step(given, 0) != plain.training_step(given, 0)

    def test_cached_features_need_no_encoder(self):
        encoder = Classes(["a", "b"])
        found = encoder(["b", "a"])
        given = batch() | {"text_features": found.features, "text_lengths": found.lengths}
        made = method().eval().sample(given)["sr"]
        expected = method(encoder=encoder).eval().sample(batch(text=["b", "a"]))["sr"]
        assert torch.equal(made, expected)
        assert not torch.equal(made, method().eval().sample(batch())["sr"])

    def test_one_prompt_for_all(self):
        encoder = Classes(["a", "b"])
        made = method(encoder=encoder, prompt="b").eval().sample(batch())["sr"]
        expected = method(encoder=encoder).eval().sample(batch(text=["b", "b"]))["sr"]
        assert torch.equal(made, expected)

    def test_guidance_without_a_text_is_refused(self):
        led = method(bits=Bitwise(guidance=3)).eval()
        with pytest.raises(ValueError, match=r"guidance is 3, and there is no text: set"):
            led.sample(wanted(batch()))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "a has no caption"),
            ({"text": ["a", " "]}, "b has an empty caption"),
            ({"text": ["a", "dog"]}, "'dog' is no class"),
            (
                {"text_features": torch.ones(2, 1, 96), "text_lengths": torch.ones(2)},
                "have 96 channels and the transformer takes 128",
            ),
        ],
    )
    def test_captions_that_cannot_be(self, given, message):
        model = method(encoder=Classes(["a", "b"]))
        with pytest.raises(ValueError, match=message):
            model.training_step(batch() | given, 0)

    def test_a_prompt_beside_features_of_captions(self):
        given = batch() | {"text_features": torch.ones(2, 1, 128), "text_lengths": torch.ones(2)}
        model = method(encoder=Classes(["a", "b"]), prompt="b")
        with pytest.raises(ValueError, match="has features of its own caption"):
            model.training_step(given, 0)

    def test_half_features_leave_the_table_as_it_is(self):
        model, seen = method(text_dropout=1.0), []
        model.transformer.text_norm.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        features = torch.ones(2, 1, 128, dtype=torch.float16)
        model.training_step(
            batch() | {"text_features": features, "text_lengths": torch.ones(2)}, 0
        ).backward()
        assert torch.equal(seen[0][0, 0], model.transformer.no_text[0])

    def test_options_tell_results_apart(self):
        assert method().output_settings == {}
        found = method(bits=Bitwise(0.7), encoder=Classes(["a"]), prompt="a").output_settings
        assert found == {"tau": 0.7, "encoder": "Classes", "prompt": "a"}


class TestImages:
    def test_an_image_does_not_depend_on_its_batch(self):
        model = method(bits=Bitwise(1.0)).eval()
        both = model.sample(wanted(batch()))["sr"]
        torch.testing.assert_close(model.sample(wanted(batch(1)))["sr"], both[:1])
        assert not torch.equal(both[0], both[1])

    def test_bits_are_those_of_the_image(self):
        model = method(bits=Bitwise(1.0)).eval()
        codes = model.bits_of(wanted(batch()))
        total = sum(
            torch.nn.functional.interpolate(code, (4, 4), mode="bilinear") for code in codes
        )
        made = model.sample(wanted(batch()))["sr"]
        torch.testing.assert_close(model.decoded(total).clamp(0, 1), made)

    @pytest.mark.parametrize(
        ("size", "message"),
        [((40, 32), "40x32 pixels has no scales; known sizes are 32x32"), ((30, 32), "of 8")],
    )
    def test_a_size_without_scales(self, size, message):
        with pytest.raises(ValueError, match=message):
            method().eval().sample(wanted(batch()) | {"size": size})


class TestWeights:
    def test_a_released_file(self):
        model = method()
        official = random_weights(64, 2, 1, BITS, 128, 8)
        found = model.import_official(official)
        assert found.keys() == model.state_dict().keys()
        name = "transformer.blocks.1.attention.qkv.weight"
        assert torch.equal(found[name], official["blocks.1.sa.mat_qkv.weight"])

    def test_a_checkpoint_has_the_transformer_alone(self, tmp_path):
        model = method()
        checkpoint = {"state_dict": model.state_dict()}
        model.on_save_checkpoint(checkpoint)
        assert all(name.startswith("transformer.") for name in checkpoint["state_dict"])
        assert checkpoint["model"] == class_path(type(model))
        file = io.BytesIO()
        torch.save(checkpoint, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        other = Infinity(1, space(), transformer(7))
        other.on_load_checkpoint(loaded)
        other.load_state_dict(loaded["state_dict"])
        made = [each.eval().sample(wanted(batch()))["sr"] for each in (model, other)]
        assert torch.equal(*made)
        got = {**loaded, "frozen": {**loaded["frozen"], "encoder": "t5 0123456789abcdef"}}
        path = tmp_path / "a.ckpt"
        torch.save({**got, "pytorch-lightning_version": "2.6"}, path)
        other.load_weights(path)  # where nothing reads captions, no encoder is needed
        with pytest.raises(ValueError, match="trained with encoder from t5"):
            method(encoder=Classes(["a"])).load_weights(path)
        with pytest.raises(ValueError, match="was trained with space from test"):
            Infinity(1, space(8), transformer()).on_load_checkpoint(loaded)

    def test_a_tokenizer_that_is_not_trained(self):
        model = method()
        model.space.source = ""
        with pytest.raises(ValueError, match=r"set model\.init_args\.space_weights"):
            model.setup("fit")


def test_what_does_not_fit():
    other = space()
    other.patch = 2
    with pytest.raises(ValueError, match="4 bits a token and the space has 16"):
        Infinity(1, other, transformer())
    with pytest.raises(ValueError, match="text_dropout is 2"):
        method(text_dropout=2)
