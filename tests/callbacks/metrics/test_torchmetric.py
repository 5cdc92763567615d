"""TorchMetric: numbers of torchmetrics called by hand, on any number of processes; refusals."""

from __future__ import annotations

import json
import logging
import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.image import (
    ErrorRelativeGlobalDimensionlessSynthesis,
    FrechetInceptionDistance,
    InceptionScore,
    KernelInceptionDistance,
    LearnedPerceptualImagePatchSimilarity,
    PeakSignalNoiseRatio,
    RootMeanSquaredErrorUsingSlidingWindow,
    SpectralDistortionIndex,
    StructuralSimilarityIndexMeasure,
    TotalVariation,
    UniversalImageQualityIndex,
    VisualInformationFidelity,
)

from callbacks import weights
from callbacks.metrics.base import Metric
from callbacks.metrics.pixels import to_pixels
from callbacks.metrics.torchmetric import TorchMetric
from callbacks.results.files import load_results
from callbacks.results.results import Results
from tests.callbacks.metrics.test_sets import OneThread, Save
from tests.callbacks.random_inception import inception, inception_file
from tests.callbacks.tiny import Double, Images, NoHR, Tiny, collate, loader, trainer

__all__ = ["inception", "inception_file"]

SIDE = 48  # VIF needs 41
PSNR = partial(PeakSignalNoiseRatio, data_range=1.0)
SSIM = partial(StructuralSimilarityIndexMeasure, data_range=1.0)
IMAGE_METRICS = {
    "peak_signal_noise_ratio": PSNR,
    "structural_similarity_index_measure": SSIM,
    "universal_image_quality_index": UniversalImageQualityIndex,
    "visual_information_fidelity": VisualInformationFidelity,
}


class Colors(nn.Module):
    """Features of an image without weights: means and spreads of its channels."""

    num_features = 6

    def forward(self, x: Tensor) -> Tensor:
        flat = (x.float() / 255).flatten(2)
        return torch.cat([flat.mean(2), flat.std(2)], 1)


FID = partial(FrechetInceptionDistance, feature=Colors())
KID = partial(KernelInceptionDistance, feature=Colors(), subset_size=2, subsets=3)
OF_A_SET: dict[str, Any] = {"per": "set", "pixels": "uint8"}


def outputs(n: int = 7, rounded: bool = True) -> tuple[Tensor, Tensor]:
    """Return the tiny model's outputs, and HR."""
    samples, model = [Images(n, side=SIDE)[i] for i in range(n)], Tiny().eval()
    with torch.no_grad():
        sr = [model(s["lr"][None], (SIDE, SIDE)).clamp(0, 1) for s in samples]
    both = torch.cat(sr), torch.stack([s["hr"] for s in samples])
    return tuple((x * 255).round() / 255 if rounded else x for x in both)  # type: ignore[return-value]


def by_hand(make: Any, sr: Tensor, hr: Tensor) -> list[float]:
    """Return the library's number of each image."""
    found = []
    for a, b in zip(sr.split(1), hr.split(1), strict=True):
        metric = make()
        metric.update(a, b)
        found.append(float(metric.compute()))
    return found


def fid_by_hand(sr: Tensor, hr: Tensor) -> float:
    metric = FID()
    for images, real in ((sr, False), (hr, True)):
        metric.update((images * 255).round().byte(), real=real)
    return float(metric.compute())


def values_of(tmp_path: Path, *metrics: Any, batch_size: int = 2, n: int = 7) -> list[float]:
    run = trainer(tmp_path, *metrics)
    run.test(Tiny(), loader(Images(n, side=SIDE), batch_size), verbose=False)
    return [record["value"] for metric in metrics for record in metric.records]


# ---------------------------------------------------------------------------------- as the library


