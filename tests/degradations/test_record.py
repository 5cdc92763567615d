"""Recorded parameters: complete lines, and bit-equal LR from them."""

from __future__ import annotations

import json
import logging
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from degradations.base import Degradation, Stage
from degradations.bicubic import Bicubic
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.draws import Params, per_image
from degradations.pipeline import Pipeline
from degradations.record import Record, Replay, lines_of, path_of_rank, records_of
from degradations.stages.noise import GaussianNoise
from tests.contracts.degradation_contract import assert_bit_equal

SEEDS = torch.arange(6) * 7919 + 5
HR = torch.rand(6, 3, 16, 20, generator=torch.Generator().manual_seed(0))
SHAPE = HR.shape


class Strange(Stage):
    """Parameters of every kind."""

    resizes = False

    def draw(self, draws, shape):
        B = shape[0]
        return {
            "float": draws.uniform(-1e30, 1e-30),
            "tiny": np.full(B, 5e-324),
            "minus_zero": np.full(B, -0.0),
            "single": draws.normal().astype(np.float32),
            "whole": np.arange(B, dtype=np.float64),
            "int": draws.seeds(),
            "bool": draws.bernoulli(0.5),
            "row": np.stack([draws.uniform(), draws.uniform()], 1),
            "empty": {},
            "shared": 0.1,
            "deep": {"count": 3, "flag": True, "own": draws.integers(0, 9)},
        }

    def forward(self, x, params):
        return x * per_image(params["single"], x) * params["shared"]


class Level(Stage):
    """Two parameters per image."""

    def draw(self, draws, shape):
        return {"level": draws.uniform(7.0, 7.0), "field_seeds": draws.seeds()}

    def forward(self, x, params):
        return x * per_image(params["level"], x)


