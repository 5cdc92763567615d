"""NSARM: both stages, what they start from, and what becomes of images of any size."""

from __future__ import annotations

import dataclasses
import io

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from files.class_path import class_path
from lightning_modules.backbone.condition import Classes
from lightning_modules.networks.bsq import quantized, scales_of
from lightning_modules.networks.infinity import Text
from lightning_modules.networks.transformation import Branch, LatentEstimate, Transformation
from lightning_modules.next_scale.infinity import Infinity
from lightning_modules.next_scale.next_scale import Bitwise
from lightning_modules.next_scale.nsarm import NSARM, StageTwo
from tests.lightning_modules.networks.test_transformation import official as released
from tests.lightning_modules.next_scale_parts import BITS, GRIDS, mapper, space, transformer
from tests.reference.infinity_official import random_weights

STAGE_TWO = {field.name for field in dataclasses.fields(StageTwo)}


def method(second=True, **settings):
    of_two = {name: settings.pop(name) for name in STAGE_TWO & settings.keys()}
    settings["stage_two"] = StageTwo(**of_two)
    found = NSARM(2, space(), mapper(), transformer() if second else None, **settings)
    found.logged = {}
    found.log = lambda name, value, **_: found.logged.update({name: float(value.detach())})
    return found


def estimating(network=None, enlarge_lr=False, **settings):
    torch.manual_seed(0)
    size = (4, 4) if enlarge_lr else (2, 2)
    estimate = LatentEstimate(BITS, size, GRIDS[:2], (4, 4), width=8, blocks=1)
    found = NSARM(2, space(), estimate, network, enlarge_lr=enlarge_lr, **settings)
    found.log = lambda *_, **__: None
    return found


def batch(count=2, h=16, w=16):
    generator = torch.Generator().manual_seed(0)
    return {
        "key": ["a", "b"][:count],
        "seed": torch.tensor([3, 4])[:count],
        "lr": torch.rand(2, 3, h, w, generator=generator)[:count],
        "hr": torch.rand(2, 3, 2 * h, 2 * w, generator=generator)[:count],
        "size": (2 * h, 2 * w),
    }


def flat(images):
    return torch.cat([each.flatten(1) for each in images], 1)


class TestStageOne:
    def test_the_loss_is_the_distance_to_residuals_that_are_not_quantised(self):
        model, given = method(False), batch()
        loss = model.training_step(given, 0)
        f, y = model.space.encode(given["hr"]), model.space.encode(given["lr"])
        first = functional.interpolate(f, (1, 1), mode="area")
        rest = f - functional.interpolate(quantized(first), (4, 4), mode="bilinear")
        residuals = [first, functional.interpolate(rest, (2, 2), mode="area")]
        torch.testing.assert_close(
            loss, functional.mse_loss(flat(model.mapper(y)), flat(residuals))
        )
        expected = functional.mse_loss(model.mapper(y)[1], residuals[1])
        assert model.logged["train/mse_scale_2"] == pytest.approx(float(expected.detach()))

    def test_only_the_network_is_trained(self):
        model = method(False)
        model.training_step(batch(), 0).backward()
        assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None} == {
            "mapper"
        }

    def test_what_it_restores_are_the_first_scales(self):
        model, given = method(False, color_fix="none").eval(), batch()
        codes = [quantized(o) for o in model.mapper(model.space.encode(given["lr"]))]
        total = sum(functional.interpolate(code, (4, 4), mode="bilinear") for code in codes)
        expected = model.space.vae.decode(total).clamp(0, 1)
        torch.testing.assert_close(model.enlarge(given)["sr"], expected)
        found = model.bits_of(given)
        assert [tuple(code.shape[-2:]) for code in found] == GRIDS
        assert not any(code.any() for code in found[2:])
        assert torch.equal(found[1], codes[1])


