"""What a metric is: means, values that are not finite, parts of a set; torchmetrics' ones."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torchmetrics
import yaml
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.image import (
    LearnedPerceptualImagePatchSimilarity,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
    TotalVariation,
)

import callbacks
from callbacks.evaluation import are_finite
from callbacks.metrics.base import ImageMetric
from callbacks.metrics.pixels import PSNR, to_pixels
from callbacks.metrics.torchmetric import SEED, TorchMetric
from callbacks.results.files import read_file
from callbacks.results.results import Results
from tests.callbacks.tiny import (
    Double,
    Images,
    NoHR,
    Tiny,
    collate,
    evaluate,
    loader,
    outputs,
    validate,
)
from tests.conftest import REPO
from tests.make import keys, uniform


class MeanDifference(ImageMetric):
    """A metric as a user writes it."""

    name = "mae"
    higher_is_better = False

    def protocol(self):
        return {"implementation": "test", "weights": None}

    def compute(self, sr, hr, batch):
        return (sr - hr).abs().mean((1, 2, 3))


def mean_difference(count):
    """What it gives for the tiny model and so many images."""
    sr, hr = outputs(count)
    return pytest.approx((sr - hr).abs().mean().item(), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_mean_of_all_images_is_logged_and_recorded(tmp_path, batch_size):
    """In batches of 3, the last one has one image: a mean over batches would weigh it thrice."""
    metric = MeanDifference()
    images = Images(count=7, name="tiny", scale=2)

    run = validate(tmp_path, metric, data=loader(images, batch_size))

    [record] = metric.records
    assert run.callback_metrics["val/mae"].item() == mean_difference(count=7)
    assert record == {
        "dataset": "tiny",
        "scale": 2.0,
        "metric": "mae",
        "value": mean_difference(count=7),
        "n": 7,
        "protocol": {"implementation": "test", "weights": None},
    }


def test_a_metric_that_writes_into_the_images_does_not_change_another(tmp_path):
    class Spoils(MeanDifference):
        def compute(self, sr, hr, batch):
            difference = super().compute(sr, hr, batch)
            sr.zero_()
            hr.zero_()
            return difference

    beside = PSNR(border=0)
    alone = PSNR(border=0)

    validate(tmp_path, Spoils(), beside)

    validate(tmp_path, alone)
    assert beside.records == alone.records


def test_compute_sees_the_scale_of_its_dataset(tmp_path):
    """PSNR, for one, cuts off a border that depends on it."""

    class Scale(MeanDifference):
        def compute(self, sr, hr, batch):
            return torch.full((len(sr),), self.scale)

    metric = Scale()
    a = Images(count=3, name="a", scale=2)
    b = Images(count=3, name="b", scale=4)

    evaluate(tmp_path, metric, data=[loader(a), loader(b)])

    assert [record["value"] for record in metric.records] == [2.0, 4.0]


def test_a_repeated_image_counts_once(tmp_path):
    """Distributed samplers repeat images, so that each process has equally many."""
    metric = MeanDifference()
    images = Images(count=7)
    padded = DataLoader(images, batch_size=2, sampler=[0, 1, 2, 3, 4, 5, 6, 0], collate_fn=collate)

    validate(tmp_path, metric, data=padded)

    assert metric.records[0]["n"] == 7
    assert metric.records[0]["value"] == mean_difference(count=7)


def test_a_number_of_a_part_of_the_dataset_has_the_count_of_images_in_its_protocol(tmp_path):
    """Else it would replace the number of the whole dataset among the results."""
    metric = MeanDifference()

    validate(tmp_path, metric, data=loader(Images(count=7), batch_size=2), limit_val_batches=2)

    assert metric.records[0]["value"] == mean_difference(count=4)
    assert metric.records[0]["protocol"]["images"] == 4  # 2 batches of 2


def test_images_without_hr_are_measured_by_metrics_that_need_none(tmp_path, caplog):
    class Brightness(MeanDifference):
        needs_hr = False

        def compute(self, sr, hr, batch):
            return sr.mean((1, 2, 3))

    needs_hr = MeanDifference()
    needs_none = Brightness(label="brightness")
    images = NoHR(count=7, name="tiny")

    validate(tmp_path, needs_hr, needs_none, model=Double(), data=loader(images))

    assert needs_hr.records == []
    assert needs_none.records[0]["n"] == 7
    sr, _ = outputs(count=7)  # those of `Double` are the same
    assert needs_none.records[0]["value"] == pytest.approx(sr.mean().item(), rel=1e-6)
    assert "no mae on tiny: no image with HR" in caplog.text


def test_a_value_that_is_not_finite_is_left_out_of_the_mean_and_named(tmp_path, caplog):
    class Undefined(MeanDifference):
        def compute(self, sr, hr, batch):
            return torch.tensor([math.nan if key == "tiny/03" else 1.0 for key in batch["key"]])

    metric = Undefined()

    validate(tmp_path, metric, data=loader(Images(count=7, name="tiny")))

    [record] = metric.records
    assert record["value"] == 1.0
    assert record["n"] == 7
    assert record["not_finite"] == 1
    assert "the mean is of the other 6: tiny/03 (nan)" in caplog.text


def test_an_output_with_a_nan_pixel_makes_the_mean_nan(tmp_path):
    """Left out, a model that fails on hard images would be the best one."""

    class BrokenOnce(Tiny):
        def validation_step(self, batch, batch_idx):
            outputs = super().validation_step(batch, batch_idx)
            if batch_idx == 1:
                outputs["sr"][0, 0, 0, 0] = torch.nan
            return outputs

    metric = MeanDifference()

    validate(tmp_path, metric, model=BrokenOnce())

    assert math.isnan(metric.records[0]["value"])
    assert metric.records[0]["not_finite"] == 1


def test_large_float16_images_are_finite_unless_a_pixel_is_not():
    """The sum of the ones, 3 x 300 x 300 = 270,000, is above float16's 65504."""
    images = torch.ones(2, 3, 300, 300, dtype=torch.float16)
    images[1, 0, 7, 7] = torch.nan

    assert are_finite(images).tolist() == [True, False]