def recipe(scale: float) -> Pipeline:
    return Pipeline(
        scale,
        [
            Sometimes(GaussianNoise((1.0, 50.0)), 0.5),
            OneOf([GaussianNoise(), Strange()]),
            Shuffled([GaussianNoise(), GaussianNoise((5.0, 6.0))]),
        ],
        quantize=False,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "params.jsonl"


@pytest.fixture
def recorded(path):
    """Record two batches in a file, and return their LR."""
    record = Record(2.0, recipe, str(path))
    return torch.cat([record(HR[:4], SEEDS[:4]), record(HR[4:], SEEDS[4:])])


class TestLines:
    def test_every_kind_of_parameter_comes_back_bit_for_bit(self, path):
        made = Pipeline(2.0, {"strange": Strange()})
        drawn = made.params_of(SEEDS, SHAPE)
        path.parent.mkdir()
        path.write_bytes(b"".join(lines_of(SEEDS, SHAPE, made, drawn)))
        replay = Replay(2.0, lambda scale: Pipeline(scale, {"strange": Strange()}), str(path))
        got = replay.params_of(SEEDS, SHAPE)
        assert_bit_equal(got, drawn)
        strange = got["strange"]
        assert struct.pack("d", strange["minus_zero"][0]) == struct.pack("d", -0.0)
        kinds = {name: strange[name].dtype.kind for name in ("float", "whole", "int", "bool")}
        assert kinds == {"float": "f", "whole": "f", "int": "i", "bool": "b"}
        assert strange["row"].shape == (6, 2)
        assert strange["shared"] == 0.1
        assert isinstance(strange["shared"], float)
        assert strange["deep"]["count"] == 3
        assert strange["deep"]["flag"] is True
        assert strange["empty"] == {}

    def test_what_a_line_says(self, path):
        Record(2.5, lambda scale: Pipeline(scale, [Level()]), str(path))(HR, SEEDS)
        lines = path.read_text().splitlines()
        assert len(lines) == 6
        line = json.loads(lines[2])
        field = line["params"]["Level"].pop("field_seeds")
        assert isinstance(field, int)
        assert line == {
            "seed": SEEDS[2].item(),
            "shape": [3, 16, 20],
            "scale": 2.5,
            "recipe": "degradations.Pipeline",
            "params": {"Level": {"level": 7.0}},
        }

    def test_what_cannot_be_recorded_is_named(self):
        with pytest.raises(TypeError, match=r"the parameter a\.b is Tensor"):
            records_of(SEEDS, SHAPE, Bicubic(2.0), {"a": {"b": torch.zeros(6)}})


class TestRecord:
    def test_lr_is_as_without(self, recorded):
        assert torch.equal(recorded, recipe(2.0)(HR, SEEDS))

    def test_one_write_a_batch_and_nothing_stays_open(self, path, monkeypatch):
        written = []
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: (written.append(fd), write(fd, data))[1])
        record = Record(2.0, recipe, str(path))
        record(HR, SEEDS)
        record(HR, SEEDS)
        assert len(written) == 2
        for descriptor in written:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)

    def test_a_write_that_comes_up_short_is_completed(self, path, monkeypatch):
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:100]))
        Record(2.0, recipe, str(path))(HR, SEEDS)
        assert [json.loads(line)["seed"] for line in path.open()] == SEEDS.tolist()

    def test_a_failed_batch_is_not_recorded(self, path):
        record = Record(2.0, recipe, str(path))
        with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
            record(HR * 255, SEEDS)
        assert not path.exists()

    def test_it_goes_on_in_its_file(self, recorded, path):
        before = path.read_bytes()
        Record(2.0, recipe, str(path))(HR[:1], SEEDS[:1] + 1)
        assert path.read_bytes().startswith(before)
        assert len(path.read_bytes().splitlines()) == 7

    @pytest.mark.parametrize("torn", [b'{"se', b'{"seed":3,"shape":[3,'])
    def test_a_torn_last_line_is_cut_off(self, recorded, path, torn, caplog):
        before = path.read_bytes()
        path.write_bytes(before + torn)
        with caplog.at_level(logging.WARNING):
            Record(2.0, recipe, str(path))(HR[:1], SEEDS[:1])
        assert path.read_bytes() == before + before.splitlines(keepends=True)[0]
        assert "its last line is incomplete and is removed" in caplog.text

    @pytest.mark.parametrize("content", [b"PK\x03\x04", b"text\n", b'{"a": 1}\n'])
    def test_a_file_of_something_else_is_left_alone(self, path, content):
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(ValueError, match="exists but holds no records"):
            Record(2.0, recipe, str(path))(HR, SEEDS)
        assert path.read_bytes() == content

    def test_nothing_is_written_before_the_first_batch(self, path):
        Record(2.0, recipe, str(path)).params_of(SEEDS, SHAPE)
        assert not path.parent.exists()

    def test_each_process_has_a_file(self, path, monkeypatch):
        monkeypatch.setattr("degradations.record._rank", lambda: 1)
        Record(2.0, recipe, str(path))(HR, SEEDS)
        assert [p.name for p in path.parent.iterdir()] == ["params.rank1.jsonl"]
        assert path_of_rank(path, 0) == path

    def test_a_recipe_that_is_none(self, path):
        with pytest.raises(TypeError, match=r"Record\.recipe made GaussianNoise; expected a Degr"):
            Record(2.0, lambda scale: GaussianNoise(), str(path))

    @pytest.mark.parametrize("text", ["", " ", "$NO_SUCH_VARIABLE/a.jsonl"])
    def test_a_path_that_is_none(self, text):
        with pytest.raises(ValueError, match=r"Record\.path is"):
            Record(2.0, recipe, text)

    def test_the_pool_is_the_recipes(self, path):
        class Pooled(Bicubic):
            pool = 180

        assert Record(2.0, Pooled, str(path)).pool == 180
        assert Record(2.0, Bicubic, str(path)).pool == 0

    def test_around_another_the_recipe_within_is_named(self, path):
        def inner(scale: float) -> Record:
            return Record(scale, Bicubic, str(path.with_name("inner.jsonl")))

        Record(2.0, inner, str(path))(HR, SEEDS)
        names = {json.loads(line)["recipe"] for line in path.read_text().splitlines()}
        assert names == {"degradations.Bicubic"}


