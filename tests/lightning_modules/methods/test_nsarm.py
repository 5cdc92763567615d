"""NSARM: both stages, what they start from, and what becomes of images of any size."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from degradations.bicubic import resize
from files.weights import fingerprint
from lightning_modules.methods.infinity import Infinity
from lightning_modules.methods.nsarm import NSARM, NSARMStageOne, StageTwo
from lightning_modules.networks.bsq import quantized, scales_of
from lightning_modules.networks.infinity import Text
from lightning_modules.networks.transformation import Branch, LatentEstimate, Transformation
from lightning_modules.noise import Noise
from tests.classes import Classes
from tests.lightning_modules.networks.test_transformation import official as released
from tests.lightning_modules.next_scale_parts import BITS, GRIDS, mapper, space, transformer
from tests.lightning_modules.tiny import random_batch, save_run
from tests.reference.infinity_official import random_weights

STAGE_TWO = {field.name for field in dataclasses.fields(StageTwo)}


def method(second=True, **settings):
    of_two = StageTwo(**{name: settings.pop(name) for name in STAGE_TWO & settings.keys()})
    if second:
        found = NSARM(2, space(), mapper(), transformer(), of_two, **settings)
    else:
        found = NSARMStageOne(2, space(), mapper(), **settings)
    found.logged = {}
    found.log = lambda name, value, **_: found.logged.update({name: float(value.detach())})
    return found


def estimating(network=None, enlarge_lr=False, **settings):
    torch.manual_seed(0)
    size = (4, 4) if enlarge_lr else (2, 2)
    estimate = LatentEstimate(BITS, size, GRIDS[:2], (4, 4), width=8, blocks=1)
    kind, parts = (NSARMStageOne, ()) if network is None else (NSARM, (network,))
    found = kind(2, space(), estimate, *parts, enlarge_lr=enlarge_lr, **settings)
    found.log = lambda *_, **__: None
    return found


def batch(h=16, w=16):
    return random_batch(2, (2 * h, 2 * w), lr=(3, h, w), hr=(3, 2 * h, 2 * w))


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

    def test_what_it_restores_are_the_first_scales(self):
        model, given = method(False, color_fix="none").eval(), batch()
        codes = [quantized(o) for o in model.mapper(model.space.encode(given["lr"]))]
        total = sum(functional.interpolate(code, (4, 4), mode="bilinear") for code in codes)
        expected = model.space.vae.decode(total).clamp(0, 1)
        torch.testing.assert_close(model.enlarge(given)["sr"], expected)
        found = model.codes(given, given["lr"], Noise(given["seed"]))
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

    def test_a_network_that_is_not_trained(self):
        branches = [Branch(16, 1, 2)] * 2
        torch.manual_seed(0)
        dropping = Transformation(BITS, (2, 2), GRIDS[:2], branches, dropout=0.9)
        # Without `train()`, which Lightning does not call either.
        model = NSARM(2, space(), dropping, transformer(), stage_two=StageTwo(train_mapper=False))
        model.log = lambda *_, **__: None
        losses = [model.training_step(batch(), 0) for _ in range(2)]
        assert torch.equal(*losses)
        losses[0].backward()
        assert not any(p.requires_grad for p in model.mapper.parameters())
        assert not any(name.startswith("mapper") for name in model.checkpoint_keys())

    def test_captions(self, monkeypatch):
        """As cached features of the same captions; and they matter."""
        monkeypatch.setattr("lightning_modules.methods.infinity.TEXT_DROPOUT", 0.0)
        encoder = Classes(["a", "b"])
        got = method(encoder=encoder)
        cached = encoder(["b", "a"])
        features = {"text_features": cached.features, "text_lengths": cached.lengths}
        losses = [
            got.training_step(batch() | {"text": ["b", "a"]}, 0),
            method().training_step(batch() | features, 0),
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

    def test_lr_is_enlarged_before_it_is_encoded(self):
        model, given = estimating(enlarge_lr=True), batch()
        large = functional.interpolate(given["lr"], (32, 32), mode="bicubic")
        f, y = model.latents(given)
        torch.testing.assert_close(y, model.space.encode(large))
        assert f.shape == y.shape == (2, BITS, 4, 4)
        torch.testing.assert_close(model.enlarged_lr(given["lr"], (32, 32)), large)
        given |= {"lr_latent": model.space.encode(given["lr"])}  # as written without enlarge_lr
        with pytest.raises(ValueError, match=r"LR are 2x2, and .* reads 4x4: set .*enlarge_lr"):
            model.latents(given)

    def test_small_images_are_cut_back_exactly_at_a_fractional_scale(self):
        """Half of the 5 rows of padding would be no whole number of output pixels."""
        torch.manual_seed(0)
        estimate = LatentEstimate(BITS, (4, 4), GRIDS[:2], (4, 4), width=8, blocks=1)
        model = NSARMStageOne(1.6, space(), estimate, enlarge_lr=True, color_fix="none")
        model.codes = lambda batch, lr, noise: [resize(lr, (32, 32))]
        model.space.images = lambda total: total
        given = batch(h=15, w=20) | {"size": (24, 32)}
        found, expected = model.enlarge(given)["sr"], resize(given["lr"], (24, 32))
        torch.testing.assert_close(found[..., :-6, :], expected[..., :-6, :])  # without the mirror

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
        with pytest.raises(ValueError, match=r"NSARM: set model\.class_path"):
            Infinity(1, space(), transformer()).load_weights(path)

    def test_runs_that_stage_two_starts_from(self, tmp_path):
        first, base = method(False), Infinity(1, space(), transformer(5))
        with torch.no_grad():
            first.mapper.trunk[0].weight.fill_(0.5)
        files = {
            name: save_run(model, tmp_path / f"{name}.ckpt")
            for name, model in (("mapper_weights", first), ("transformer_weights", base))
        }
        model = method(**{name: str(path) for name, path in files.items()})
        assert model.needs_weights
        model.load_parts(lambda name, _: files[name.removeprefix("stage_two.")])
        assert not model.needs_weights
        assert model.weights_source == ", ".join(  # so that numbers of other weights are others
            f"{files[f'{part}_weights']} {fingerprint(getattr(model, part).state_dict())}"
            for part in ("mapper", "transformer")
        )
        assert float(model.mapper.trunk[0].weight.detach().mean()) == 0.5
        for a, b in zip(model.transformer.parameters(), base.transformer.parameters(), strict=True):
            assert torch.equal(a, b)
        frozen = method(train_mapper=False, mapper_weights=str(files["mapper_weights"]))
        frozen.load_parts(lambda name, _: files[name.removeprefix("stage_two.")])
        checkpoint = {"state_dict": frozen.state_dict()}
        frozen.on_save_checkpoint(checkpoint)
        assert "mapper_weights.ckpt" in checkpoint["frozen"]["mapper"]
        frozen.setup("test")
        with pytest.raises(ValueError, match="the mapper of NSARM has random weights"):
            method(train_mapper=False).setup("test")
        weights = StageTwo(str(files["mapper_weights"]))
        elsewhere = NSARM(2, space(8), mapper(), transformer(), weights)
        with pytest.raises(ValueError, match="was trained with the space of"):
            elsewhere.load_parts(lambda name, _: files[name.removeprefix("stage_two.")])
        swapped = method(mapper_weights=str(files["transformer_weights"]))
        with pytest.raises(ValueError, match="do not fit the model"):
            swapped.load_parts(lambda *_: files["transformer_weights"])