class Pooled(MeanDifference):
    def compute(self, sr, hr, batch):
        return (sr - hr).abs().mean()


@pytest.mark.parametrize(
    ("metrics", "names", "words"),
    [
        ([PSNR(), PSNR(color="rgb")], ["a"], "two metrics .* named 'psnr'; .* `label`"),
        ([PSNR()], ["a", "a"], "two datasets are named 'a'"),
        ([Pooled()], ["a"], r"Pooled.compute gave the shape \(\); expected one value"),
    ],
    ids=["two metrics of one name", "two datasets of one name", "one value for a batch"],
)
def test_numbers_not_told_apart_by_name_and_image_are_refused(tmp_path, metrics, names, words):
    datasets = [loader(Images(count=3, name=name)) for name in names]

    with pytest.raises(ValueError, match=words):
        evaluate(tmp_path, *metrics, data=datasets)


# ------------------------------------------------------------------ presets of configs/callbacks

# As the papers' tables or code have it, by the remarks in each preset's file.
PRESETS = {
    # Table 1, on DIV2K: the scale and 6 pixels are cut off, and outputs are not rounded.
    "liif-div2k": {"psnr": {"color": "rgb", "border": "scale+6", "round_8bit": False}},
    "idm-faces": {"psnr": {"color": "rgb", "border": 0}, "lpips": {"net": "alex"}},
    # By pyiqa, on Y without a border; NSARM does not say, and is taken to do the same.
    "invsr-imagenet": {"psnr": {"color": "y", "border": 0}, "ssim": {"color": "y", "border": 0}},
    "resshift": {"psnr": {"color": "y", "border": 0}, "ssim": {"color": "y", "border": 0}},
    "nsarm-real": {"psnr": {"color": "y", "border": 0}, "ssim": {"color": "y", "border": 0}},
    "selfcascade-fid": {"fid": {"preset": "clean-fid"}, "kid": {}, "pfid": {}},
    "clean-fid": {"fid": {"preset": "clean-fid"}},
    "torch-fidelity": {"fid": {"preset": "torch-fidelity"}},
}