@pytest.mark.parametrize("name", IMAGE_METRICS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_mean_of_the_library_s_numbers(tmp_path: Path, name: str, batch_size: int) -> None:
    metric = TorchMetric(IMAGE_METRICS[name])
    assert metric.name == name
    [value] = values_of(tmp_path, metric, batch_size=batch_size)
    expected = by_hand(IMAGE_METRICS[name], *outputs())
    assert list(metric.images["tiny"].values()) == pytest.approx(expected, rel=1e-6)
    assert value == pytest.approx(sum(expected) / 7, rel=1e-6)
    assert metric.records[0]["n"] == 7


def test_a_metric_that_flattens_images_by_view(tmp_path: Path) -> None:
    class Sliced(Tiny):
        def test_step(self, batch: Any, *indices: int) -> dict[str, Tensor]:
            sr = super().test_step(batch, *indices)["sr"]
            return {"sr": sr.to(memory_format=torch.channels_last)}

    metric = TorchMetric(torchmetrics.MeanAbsoluteError)
    trainer(tmp_path, metric).test(Sliced(), loader(Images(side=SIDE)), verbose=False)
    sr, hr = outputs()
    assert metric.records[0]["value"] == pytest.approx(float((sr - hr).abs().mean()), rel=1e-6)
    assert not metric.higher_is_better


def test_the_library_pools_where_per_is_set(tmp_path: Path) -> None:
    [pooled] = values_of(tmp_path, TorchMetric(PSNR, per="set"))
    whole = PSNR()
    whole.update(*outputs())
    assert pooled == pytest.approx(float(whole.compute()), rel=1e-6)
    assert pooled != pytest.approx(sum(by_hand(PSNR, *outputs())) / 7, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_fid_of_a_network_of_one_s_own(tmp_path: Path, batch_size: int) -> None:
    metric = TorchMetric(FID, **OF_A_SET)
    [value] = values_of(tmp_path, metric, batch_size=batch_size)
    assert value == pytest.approx(fid_by_hand(*outputs()), rel=1e-5)
    assert metric.images == {}  # no number of single images
    assert not metric.higher_is_better


def test_a_pair_is_a_number_and_its_deviation(tmp_path: Path) -> None:
    metric, states = TorchMetric(KID, **OF_A_SET, label="kid"), []
    for metrics in ([], [metric]):
        torch.manual_seed(0)
        first = values_of(tmp_path, *metrics)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert [r["metric"] for r in metric.records] == ["kid", "kid_std"]
    torch.manual_seed(1)
    assert values_of(tmp_path, metric) == first  # its subsets are drawn from a seed


def test_a_dictionary_has_a_number_for_each_key(tmp_path: Path) -> None:
    class Both(PeakSignalNoiseRatio):
        def compute(self) -> Any:
            value = super().compute()
            return {"db": value, "bels": value / 10}

    metric = TorchMetric(partial(Both, data_range=1.0), per="set", label="both")
    decibels, bels = values_of(tmp_path, metric)
    assert decibels == pytest.approx(10 * bels)
    assert [r["metric"] for r in metric.records] == ["both_db", "both_bels"]


def test_ranges_colours_and_rounding(tmp_path: Path) -> None:
    rounded, raw = outputs(), outputs(rounded=False)
    luma = [to_pixels(x, "y").float() / 255 for x in rounded]
    levels = [(x * 255).round().float() for x in rounded]
    cases: list[tuple[dict[str, Any], Any, Any]] = [
        ({}, PSNR, rounded),
        ({"round_8bit": False}, PSNR, raw),
        ({"color": "y"}, PSNR, luma),
        ({"pixels": "signed"}, PSNR, [x * 2 - 1 for x in rounded]),
        ({"pixels": "uint8"}, partial(PeakSignalNoiseRatio, data_range=255.0), levels),
    ]
    values = set()
    for number, (arguments, make, images) in enumerate(cases):
        metric = TorchMetric(make, label=f"m{number}", **arguments)
        seen: list[Tensor] = []
        metric._update = lambda m, one, seen=seen: (seen.append(one[0]), m.update(*one))  # type: ignore[method-assign]
        if arguments.get("pixels") == "uint8":
            [_] = values_of(tmp_path, metric)
            assert seen[0].dtype == torch.uint8
            assert torch.equal(torch.cat(seen).float(), images[0])
            continue
        [value] = values_of(tmp_path, metric)
        torch.testing.assert_close(torch.cat(seen), images[0])
        assert value == pytest.approx(sum(by_hand(make, *images)) / 7, rel=1e-5)
        values.add(value)
    assert len(values) == 4


def test_outputs_alone_and_beside_lr(tmp_path: Path) -> None:
    metric = TorchMetric(partial(TotalVariation, reduction="mean"), inputs=("sr",))
    run = trainer(tmp_path, metric)
    run.validate(Double(), loader(NoHR(3)), verbose=False)
    assert metric.records[0]["n"] == 3
    assert not metric.higher_is_better

    class AsTall(Tiny):
        def test_step(self, batch: Any, *_: int) -> dict[str, Tensor]:
            return {"sr": batch["lr"] * 0.5}

    class SameSize(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return sample | {"hr": sample["lr"]}

    metric = TorchMetric(PSNR, inputs=("sr", "lr"), round_8bit=False)
    trainer(tmp_path, metric).test(AsTall(), loader(SameSize(3)), verbose=False)
    lr = [SameSize(3)[i]["lr"][None] for i in range(3)]
    expected = [float(-10 * (x / 2).square().mean().log10()) for x in lr]
    assert list(metric.images["tiny"].values()) == pytest.approx(expected, rel=1e-5)


# -------------------------------------------------------------------------------------------- a run


def test_states_start_anew_for_each_set_and_each_evaluation(tmp_path: Path) -> None:
    metric = TorchMetric(FID, **OF_A_SET, control=True)
    run = trainer(tmp_path, metric)
    sets = [Images(7, side=SIDE), Images(4, "other", side=SIDE)]
    for _ in range(2):
        run.test(Tiny(), [loader(x) for x in sets], verbose=False)
        first, second = metric.records
        assert (first["n"], second["n"]) == (7, 4)
        assert first["value"] == pytest.approx(fid_by_hand(*outputs()), rel=1e-5)
        assert second["value"] == pytest.approx(fid_by_hand(*outputs(4)), rel=1e-5)
        values = [record["value"] for record in metric.control_records]
        assert len(values) == 2
        assert not set(values) & {first["value"], second["value"]}


def test_a_limit_and_a_repeated_image(tmp_path: Path) -> None:
    repeated = DataLoader(
        Images(side=SIDE), 2, sampler=[0, 3, 1, 2, 1, 4, 5, 6], collate_fn=collate
    )
    few, all_of_them = (
        TorchMetric(FID, **OF_A_SET, limit=3),
        TorchMetric(FID, **OF_A_SET, label="x"),
    )
    trainer(tmp_path, few, all_of_them).test(Tiny(), repeated, verbose=False)
    assert few.records[0]["value"] == pytest.approx(fid_by_hand(*outputs(3)), rel=1e-5)
    assert few.records[0]["n"] == few.records[0]["protocol"]["images"] == 3
    assert all_of_them.records[0]["value"] == pytest.approx(fid_by_hand(*outputs()), rel=1e-5)


def test_the_protocol_has_all_arguments(tmp_path: Path) -> None:
    metrics = [TorchMetric(SSIM), TorchMetric(FID, **OF_A_SET)]
    trainer(tmp_path, *metrics, Results()).test(Tiny(), loader(Images(side=SIDE)), verbose=False)
    stored = load_results(tmp_path / "results.json")["results"]
    ssim, fid = (r["protocol"] for r in stored)
    kind = "torchmetrics.image.ssim.StructuralSimilarityIndexMeasure"
    assert ssim["implementation"] == f"torchmetrics {torchmetrics.__version__}, {kind}"
    assert (ssim["data_range"], ssim["sigma"], ssim["k2"]) == (1.0, 1.5, 0.03)
    assert (ssim["per"], ssim["inputs"], ssim["pixels"]) == ("image", "sr, hr", "float32 in [0, 1]")
    assert str(fid["feature"]).startswith(
        "tests.callbacks.metrics.test_torchmetric.Colors, weights "
    )
    assert fid["input_img_size"] == "3, 299, 299"
    assert json.loads(json.dumps(fid)) == fid
    kinds = [
        TorchMetric(partial(FrechetInceptionDistance, feature=nn.Linear(2, 2)), **OF_A_SET)
        for _ in range(2)
    ]
    assert kinds[0].protocol() != kinds[1].protocol()  # other weights, other numbers


def test_by_class_path(tiny: Path) -> None:
    import main

    Path("metrics.yaml").write_text(
        """\
- class_path: callbacks.TorchMetric
  init_args:
    metric:
      class_path: torchmetrics.image.PeakSignalNoiseRatio
      init_args: {data_range: 1.0}
    label: psnr_rgb
- class_path: callbacks.TorchMetric
  init_args:
    metric:
      class_path: torchmetrics.image.FrechetInceptionDistance
      init_args: {feature: {class_path: tests.callbacks.metrics.test_torchmetric.Colors}}
    per: set
    pixels: uint8
- class_path: callbacks.PSNR
  init_args: {color: rgb, border: 0}
"""
    )
    arguments = ["--config", "tiny.yaml", "--trainer.callbacks+", "metrics.yaml"]
    main.main(["fit", *arguments, "--trainer.max_steps", "1"])
    main.main(["test", *arguments])
    [written] = Path("runs").rglob("results.json")
    found = {r["metric"]: r for r in load_results(written)["results"]}
    assert found["psnr_rgb"]["value"] == pytest.approx(found["psnr"]["value"], rel=1e-5)
    assert found["psnr_rgb"]["protocol"]["data_range"] == 1.0
    assert found["frechet_inception_distance"]["value"] > 0


def test_it_pickles_as_the_parser_makes_it() -> None:
    made = partial(
        lambda kind, **arguments: kind(**arguments), PeakSignalNoiseRatio, data_range=1.0
    )
    metric = pickle.loads(pickle.dumps(TorchMetric(made)))
    metric.load()
    assert metric.metric.data_range == 1.0


class Broken(Tiny):
    def test_step(self, batch: Any, *indices: int) -> dict[str, Tensor]:
        sr = super().test_step(batch, *indices)["sr"]
        if "tiny/02" in batch["key"]:
            sr[batch["key"].index("tiny/02"), 1, 3, 3] = math.nan
        return {"sr": sr}


def test_an_image_that_is_not_finite_is_named(tmp_path: Path, caplog: Any) -> None:
    metrics = [TorchMetric(PSNR, label="one"), TorchMetric(FID, **OF_A_SET)]
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, *metrics).test(Broken(), loader(Images(side=SIDE)), verbose=False)
    assert math.isnan(metrics[0].images["tiny"]["tiny/02"])
    assert sum(map(math.isfinite, metrics[0].images["tiny"].values())) == 6
    assert math.isnan(metrics[1].records[0]["value"])
    message = "frechet_inception_distance of tiny is not finite, because 1 of 7 images are not: "
    assert message + "tiny/02" in caplog.text


class Uneven(Images):
    """One of them is small."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        cut = {"hr": sample["hr"][..., :32, :], "lr": sample["lr"][..., :16, :]}
        return sample | (cut if index == 1 else {})


@pytest.mark.parametrize(("per", "name"), [("image", "one"), ("set", "all")])
def test_images_that_are_too_small(tmp_path: Path, caplog: Any, per: Any, name: str) -> None:
    vif = VisualInformationFidelity
    metric = TorchMetric(vif, per=per, smallest=41, label=name)
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, metric).test(Tiny(), loader(Uneven(side=SIDE), 1), verbose=False)
    assert metric.records[0]["n"] == 6
    assert "1 of 7 images are smaller than 41x41 pixels" in caplog.text
    assert "tiny/01" in caplog.text
    sr, hr = outputs()
    sound = [0, 2, 3, 4, 5, 6]
    expected = sum(by_hand(vif, sr[sound], hr[sound])) / 6
    assert metric.records[0]["value"] == pytest.approx(expected, rel=1e-6)
    undeclared = TorchMetric(vif, per=per)
    message = r"of tiny/01, 48x32 pixels: .*greater than actual input.* `smallest` leaves out"
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, undeclared).test(Tiny(), loader(Uneven(side=SIDE), 1), verbose=False)


# ------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize(
    ("make", "arguments", "file"),
    [
        (LearnedPerceptualImagePatchSimilarity, {}, "alexnet-owt-7be5be79.pth"),
        (FrechetInceptionDistance, OF_A_SET, "weights-inception-2015-12-05-6726825d.pth"),
        (InceptionScore, {"per": "set", "inputs": ("sr",)}, "weights-inception-2015-12-05"),
    ],
)
def test_weights_that_are_missing_are_named_and_not_fetched(
    tmp_path: Path, monkeypatch: Any, capfd: Any, make: Any, arguments: Any, file: str
) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv("ENLARGER_WEIGHTS", raising=False)
    metric, model = TorchMetric(make, **arguments), Tiny()
    before = torch.get_rng_state()
    with pytest.raises(
        FileNotFoundError, match=rf"lacks weights: {file}.* is neither in .*ENLARGER"
    ):
        trainer(tmp_path, metric).test(model, loader(Images(side=SIDE)), verbose=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.hub.download_url_to_file is download
    assert list(tmp_path.rglob("*.pth")) == []
    assert "Downloading" not in "".join(capfd.readouterr())


def test_weights_of_this_machine_are_verified_and_used(
    inception: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    metric = TorchMetric(partial(FrechetInceptionDistance, feature=64), **OF_A_SET)
    [value] = values_of(tmp_path, metric, n=3)
    by_path = FrechetInceptionDistance(64, feature_extractor_weights_path=str(inception))
    for images, real in zip(outputs(3), (False, True), strict=True):
        by_path.update((images * 255).round().byte(), real=real)
    assert value == pytest.approx(float(by_path.compute()), rel=1e-4)
    assert not (tmp_path / "hub").exists()
    inception_entry = weights.entry_of("fid-inception") | {"sha256": "0" * 64}
    monkeypatch.setattr(weights, "manifest", lambda: {"fid-inception": inception_entry})
    with pytest.raises(weights.WrongWeightsError, match="is not the published"):
        TorchMetric(partial(FrechetInceptionDistance, feature=64), **OF_A_SET).load()


# ------------------------------------------------------------------------------ several processes


class Sharded(Tiny):
    """Tests on every world-th image, in batches of 2; the ranks' lengths differ."""

    repeat = False

    def test_dataloader(self) -> DataLoader[Any]:
        own = list(range(self.trainer.global_rank, 7, self.trainer.world_size))
        if self.repeat and self.trainer.global_rank == 1:
            own.append(0)
        return DataLoader(Images(side=SIDE), 2, sampler=own, collate_fn=collate)


class Padded(Sharded):
    repeat = True


def of_all_kinds() -> list[Metric]:
    metrics: list[Metric] = [TorchMetric(make) for make in IMAGE_METRICS.values()]
    metrics.append(TorchMetric(FID, **OF_A_SET, control=True))
    metrics.append(TorchMetric(partial(KID, subset_size=7), **OF_A_SET, label="kid"))
    ergas = partial(ErrorRelativeGlobalDimensionlessSynthesis, ratio=2)
    return [*metrics, TorchMetric(PSNR, per="set", label="pooled"), TorchMetric(ergas, per="set")]


def on(world: int, place: Path, model: Tiny, *metrics: Metric) -> list[Any]:
    place.mkdir()
    several: Any = {"devices": world, "strategy": "ddp_fork"} if world > 1 else {}
    trainer(place, OneThread(), *metrics, Save(label="last"), **several).test(model, verbose=False)
    everyones = [torch.load(place / f"{rank}.pt") for rank in range(world)]
    assert all(one == everyones[0] for one in everyones)
    return [record for record in everyones[0][0] if record["metric"] != "last"]


@pytest.mark.slow
@pytest.mark.distributed
def test_one_two_and_three_processes_agree_with_the_library(tmp_path: Path) -> None:
    sr, hr = outputs()
    expected = [sum(by_hand(make, sr, hr)) / 7 for make in IMAGE_METRICS.values()]
    expected.append(fid_by_hand(sr, hr))
    found = {n: on(n, tmp_path / str(n), Sharded(), *of_all_kinds()) for n in (1, 2, 3)}
    for records in found.values():
        assert [r["value"] for r in records[:5]] == pytest.approx(expected, rel=1e-5)
        assert {r["n"] for r in records} == {7}
        for one, other in zip(found[1], records, strict=True):
            assert one["metric"] == other["metric"]
            assert other["value"] == pytest.approx(one["value"], rel=1e-5, abs=1e-6)
    kid = partial(KID, subset_size=2)
    sets = [TorchMetric(make, **OF_A_SET, limit=2) for make in (FID, kid)]
    few = on(3, tmp_path / "few", Sharded(), *sets)  # the third process has none of the two
    assert few[0]["value"] == pytest.approx(fid_by_hand(*outputs(2)), rel=1e-5)
    assert few[0]["n"] == 2


def length_of(sr: Tensor) -> int:
    return int(sr.mean() * 1e4) % 7 + 3


class OfLists(torchmetrics.Metric):
    """A metric that keeps a number and the first row of each image, of any length."""

    higher_is_better = True
    numbers: list[Tensor]
    rows: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("numbers", [], dist_reduce_fx="cat")
        self.add_state("rows", [], dist_reduce_fx=None)

    def update(self, sr: Tensor) -> None:
        self.numbers.append(sr.mean())
        self.rows.append(sr[0, 0, 0, : length_of(sr)])

    def compute(self) -> dict[str, Tensor]:
        lengths = torch.tensor([len(row) for row in self.rows]).double()
        mean = torch.stack(list(self.numbers)).double().mean()
        return {"mean": mean, "length": lengths.mean(), "rows": lengths.new_tensor(len(lengths))}


@pytest.mark.distributed
def test_states_that_are_lists_keep_what_each_image_left(tmp_path: Path) -> None:
    sr = outputs()[0]
    lengths = [length_of(x) for x in sr]
    assert len(set(lengths)) > 2
    expected = [float(sr.mean()), sum(lengths) / 7, 7]
    for world in (1, 3):
        metric = TorchMetric(OfLists, per="set", inputs=("sr",))
        records = on(world, tmp_path / str(world), Sharded(), metric)
        assert [r["value"] for r in records] == pytest.approx(expected, rel=1e-6)


class Wide(Sharded):
    """One image is smaller, and is the second process's."""

    def test_dataloader(self) -> DataLoader[Any]:
        own = list(range(self.trainer.global_rank, 7, self.trainer.world_size))
        return DataLoader(Uneven(side=SIDE), 1, sampler=own, collate_fn=collate)


@pytest.mark.distributed
@pytest.mark.parametrize("world", [1, 2])
def test_images_of_differing_sizes_that_a_metric_keeps(tmp_path: Path, world: int) -> None:
    """No process may wait for another one that has stopped."""
    metric = TorchMetric(SpectralDistortionIndex, per="set", label="d")
    with pytest.raises(Exception, match=r"d of tiny, 7 images: Sizes of tensors must match"):
        on(world, tmp_path / "one", Wide(), metric)


@pytest.mark.distributed
@pytest.mark.parametrize("world", [1, 2])
def test_numbers_that_processes_cannot_combine(tmp_path: Path, world: int) -> None:
    metric = TorchMetric(RootMeanSquaredErrorUsingSlidingWindow, per="set", label="rmse")
    with pytest.raises(Exception, match="it keeps rmse_map outside its states"):
        on(world, tmp_path / "one", Sharded(), metric)


@pytest.mark.distributed
def test_an_image_of_two_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="tiny/00 and 0 other images were given to two processes"):
        on(2, tmp_path / "padded", Padded(), TorchMetric(FID, **OF_A_SET))


# --------------------------------------------------------------------------------------- what fails


class NoDirection(TotalVariation):
    higher_is_better = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (NoDirection, {"inputs": ("sr",)}, "NoDirection does not declare whether higher is better"),
        (FID, {"pixels": "uint8"}, "compares two sets: set `per: set`"),
        (FID, {"per": "set", "inputs": ("sr",)}, "compares two sets: set `per: set`"),
        (TotalVariation, {}, r"`inputs` of TorchMetric is sr, hr, but TotalVariation takes .*img"),
        (PSNR, {"inputs": ("hr", "lr")}, "has no 'sr'"),
        (PSNR, {"inputs": ("sr", "gt")}, "`inputs` of TorchMetric has 'gt'; expected sr or hr"),
        (PSNR, {"per": "batch"}, "`per` of TorchMetric has 'batch'; expected image or set"),
        (PSNR, {"pixels": "255"}, "`pixels` of TorchMetric has '255'"),
        (PSNR, {"color": "lab"}, "`color` of TorchMetric has 'lab'"),
        (PSNR, {"smallest": 0}, "`smallest` of TorchMetric is 0"),
        (PSNR, {"pixels": "uint8", "round_8bit": False}, "needs whole levels"),
        (PSNR, {"limit": 0}, "`limit` of TorchMetric is 0"),
    ],
)
def test_bad_arguments(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchMetric(make, **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nn.Linear, "expected a class of torchmetrics"),
        (PSNR(), "expected a class of torchmetrics"),
        (PeakSignalNoiseRatio, "PeakSignalNoiseRatio: missing a required argument: 'data_range'"),
        (partial(TotalVariation, reduktion="sum"), None),
    ],
)
def test_no_class_or_other_arguments(make: Any, message: str | None) -> None:
    if message is None:  # it has **kwargs: the library says so when it is constructed
        with pytest.raises(ValueError, match="reduktion"):
            TorchMetric(make, inputs=("sr",)).load()
        return
    with pytest.raises(TypeError, match=message):
        TorchMetric(make)


def test_metrics_in_metrics_are_refused() -> None:
    inner = torchmetrics.image.TotalVariation()
    wrapped = partial(torchmetrics.wrappers.MinMaxMetric, inner)
    with pytest.raises(TypeError, match="MinMaxMetric"):
        TorchMetric(wrapped, higher_is_better=True, inputs=("sr",)).load()


def test_several_numbers_of_an_image(tmp_path: Path) -> None:
    full = partial(StructuralSimilarityIndexMeasure, data_range=1.0, return_full_image=True)
    with pytest.raises(ValueError, match=r"structural.*_std is \(1, 3, .*; expected one number"):
        values_of(tmp_path, TorchMetric(full))