class TestReplay:
    def test_lr_comes_again_bit_for_bit(self, recorded, path):
        assert torch.equal(Replay(2.0, recipe, str(path))(HR, SEEDS), recorded)

    def test_in_any_batch_and_order(self, recorded, path):
        replay = Replay(2.0, recipe, str(path))
        order = torch.tensor([5, 0, 3])
        assert torch.equal(replay(HR[order], SEEDS[order]), recorded[order])
        assert torch.equal(replay(HR[3:4], SEEDS[3:4]), recorded[3:4])

    def test_whatever_the_recipe_would_draw_today(self, path):
        def with_sigma(sigma):
            return lambda scale: Pipeline(scale, [GaussianNoise((sigma, sigma))], quantize=False)

        lr = Record(2.0, with_sigma(30.0), str(path))(HR, SEEDS)
        assert not torch.equal(with_sigma(1.0)(2.0)(HR, SEEDS), lr)
        assert torch.equal(Replay(2.0, with_sigma(1.0), str(path))(HR, SEEDS), lr)

    def test_another_executor_gives_it_to_1e_4(self, path):
        def on_canvas(scale):
            return Pipeline(scale, [GaussianNoise()], quantize=False, executor="canvas")

        lr = Record(2.0, on_canvas, str(path))(HR, SEEDS)
        assert torch.equal(Replay(2.0, on_canvas, str(path))(HR, SEEDS), lr)

    def test_records_of_all_processes_are_found(self, recorded, path):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:2]))
        path.with_name("params.rank1.jsonl").write_bytes(b"".join(lines[2:4]))
        path.with_name("params.rank12.jsonl").write_bytes(b"".join(lines[4:]))
        path.with_name("params.old.jsonl").write_bytes(b"no records")
        assert torch.equal(Replay(2.0, recipe, str(path))(HR, SEEDS), recorded)

    def test_the_last_record_counts(self, path):
        def with_sigma(sigma):
            return lambda scale: Pipeline(scale, [GaussianNoise((sigma, sigma))], quantize=False)

        Record(2.0, with_sigma(30.0), str(path))(HR, SEEDS)
        again = Record(2.0, with_sigma(3.0), str(path))(HR, SEEDS)
        assert torch.equal(Replay(2.0, with_sigma(30.0), str(path))(HR, SEEDS), again)

    def test_one_seed_at_two_scales(self, path):
        two, three = (Record(scale, Bicubic, str(path))(HR, SEEDS) for scale in (2.0, 3.0))
        assert torch.equal(Replay(2.0, Bicubic, str(path))(HR, SEEDS), two)
        assert torch.equal(Replay(3.0, Bicubic, str(path))(HR, SEEDS), three)

    def test_it_can_be_copied_before_and_after_use(self, recorded, path):
        replay = Replay(2.0, recipe, str(path))
        assert torch.equal(pickle.loads(pickle.dumps(replay))(HR, SEEDS), recorded)
        replay(HR, SEEDS)
        assert torch.equal(pickle.loads(pickle.dumps(replay))(HR, SEEDS), recorded)

    def test_batch_size_does_not_divide_what_a_batch_shares(self, path):
        class Counted(GaussianNoise):
            def draw(self, draws: object, shape: torch.Size) -> Params:
                return {**super().draw(draws, shape), "batch": shape[0]}

        def counted(scale: float) -> Degradation:
            return Pipeline(scale, {"noise": Counted()})

        record = Record(2.0, counted, str(path))
        record(HR[:4], SEEDS[:4])
        record(HR[4:], SEEDS[4:])
        replay = Replay(2.0, counted, str(path))
        assert replay.params_of(SEEDS[:4], HR[:4].shape)["noise"]["batch"] == 4
        with pytest.raises(ValueError, match=r"jsonl:5 and .*jsonl:1 .*share different parameters"):
            replay(HR, SEEDS)