class TestStageTwo:
    def test_labels_are_what_the_first_scales_left_out(self):
        model, given = method(), batch()
        loss = model.training_step(given, 0)
        f, y = model.space.encode(given["hr"]), model.space.encode(given["lr"])
        known = [quantized(o) for o in model.mapper(y)]
        total = sum(functional.interpolate(code, (4, 4), mode="bilinear") for code in known)
        later = list(scales_of(f - total, GRIDS[2:]))
        bits = torch.cat([scale.bits.flatten(2).mT for scale in later], 1).float()
        inputs, so_far = [], functional.interpolate(known[0], (4, 4), mode="bilinear")
        inputs.append(functional.interpolate(so_far, (2, 2), mode="bilinear"))
        for size, said in zip(GRIDS[2:], (total, total + later[0].total), strict=True):
            inputs.append(functional.interpolate(said, size, mode="bilinear"))
        tokens = torch.cat([x.flatten(2).mT for x in inputs], 1)
        net = model.transformer
        nothing = net.no_text[:1].expand(2, 1, -1)
        got = net.encode_text(Text(nothing, torch.ones(2)))
        logits = net(tokens, model.scales, got)[:, 5:]
        losses = functional.cross_entropy(
            logits.flatten(0, 2), bits.long().flatten(), reduction="none"
        )
        losses = losses.view(2, 25, BITS).mean(-1)
        expected = (losses[:, :9].sum(1) / 3 + losses[:, 9:].sum(1) / 4) / 7
        torch.testing.assert_close(loss, expected.mean())
        assert set(model.logged) >= {"train/loss_scale_3", "train/loss_scale_4"}
        assert "train/loss_scale_2" not in model.logged

    def test_gradients_reach_the_network_straight_through(self):
        model = method()
        model.training_step(batch(), 0).backward()
        assert all(p.grad is not None for p in model.mapper.parameters())
        assert sum(float(p.grad.abs().sum()) for p in model.mapper.parameters()) > 0

    def test_a_network_that_is_not_trained(self):
        branches = [Branch(16, 1, 2)] * 2
        torch.manual_seed(0)
        dropping = Transformation(BITS, (2, 2), GRIDS[:2], branches, (8, 8), dropout=0.9)
        # Without `train()`, which Lightning does not call either.
        model = NSARM(2, space(), dropping, transformer(), stage_two=StageTwo(train_mapper=False))
        model.log = lambda *_, **__: None
        losses = [model.training_step(batch(), 0) for _ in range(2)]
        assert torch.equal(*losses)
        losses[0].backward()
        assert not any(p.requires_grad for p in model.mapper.parameters())
        assert not any(name.startswith("mapper") for name in model.checkpoint_keys())

    def test_captions(self):
        """As cached features of the same captions; and they matter."""
        encoder = Classes(["a", "b"])
        got = method(encoder=encoder, text_dropout=0.0)
        cached = encoder(["b", "a"])
        features = {"text_features": cached.features, "text_lengths": cached.lengths}
        losses = [
            got.training_step(batch() | {"text": ["b", "a"]}, 0),
            method(text_dropout=0.0).training_step(batch() | features, 0),
            got.training_step(batch() | {"text": ["a", "b"]}, 0),
        ]
        assert torch.equal(losses[0], losses[1])
        assert losses[0] != losses[2]
        losses[0].backward()
        assert encoder.table.weight.grad.any()
        made = [
            got.eval().enlarge(batch() | {"text": ["b", "a"]})["sr"],
            method().eval().enlarge(batch() | features)["sr"],
            method().eval().enlarge(batch())["sr"],
        ]
        assert torch.equal(made[0], made[1])
        assert not torch.equal(made[1], made[2])

    @pytest.mark.slow
    def test_it_learns(self):
        torch.manual_seed(0)
        model, given = method(text_dropout=0.0, color_fix="none", bits=Bitwise(0)), batch()
        optimizer = torch.optim.Adam(model.transformer.parameters(), 2e-3)
        for _ in range(200):
            optimizer.zero_grad()
            model.training_step(given, 0).backward()
            optimizer.step()
        assert model.logged["train/bit_accuracy"] > 0.99
        codes = model.eval().bits_of(given)
        f = model.space.encode(given["hr"])
        said = sum(functional.interpolate(c, (4, 4), mode="bilinear") for c in codes[:2])
        expected = [scale.code for scale in scales_of(f - said, GRIDS[2:])]
        right = (flat(codes[2:]) == flat(expected)).float().mean()
        assert right > 0.95