def metrics_of(preset):
    """The metrics of a preset by their names."""
    metrics = {}
    for entry in yaml.safe_load((REPO / f"configs/callbacks/{preset}.yaml").read_text()):
        path = entry if isinstance(entry, str) else entry["class_path"]
        arguments = {} if isinstance(entry, str) else entry.get("init_args", {})
        metric = getattr(callbacks, path.removeprefix("callbacks."))(**arguments)
        metrics[metric.name] = metric
    return metrics


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_measures_by_the_protocol_of_its_paper_or_library(preset):
    metrics = metrics_of(preset)

    for name, expected in PRESETS[preset].items():
        assert expected.items() <= metrics[name].protocol().items()


def test_self_cascades_metrics_have_a_folder_as_reference_and_need_no_hr():
    """Its outputs are generated: they have no HR, and are compared with real images of the user."""
    metrics = metrics_of("selfcascade-fid")

    for name in PRESETS["selfcascade-fid"]:
        assert metrics[name].reference == "$ENLARGER_REFERENCE"
        assert not metrics[name].needs_hr


# ------------------------------------------------------------------------------------- TorchMetric


COUNT = 7
SIDE = 48
THEIR_PSNR = partial(PeakSignalNoiseRatio, data_range=1.0)
THEIR_SSIM = partial(StructuralSimilarityIndexMeasure, data_range=1.0)


def whole_levels():
    """The tiny model's outputs, and HR, rounded to 8 bits as metrics measure them."""
    sr, hr = outputs(COUNT, SIDE)
    return (sr * 255).round() / 255, (hr * 255).round() / 255


def numbers_of(make, sr, hr):
    """The library's number of each image."""
    values = []
    for n in range(len(sr)):
        metric = make()
        metric.update(sr[n : n + 1], hr[n : n + 1])
        values.append(float(metric.compute()))
    return values


def evaluated(folder, metric):
    """The metric's number of each image."""
    images = Images(COUNT, name="tiny", side=SIDE)
    evaluate(folder, metric, data=loader(images, batch_size=3))
    return list(metric.images["tiny"].values())


@pytest.mark.parametrize(
    ("make", "name"),
    [(THEIR_PSNR, "peak_signal_noise_ratio"), (THEIR_SSIM, "structural_similarity_index_measure")],
)
def test_a_torchmetrics_number_is_the_mean_of_those_of_each_image(tmp_path, make, name):
    metric = TorchMetric(make)

    values = evaluated(tmp_path, metric)

    expected = numbers_of(make, *whole_levels())
    assert metric.name == name
    assert values == pytest.approx(expected, rel=1e-6)
    assert metric.records[0]["value"] == pytest.approx(sum(expected) / COUNT, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "data_range", "convert"),
    [
        ({"color": "y"}, 1.0, lambda x: to_pixels(x, "y").float() / 255),
        ({"pixels": "signed"}, 2.0, lambda x: x * 2 - 1),
        ({"pixels": "uint8"}, 255.0, lambda x: (x * 255).round().byte()),
    ],
    ids=["luma", "from -1 to 1", "8 bits"],
)
def test_a_torchmetric_gets_pixels_as_its_settings_say(tmp_path, settings, data_range, convert):
    """Metrics of torchmetrics differ in the range and the type that they take."""
    seen = []

    class Seen(PeakSignalNoiseRatio):
        def update(self, sr, hr):
            seen.append(sr)
            super().update(sr.float(), hr.float())

    make = partial(Seen, data_range=data_range)

    values = evaluated(tmp_path, TorchMetric(make, **settings))

    sr, hr = map(convert, whole_levels())
    assert seen[0].dtype == sr.dtype
    torch.testing.assert_close(torch.cat(seen), sr)
    assert values == pytest.approx(numbers_of(make, sr, hr), rel=1e-5)


