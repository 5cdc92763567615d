"""Results: stored and replaced numbers, several seeds, damaged files."""

from __future__ import annotations

import json
import math

import pytest
import torch
from lightning.pytorch import Callback

from callbacks.metrics.pixels import PSNR, SSIM
from callbacks.metrics.swd import SWD
from callbacks.results.files import append, made_by, read, read_file
from callbacks.results.results import Results
from callbacks.results.rows import over_seeds
from degradations.bicubic import resize
from files.method import Method
from files.owned import MovedError, write_whole
from tests.callbacks.results.measured import row
from tests.callbacks.tiny import Images, Tiny, loader, outputs, trainer
from tests.make import keys


class Trained(Method, Tiny):
    """A model with weights from a file."""

    weights_source = "a.ckpt"


def evaluate(folder, *metrics, model=None, data=None, verb="test"):
    run = trainer(folder, *metrics, Results())
    getattr(run, verb)(model or Trained(), data or loader(), verbose=False)


def stored(folder):
    return read_file(folder / "results.json")


def stored_images(folder):
    return read_file(folder / "images.json")


# --------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_numbers_are_stored_with_protocol_and_weights(tmp_path, verb):
    tiny = Images(count=7, name="tiny", scale=2)
    other = Images(count=3, name="other", scale=4)

    evaluate(tmp_path, PSNR(), SSIM(), data=[loader(tiny), loader(other)], verb=verb)

    content = json.loads((tmp_path / "results.json").read_text())
    assert set(content) == {"results", "command", "commit", "versions", "arithmetic"}
    assert torch.__version__.startswith(content["versions"]["torch"])
    rows = [(r["dataset"], r["scale"], r["metric"], r["n"]) for r in content["results"]]
    assert rows == [
        ("tiny", 2.0, "psnr", 7),
        ("other", 4.0, "psnr", 3),
        ("tiny", 2.0, "ssim", 7),
        ("other", 4.0, "ssim", 3),
    ]
    first = content["results"][0]
    assert first["protocol"] == PSNR().protocol()
    assert first["checkpoint"] == Trained.weights_source
    assert first["higher_is_better"]
    assert "seeds" not in first  # the model draws no noise


def test_numbers_of_every_image_and_of_bicubic_are_stored(tmp_path):
    tiny = Images(count=7, name="tiny")
    other = Images(count=3, name="other")

    evaluate(tmp_path, PSNR(control=True), data=[loader(tiny), loader(other)])

    images = stored_images(tmp_path)
    sr, hr = outputs(count=7)
    lr = torch.stack([sample["lr"] for sample in tiny])
    for checkpoint, enlarged in (("a.ckpt", sr), ("bicubic", resize(lr, (24, 24)))):
        expected = PSNR(border=2).compute(enlarged, hr, keys(7)).tolist()
        of_tiny = [i for i in images if (i.dataset, i.checkpoint) == ("tiny", checkpoint)]
        assert [image.image for image in of_tiny] == tiny.keys
        assert [image.value for image in of_tiny] == pytest.approx(expected)
    assert [(number.dataset, number.checkpoint) for number in stored(tmp_path)] == [
        ("tiny", "a.ckpt"),
        ("other", "a.ckpt"),
        ("tiny", "bicubic"),
        ("other", "bicubic"),
    ]
    for number in stored(tmp_path):
        values = [image.value for image in images if image.number == number.number]
        assert len(values) == number.n
        assert number.value == sum(values) / number.n


def test_validations_of_fit_are_not_stored(tmp_path):
    trainer(tmp_path, PSNR(), Results()).fit(Tiny(), loader(), loader())

    assert not list(tmp_path.glob("*.json"))