class TestChoicesThatAreNotThePapers:
    """A mapper that corrects its own codes, an enlarged LR, and a rate of the mapper's own."""

    def test_targets_are_the_mappers_choice(self):
        model, given = estimating(), batch()
        loss = model.training_step(given, 0)
        f, y = model.space.encode(given["hr"]), model.space.encode(given["lr"])
        off = model.mapper.estimate(y) - f
        parts = [functional.interpolate(off, grid, mode="area") for grid in GRIDS[:2]]
        torch.testing.assert_close(loss, flat(parts).square().mean())
        loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in model.mapper.parameters())

    def test_it_also_leads_to_stage_two(self):
        model, given = estimating(transformer()), batch()
        model.training_step(given, 0).backward()
        assert sum(float(p.grad.abs().sum()) for p in model.mapper.parameters()) > 0
        assert model.eval().enlarge(given)["sr"].shape == given["hr"].shape

    def test_lr_is_enlarged_before_it_is_encoded(self):
        model, given = estimating(enlarge_lr=True), batch()
        large = functional.interpolate(given["lr"], (32, 32), mode="bicubic")
        f, y = model.latents(given)
        torch.testing.assert_close(y, model.space.encode(large))
        assert f.shape == y.shape == (2, BITS, 4, 4)
        torch.testing.assert_close(model.enlarged_lr(given["lr"], (32, 32)), large)
        codes = model.eval().bits_of(given)
        assert torch.equal(codes[0], quantized(model.mapper(y)[0]))

    @pytest.mark.parametrize("size", [(16, 16), (7, 30), (37, 20)])
    def test_an_enlarged_lr_of_any_size(self, size):
        model = estimating(enlarge_lr=True).eval()
        assert (model.tile, model.tile_multiple) == (16, 4)  # of latents of 8 pixels of HR
        given = batch(1, *size)
        assert model.enlarge(given)["sr"].shape[-2:] == (2 * size[0], 2 * size[1])
        assert (model.tile_count > 1) == (max(size) > 16)

    def test_the_mapper_has_a_rate_of_its_own(self):
        model = method(mapper_lr=1e-7, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3))
        rates = {
            id(p): g["lr"] for g in model.configure_optimizers().param_groups for p in g["params"]
        }
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert rates[id(parameter)] == (1e-7 if name.startswith("mapper.") else 1e-3)
        plain = method().optimized()
        decayed = {id(p) for g in plain for p in g["params"] if "weight_decay" not in g}
        own = {id(p) for g in model.optimized() for p in g["params"] if "weight_decay" not in g}
        assert len(decayed) == len(own)
        assert len(rates) == sum(len(g["params"]) for g in plain)

    @pytest.mark.parametrize(
        ("settings", "warned"),
        [({}, True), ({"mapper_lr": 1e-7}, False), ({"train_mapper": False}, False)],
    )
    def test_equal_rates_are_warned_about(self, settings, warned, caplog):
        model = method(**settings)
        model.mapper.source = "test"
        model.setup("fit")
        assert ("mapper trains at the transformer's learning rate" in caplog.text) == warned
        method(False).setup("fit")
        model.setup("test")
        assert len(caplog.records) == warned

    def test_weights_of_no_transformer_are_refused(self):
        """Otherwise stage 1 would be trained without a word; in sampling stage 1 is a control."""
        model = method(False, transformer_weights="runs/base")
        with pytest.raises(ValueError, match=r"transformer_weights is set, and without .* stage 1"):
            model.setup("fit")
        model.setup("test")