class TestWhatReplayRefuses:
    def refusal(self, path, hr=HR, seeds=SEEDS, scale=2.0, made=recipe):
        with pytest.raises(ValueError) as refused:  # noqa: PT011  (the sentence is the result)
            Replay(scale, made, str(path))(hr, seeds)
        return str(refused.value)

    def test_no_file(self, path):
        with pytest.raises(ValueError, match=r"Replay\.path '.*params\.jsonl' does not exist"):
            Replay(2.0, recipe, str(path))

    def test_a_seed_that_is_not_there(self, recorded, path):
        seeds = SEEDS.clone()
        seeds[2] = 1
        message = self.refusal(path, seeds=seeds)
        assert f"{path} has no record of the seed 1 (6 records in {path})" in message

    def test_another_size(self, recorded, path):
        message = self.refusal(path, hr=torch.rand(6, 3, 20, 16))
        assert f"{path}:1: the seed 5 was recorded with shape [3, 16, 20] (now [3, 20" in message
        assert "scale" not in message

    def test_another_scale(self, recorded, path):
        assert f"{path}:1: the seed 5 was recorded with scale 2.0 (now 4.0)" in self.refusal(
            path, scale=4.0
        )

    def test_another_recipe(self, recorded, path):
        assert (
            f"{path}:1: the seed 5 was recorded with recipe degradations.Pipeline (now "
            "degradations.Bicubic)" in self.refusal(path, made=Bicubic)
        )

    def test_other_stages(self, recorded, path):
        message = self.refusal(path, made=lambda scale: Pipeline(scale, [Level()]))
        assert f"{path}:1 was recorded with other stages" in message
        assert "it lacks Level.field_seeds, Level.level; it also has OneOf" in message

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda line: line[:-20] + b"\n", id="cut off"),
            pytest.param(lambda line: line[5:], id="no beginning"),
            pytest.param(lambda line: line.replace(b":", b";", 9), id="no JSON at all"),
            pytest.param(lambda line: line.replace(b'"params"', b'"parms"'), id="no params"),
            pytest.param(lambda line: line.replace(b"[3,16,20]", b"[3,16,20"), id="no JSON"),
            pytest.param(lambda line: b"\n", id="empty"),
        ],
    )
    def test_a_damaged_line(self, recorded, path, damage):
        lines = path.read_bytes().splitlines(keepends=True)
        lines[3] = damage(lines[3])
        path.write_bytes(b"".join(lines))
        assert f"{path}:4 is damaged, or not a record" in self.refusal(path)

    def test_a_torn_last_line(self, recorded, path):
        path.write_bytes(path.read_bytes()[:-1])
        assert f"{path}:6 is damaged" in self.refusal(path)

    def test_a_line_of_other_parameters(self, recorded, path):
        lines = path.read_bytes().splitlines(keepends=True)
        lines[3] = lines[3].replace(b'"levels"', b'"level"', 1)
        path.write_bytes(b"".join(lines))
        message = self.refusal(path)
        assert f"{path}:4" in message
        assert "do not belong to one recipe" in message


def test_in_yaml(tmp_path):
    """From the command line: the recipe gets the scale of the wrapper."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Degradation, "degradation")
    path = tmp_path / "p.jsonl"
    pipeline = {
        "class_path": "degradations.Pipeline",
        "init_args": {"stages": [{"class_path": "degradations.GaussianNoise"}]},
    }
    made = []
    for name in ("Record", "Replay"):
        config = {
            "class_path": f"degradations.record.{name}",
            "init_args": {"scale": 3.0, "recipe": pipeline, "path": str(path)},
        }
        parsed = parser.parse_object({"degradation": config})
        degradation = parser.instantiate(parsed).degradation
        assert degradation.recipe.scale == 3.0
        made.append(degradation(HR, SEEDS))
    assert torch.equal(*made)