def test_an_evaluation_without_metrics_stores_nothing(tmp_path):
    evaluate(tmp_path)

    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("weights", "settings", "expected"),
    [
        ("a.ckpt", {}, "a.ckpt"),
        ("a.ckpt", {"color_fix": "adain", "steps": 3}, "a.ckpt, color_fix adain, steps 3"),
        (None, {}, None),
    ],
)
def test_made_by_names_the_weights_and_the_settings_of_outputs(weights, settings, expected):
    class Sampled(Method):
        weights_source = weights
        output_settings = settings

    assert made_by(Sampled()) == expected


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_values_that_are_not_finite_are_stored_as_strict_json(tmp_path, value):
    append(tmp_path, [row(value=value), row(value=value, image="set5/baby")])

    for path in (tmp_path / "results.json", tmp_path / "images.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)  # called for NaN and Infinity
        [number] = read_file(path)
        assert str(number.value) == str(value)


# ----------------------------------------------------------------------------- what replaces what


def test_a_number_replaces_that_of_the_same_weights_only(tmp_path):
    append(tmp_path, [row(value=31.0, checkpoint="a.ckpt")])
    append(tmp_path, [row(value=32.0, checkpoint="a.ckpt")])
    append(tmp_path, [row(value=33.0, checkpoint=None)])

    numbers = [(number.checkpoint, number.value) for number in stored(tmp_path)]
    assert numbers == [("a.ckpt", 32.0), (None, 33.0)]


class Changed(Images):
    """The same images with one part darker: "hr", "lr" or "nothing"."""

    def __init__(self, part):
        super().__init__(name="tiny", scale=2)
        self.part = part

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if self.part in sample:
            sample[self.part] = sample[self.part] / 2
        return sample


@pytest.mark.parametrize("metric", [PSNR(), SWD(levels=1)], ids=["of images", "of sets"])
@pytest.mark.parametrize("changed", ["nothing", "hr", "lr"])
def test_numbers_of_other_images_of_the_same_names_are_dropped(tmp_path, caplog, metric, changed):
    """Metrics that were not measured again would be of other images than the one that was."""
    evaluate(tmp_path, PSNR(), SSIM(), SWD(levels=1))

    evaluate(tmp_path, metric, data=loader(Changed(changed)))

    remaining = {"psnr", "ssim", "swd"} if changed == "nothing" else {metric.name}
    assert {number.metric for number in stored(tmp_path)} == remaining
    assert {image.metric for image in stored_images(tmp_path)} == remaining - {"swd"}
    assert ("are replaced: tiny x2" in caplog.text) == (changed != "nothing")


@pytest.mark.parametrize("content", ["before", "after"])
def test_numbers_of_other_weights_of_the_same_name_are_dropped(tmp_path, caplog, content):
    model = Trained()
    model.weights_source = f"{tmp_path / 'm.pth'} (EMA)"
    (tmp_path / "m.pth").write_text("before")
    evaluate(tmp_path, PSNR(), SSIM(), model=model)
    (tmp_path / "m.pth").write_text(content)

    evaluate(tmp_path, PSNR(), model=model)

    is_dropped = content == "after"
    metrics = {number.metric for number in stored(tmp_path)}
    assert metrics == ({"psnr"} if is_dropped else {"psnr", "ssim"})
    assert ("no longer among the results: ssim on tiny x2" in caplog.text) == is_dropped


def test_other_images_at_another_scale_drop_nothing(tmp_path, caplog):
    append(tmp_path, [row(scale=2.0, digest="00000001 9.0")])

    append(tmp_path, [row(scale=4.0, digest="00000002 9.0")])

    assert not caplog.records
    assert len(read(tmp_path)) == 2


def killed(path, text):
    raise KeyboardInterrupt


@pytest.mark.parametrize("writes", [0, 1, 2])
@pytest.mark.parametrize("digest", ["00000001", "00000002"], ids=["old images", "new images"])
def test_numbers_of_old_and_new_images_are_never_mixed_by_a_kill(
    tmp_path, monkeypatch, writes, digest
):
    """New images are measured by a process that is killed after so many writes; PSNR again."""

    def measure(digest, *metrics):
        rows = []
        for metric in metrics:
            rows.append(row(metric=metric, value=int(digest)))
            rows.append(row(metric=metric, image="set5/baby", digest=digest))
        append(tmp_path, rows)

    measure("00000001", "psnr", "ssim")
    functions = iter([write_whole] * writes + [killed])
    with monkeypatch.context() as patch:
        patch.setattr("callbacks.results.files.write_whole", lambda *file: next(functions)(*file))
        with pytest.raises(KeyboardInterrupt):
            measure("00000002", "psnr")

    measure(digest, "psnr")

    assert {number.value for number in stored(tmp_path)} == {int(digest)}


@pytest.mark.parametrize(
    "content", ["{", '{"results": [{"value": 1}]}'], ids=["no JSON", "a row without its dataset"]
)
def test_a_damaged_file_is_moved_aside(tmp_path, caplog, content):
    path = tmp_path / "results.json"
    for number in (0, 1):  # the second file takes another name than the first
        path.write_text(content)
        with pytest.raises(ValueError, match=r"results\.json is damaged"):
            read_file(path)

        evaluate(tmp_path, PSNR())

        aside = tmp_path / f"results.json.damaged-{number}"
        assert aside.read_text() == content
        assert str(aside) in caplog.text
        assert len(stored(tmp_path)) == 1


def test_numbers_are_not_written_into_a_new_folder_in_the_place_of_a_moved_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()

    class Moves(Callback):
        def on_test_start(self, trainer, pl_module):
            folder.rename(tmp_path / "moved")
            folder.mkdir()

    with pytest.raises(MovedError, match="was moved or deleted"):
        evaluate(folder, PSNR(), Moves())

    assert not list(folder.iterdir())


# ---------------------------------------------------------------------------------- several seeds


class Stochastic(Trained):
    """A model whose outputs depend on a seed, as those of methods with noise do."""

    _drew_noise = True

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        sr = super().test_step(batch, batch_idx)["sr"]
        return {"sr": (sr + 0.01 * self.noise_seed).clamp(0, 1)}


def test_the_number_of_several_seeds_is_their_mean_and_deviation(tmp_path, capsys):
    model = Stochastic()
    results = Results()
    run = trainer(tmp_path, PSNR(control=True), results)
    results.repeats = 3
    values = []
    for seed in (4, 5, 6):
        model.set_noise_seed(seed)
        run.test(model, loader(), verbose=False)
        values.append(run.callback_metrics["test/psnr"].double())
        assert stored(tmp_path)[0].seeds == list(range(4, seed + 1))  # stored after each seed

    number, bicubic = stored(tmp_path)
    assert number.value == pytest.approx(torch.stack(values).mean().item(), rel=1e-6)
    assert number.std == pytest.approx(torch.stack(values).std().item(), rel=1e-4)
    assert number.std > 0
    assert bicubic.seeds is None  # which draws no noise
    assert {image.seed for image in stored_images(tmp_path)} == {4, 5, 6, None}
    assert capsys.readouterr().out.count("checkpoint") == 1  # one table, at the end

    run.test(model, loader(), verbose=False)
    assert stored(tmp_path)[0].seeds == [6]  # another evaluation replaces them


@pytest.mark.parametrize("broken_seed", [0, 1])
def test_a_metric_that_one_seed_lacks_is_nan_and_no_mean_of_the_others(broken_seed):
    """A metric of sets may have further numbers, such as `swd_2`, for some outputs only."""
    evaluations = [[row(metric="swd", seed=n), row(metric="swd_2", seed=n)] for n in range(3)]
    evaluations[broken_seed] = [row(metric="swd", value=math.nan, seed=broken_seed)]

    numbers = over_seeds(evaluations)

    assert [number.metric for number in numbers] == ["swd", "swd_2"]
    for number in numbers:
        assert math.isnan(number.value)
        assert math.isnan(number.std)