class TestLatents:
    @pytest.mark.parametrize("second", [False, True])
    def test_pairs_that_were_encoded_before(self, second):
        model, given = method(second), batch()
        encoded = {
            **{"key": given["key"], "seed": given["seed"], "space": model.space.identity},
            "latent": model.space.encode(given["hr"]),
            "lr_latent": model.space.encode(given["lr"]),
        }
        found = []
        for each in (given, encoded):
            torch.manual_seed(0)
            found.append(model.training_step(each, 0))
        assert torch.equal(*found)
        assert model.enlarged_lr(given["lr"], (32, 32)) is given["lr"]

    def test_latents_without_those_of_lr(self):
        model = method()
        latent = model.space.encode(batch()["hr"])
        given = {"key": ["a", "b"], "latent": latent, "space": model.space.identity}
        with pytest.raises(ValueError, match=r"encode with --encode\.pairs true"):
            model.training_step(given, 0)

    def test_a_crop_of_another_size(self):
        with pytest.raises(ValueError, match="48x48 pixels has no scales; known sizes are 32"):
            method().training_step(batch(h=24, w=24), 0)


class TestImages:
    @pytest.mark.parametrize("size", [(16, 16), (7, 30), (37, 20)])
    def test_any_size_through_tiles(self, size):
        model = method().eval()
        given = batch(1, *size)
        assert model.enlarge(given)["sr"].shape[-2:] == (2 * size[0], 2 * size[1])
        assert (model.tile_count > 1) == (max(size) > 16)
        assert (model.bits_of(given) is None) == (size != (16, 16))

    @pytest.mark.parametrize(("size", "side"), [(24, 24), (30, 30), (8, 16)])
    def test_tiles_of_another_size_are_refused(self, size, side):
        model = method().eval()
        model.set_tiling(type(model.tiling)(size=size))
        with pytest.raises(
            ValueError, match=f"size is {size}, .* takes exactly 16 pixels .* set it to 16"
        ):
            model.enlarge(batch(1, side, side), tiled=True)

    def test_another_size_than_the_networks(self):
        with pytest.raises(ValueError, match=r"4 x 3 x 3; expected 4 x 2 x 2, .*mapper\.init_args"):
            method().preliminary(torch.zeros(1, BITS, 3, 3))

    @pytest.mark.parametrize(("mode", "torchs"), [("area", "area"), ("trilinear", "bilinear")])
    def test_inputs_are_made_small_as_is_asked(self, mode, torchs):
        model, seen = method(bits=Bitwise(next_input_mode=mode)).eval(), []
        model.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        codes = model.bits_of(batch())
        total = sum(functional.interpolate(code, (4, 4), mode="bilinear") for code in codes[:2])
        expected = functional.interpolate(total, (3, 3), mode=torchs).flatten(2).mT
        torch.testing.assert_close(seen[0][:, 4:], expected)  # after the four tokens of 2x2

    def test_the_tokenizer_is_not_rounded(self):
        """All other weights are, by trainer.precision bf16-true."""
        model, given = method(bits=Bitwise(0)).eval(), batch()
        plain, sizes = model.space.encode(given["lr"]), model.bits_of(given)
        model.to(torch.bfloat16)
        assert {p.dtype for p in model.transformer.parameters()} == {torch.bfloat16}
        torch.set_default_dtype(torch.bfloat16)  # as Lightning does then
        try:
            assert torch.equal(model.space.encode(given["lr"]), plain)
            made, bits = model.enlarge(given)["sr"], model.bits_of(given)
        finally:
            torch.set_default_dtype(torch.float32)
        assert made.dtype == torch.float32
        assert (flat(bits) == flat(sizes)).float().mean() > 0.8

    def test_bits_are_those_of_the_image(self):
        model, given = method(color_fix="none", bits=Bitwise(1.0)).eval(), batch()
        codes = model.bits_of(given)
        total = sum(functional.interpolate(code, (4, 4), mode="bilinear") for code in codes)
        torch.testing.assert_close(model.decoded(total).clamp(0, 1), model.enlarge(given)["sr"])

    def test_seeds(self):
        model, given = method(bits=Bitwise(1.0)).eval(), batch(1)
        first = model.enlarge(given)["sr"]
        assert torch.equal(model.enlarge(given)["sr"], first)
        model.set_noise_seed(1)
        assert not torch.equal(model.enlarge(given)["sr"], first)
        assert model.drew_noise

    def test_options_tell_results_apart(self):
        assert method(False).output_settings == {"color_fix": "adain_wavelet"}
        found = method(bits=Bitwise(0.7, next_input_mode="area"), color_fix="none").output_settings
        assert found == {"tau": 0.7, "next_input_mode": "area"}
        got = method(color_fix="none", encoder=Classes(["a", "b"]), prompt="b").output_settings
        assert got == {"encoder": "Classes", "prompt": "b"}