def test_a_torchmetric_of_sr_alone_measures_images_without_hr(tmp_path):
    metric = TorchMetric(TotalVariation, inputs=("sr",))

    validate(tmp_path, metric, model=Double(), data=loader(NoHR(count=3)))

    sr, _ = outputs(count=3)
    expected = TotalVariation(reduction="mean")((sr * 255).round() / 255)
    assert metric.records[0]["value"] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("make", "direction"), [(TotalVariation, False), (THEIR_SSIM, True)])
def test_a_torchmetric_has_the_direction_of_its_class(make, direction):
    assert TorchMetric(make).higher_is_better is direction


def test_lr_can_be_an_input_of_a_torchmetric(tmp_path):
    class DarkLR(Images):
        """At scale 1, LR would else be equal to HR."""

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return {**sample, "lr": sample["lr"] / 2}

    class Unchanged(Tiny):
        def test_step(self, batch, batch_idx):
            return {"sr": batch["lr"]}

    metric = TorchMetric(THEIR_SSIM, inputs=("sr", "lr"))

    evaluate(tmp_path, metric, model=Unchanged(), data=loader(DarkLR(count=3, scale=1)))

    assert metric.records[0]["value"] == pytest.approx(1)  # SSIM of equal images


class Half(torchmetrics.Metric):
    """Half of PSNR, by a metric in it."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.inner = THEIR_PSNR()

    def update(self, sr, hr):
        self.inner.update(sr, hr)

    def compute(self):
        return self.inner.compute() / 2


def test_a_torchmetric_and_one_within_it_do_not_synchronise_processes(monkeypatch):
    """Processes have different numbers of images, so one would wait for the others forever.

    The patch tells torchmetrics that there are several; to synchronise would be an error, as there
    is one.
    """
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    sr, hr = outputs(count=1)
    psnr = TorchMetric(THEIR_PSNR)
    half = TorchMetric(Half)
    psnr.load()
    half.load()

    value = half.compute(sr, hr, keys(1))

    assert value == psnr.compute(sr, hr, keys(1)) / 2


def test_a_metric_within_another_is_reset_for_each_image(tmp_path):
    psnr = evaluated(tmp_path, TorchMetric(THEIR_PSNR))
    half = evaluated(tmp_path, TorchMetric(Half))

    assert half == pytest.approx([value / 2 for value in psnr])


def test_a_torchmetric_draws_the_same_random_numbers_for_each_image(tmp_path):
    """Else its number would depend on what has drawn from the global generator before."""

    class Drawn(Half):
        def compute(self):
            return torch.rand(())

    values = evaluated(tmp_path, TorchMetric(Drawn))

    assert values == [uniform(1, seed=SEED).item()] * COUNT


def test_the_protocol_of_a_torchmetric_has_its_arguments_and_defaults(tmp_path):
    evaluate(tmp_path, TorchMetric(THEIR_SSIM), Results())

    [row] = read_file(tmp_path / "results.json")
    name = "torchmetrics.image.ssim.StructuralSimilarityIndexMeasure"
    assert row.protocol["implementation"] == f"torchmetrics {torchmetrics.__version__}, {name}"
    assert row.protocol["data_range"] == 1.0
    assert row.protocol["sigma"] == 1.5  # torchmetrics' default
    assert row.protocol["per"] == "image"
    assert row.protocol["inputs"] == "sr, hr"
    assert row.protocol["pixels"] == "float32 in [0, 1]"


def test_a_torchmetric_with_other_weights_has_another_protocol():
    """Else results would compare numbers by different networks."""

    def protocol_of_new_weights():
        net = nn.Linear(2, 2)  # in the place of LPIPS's network; its weights are random
        make = partial(LearnedPerceptualImagePatchSimilarity, net_type=net)
        return TorchMetric(make, higher_is_better=False).protocol()

    assert protocol_of_new_weights() != protocol_of_new_weights()