class TestWeights:
    def test_the_released_file(self, tmp_path):
        model = method()
        official = random_weights(64, 2, 1, BITS, 128, 8) | released(model.mapper)
        found = model.import_official(official)
        assert found.keys() == model.state_dict().keys()
        assert torch.equal(found["transformer.head.weight"], official["head.weight"])
        name = "mapper.branches.1.out.3.bias"
        assert torch.equal(found[name], model.mapper.state_dict()["branches.1.out.3.bias"])
        path = tmp_path / "NSARM.pth"
        torch.save(official, path)
        frozen = method(train_mapper=False)
        with torch.no_grad():
            frozen.mapper.trunk[0].weight.fill_(0.5)
        frozen._name_mapper("runs/stage1")
        frozen.load_weights(path)  # which has a mapper, so that it is no longer the run's
        assert str(path) in frozen.mapper.source
        assert "runs/stage1" not in frozen.mapper.source
        alone = method(False).import_official(official)
        assert alone.keys() == method(False).state_dict().keys()

    def test_runs_that_stage_two_starts_from(self, tmp_path):
        first, base = method(False), Infinity(1, space(), transformer(5))
        with torch.no_grad():
            first.mapper.trunk[0].weight.fill_(0.5)
        files = {}
        for name, model in (("mapper_weights", first), ("transformer_weights", base)):
            checkpoint = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6"}
            model.on_save_checkpoint(checkpoint)
            files[name] = tmp_path / f"{name}.ckpt"
            torch.save(checkpoint, files[name])
        model = method(**{name: str(path) for name, path in files.items()})
        assert model.needs_weights
        model.load_parts(lambda name, _: files[name.removeprefix("stage_two.")])
        assert not model.needs_weights
        assert float(model.mapper.trunk[0].weight.detach().mean()) == 0.5
        for a, b in zip(model.transformer.parameters(), base.transformer.parameters(), strict=True):
            assert torch.equal(a, b)
        frozen = method(train_mapper=False, mapper_weights=str(files["mapper_weights"]))
        frozen.load_parts(lambda name, _: files[name.removeprefix("stage_two.")])
        checkpoint = {"state_dict": frozen.state_dict()}
        frozen.on_save_checkpoint(checkpoint)
        assert "mapper_weights.ckpt" in checkpoint["frozen"]["mapper"]
        frozen.setup("test")
        with pytest.raises(ValueError, match="train_mapper is false, and the mapper has random"):
            method(train_mapper=False).setup("test")
        elsewhere = NSARM(2, space(8), mapper(), stage_two=StageTwo(str(files["mapper_weights"])))
        with pytest.raises(ValueError, match="mapper_weights were trained with the tokenizer of"):
            elsewhere.load_parts(lambda name, _: files[name.removeprefix("stage_two.")])
        swapped = method(mapper_weights=str(files["transformer_weights"]))
        with pytest.raises(ValueError, match="do not fit the network"):
            swapped.load_parts(lambda *_: files["transformer_weights"])

    def test_a_base_that_knows_classes(self, tmp_path):
        path = tmp_path / "base.ckpt"

        def start(encoder, **more):
            model = method(encoder=encoder, transformer_weights=str(path), **more)
            model.load_parts(lambda *_: path)
            return model

        def base(**frozen):
            model = Infinity(1, space(), transformer(5), encoder=Classes(["a", "b"]))
            checkpoint = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6"}
            model.on_save_checkpoint(checkpoint)
            checkpoint["frozen"] |= frozen
            torch.save(checkpoint, path)
            return model

        table = base().encoder.table.weight
        assert torch.equal(start(Classes(["a", "b"])).encoder.table.weight, table)
        start(None)  # of no text
        with pytest.raises(
            ValueError, match=r"\(model\.init_args\.encoder\) do not fit .* \(table\.weight"
        ):
            start(Classes(["a", "b", "c"]))
        other, reads = Classes(["a", "b"]), Classes(["a", "b"])
        other.source, other.reads, reads.source = "x 1" + 15 * "0", False, "x 1" + 15 * "0"
        base(encoder="t5 0123456789abcdef")
        start(other)  # where none reads captions, it may be another
        with pytest.raises(ValueError, match="were trained with the encoder of texts of t5 01234"):
            start(reads)

    def test_a_base_without_classes_leaves_them_untrained(self, tmp_path):
        mapped, base = tmp_path / "mapper.pth", tmp_path / "base.pth"
        torch.save(released(mapper()), mapped)
        torch.save(random_weights(64, 2, 1, BITS, 128, 8), base)
        files = {"mapper_weights": mapped, "transformer_weights": base}
        for encoder, needs in ((None, False), (Classes(["a"]), True)):
            model = method(encoder=encoder, **{name: str(path) for name, path in files.items()})
            model.load_parts(lambda name, _: files[name.removeprefix("stage_two.")])
            assert model.needs_weights == needs

    def test_released_weights_in_the_other_layout(self, tmp_path):
        torch.save(released(mapper()), tmp_path / "mapper.pth")
        rows = mapper(layout="positions")
        for load in (
            lambda: NSARM(2, space(), rows).load_weights(tmp_path / "mapper.pth"),
            lambda: NSARM(2, space(), rows, stage_two=StageTwo("a")).load_parts(
                lambda *_: tmp_path / "mapper.pth"
            ),
        ):
            with pytest.raises(ValueError, match=r"is positions, and .*mapper\.pth.* memory"):
                load()

    def test_a_run_in_the_other_layout(self, tmp_path):
        first = NSARM(2, space(), mapper(layout="positions"))
        checkpoint = {"state_dict": first.state_dict()}
        first.on_save_checkpoint(checkpoint)
        NSARM(2, space(), mapper(layout="positions")).on_load_checkpoint(checkpoint)
        with pytest.raises(ValueError, match="layout is memory, and the checkpoint was trained"):
            NSARM(2, space(), mapper()).on_load_checkpoint(checkpoint)

    def test_a_base_of_another_size(self, tmp_path):
        path = tmp_path / "infinity_2b_reg.pth"
        torch.save(random_weights(128, 3, 1, BITS, 128, 8), path)
        model = method(transformer_weights=str(path))
        with pytest.raises(ValueError, match=r"network: .* unexpected .* of another shape") as got:
            model.load_parts(lambda *_: path)
        assert "infinity_2b_reg.pth (model.init_args.stage_two.transformer_weights)" in str(
            got.value
        )
        assert "one of another size" in str(got.value)

    def test_a_file_without_a_mapper(self, tmp_path):
        path = tmp_path / "infinity.pth"
        torch.save(random_weights(64, 2, 1, BITS, 128, 8), path)
        with pytest.raises(ValueError, match=r"\d+ missing \(mapper\.trunk") as got:
            method().load_weights(path)
        assert "unexpected" not in str(got.value)
        model = method(mapper_weights=str(path))
        with pytest.raises(ValueError, match=r"mapper_weights\) do not fit .* \d+ missing \(trunk"):
            model.load_parts(lambda *_: path)

    def test_what_an_exported_file_lacks_is_missing(self, tmp_path):
        first = method(False)
        save_file(
            {n: first.state_dict()[n] for n in first.checkpoint_keys()}, tmp_path / "a.safetensors"
        )
        method(False).load_weights(tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=r"missing \(transformer\."):
            method().load_weights(tmp_path / "a.safetensors")

    def test_a_tokenizer_that_is_not_trained(self):
        model = method()
        model.space.source = ""
        with pytest.raises(ValueError, match=r"set model\.init_args\.space_weights"):
            model.setup("fit")

    def test_a_checkpoint_has_both_networks(self):
        model = method()
        checkpoint = {"state_dict": model.state_dict()}
        model.on_save_checkpoint(checkpoint)
        parts = {name.split(".")[0] for name in checkpoint["state_dict"]}
        assert parts == {"mapper", "transformer"}
        assert checkpoint["model"] == class_path(type(model))
        file = io.BytesIO()
        torch.save(checkpoint, file)
        file.seek(0)
        assert torch.load(file, weights_only=True)["frozen"] == {"space": model.space.source}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NSARM(4, space(), mapper()), "of 64x64 pixels has no scales"),
        (lambda: NSARM(2.3, space(), mapper()), r"scale 2\.3 and latents of 2"),
        (
            lambda: NSARM(
                *(2, space()), Transformation(BITS, (2, 2), [(2, 2)], [Branch(16, 1, 2)], (8, 8))
            ),
            r"mapper makes \[\(2, 2\)\]; the first scales of a latent of 4 are \[\(1, 1\)\]",
        ),
        (
            lambda: NSARM(
                *(2, space()), Transformation(8, (2, 2), [(1, 1)], [Branch(16, 1, 2)], (8, 8))
            ),
            "for latents of 8 x 2 x 2 and the space has 4",
        ),
        (
            lambda: NSARM(
                *(2, space()),
                Transformation(BITS, (2, 2), GRIDS, [Branch(16, 1, 2)] * 4, (8, 8)),
                transformer(),
            ),
            "none left for the transformer",
        ),
        (
            lambda: NSARM(2, space(), LatentEstimate(BITS, (2, 2), GRIDS[:2], (3, 3))),
            r"mapper\.init_args\.full is \(3, 3\); HR's latent is \(4, 4\)",
        ),
        (
            lambda: NSARM(
                *(3, space(), LatentEstimate(BITS, (4, 4), GRIDS[:2], (4, 4))), enlarge_lr=True
            ),
            "scale 3 and HR of 32 pixels; LR must have whole sides",
        ),
        (lambda: method(mapper_lr=0.0), "mapper_lr is 0; it must be above 0"),
        (lambda: method(False, mapper_lr=1e-5), "mapper_lr is 1e-05; .* is for stage 2"),
        (lambda: method(train_mapper=False, mapper_lr=1e-5), "set it to null"),
        (lambda: method(text_dropout=-1), "text_dropout is -1"),
        (lambda: method(prompt="a cat"), "prompt is 'a cat', and an encoder is missing"),
        (lambda: method(prompt=" ", encoder=Classes(["a"])), "prompt is ' ', and it is empty"),
        (
            lambda: method(bits=Bitwise(guidance=2, guidance_after=3)),
            "guidance_after is 3; .* 0 to 2",
        ),
    ],
)
def test_what_does_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
