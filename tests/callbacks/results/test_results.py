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
def test_results_json_says_how_each_number_was_made(tmp_path, verb):
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
    psnr = content["results"][0]
    assert psnr["protocol"] == PSNR().protocol()
    assert psnr["checkpoint"] == Trained.weights_source
    assert psnr["higher_is_better"]
    assert "seeds" not in psnr  # the model draws no noise


def test_a_number_of_every_image_and_of_its_bicubic_enlargement_is_stored(tmp_path):
    images = Images(count=7, scale=2, side=24)

    evaluate(tmp_path, PSNR(control=True), data=loader(images))

    sr, hr = outputs(count=7, side=24)
    lr = torch.stack([sample["lr"] for sample in images])
    for checkpoint, enlarged in (("a.ckpt", sr), ("bicubic", resize(lr, (24, 24)))):
        expected = PSNR(border=2).compute(enlarged, hr, keys(7)).tolist()
        rows = [row for row in stored_images(tmp_path) if row.checkpoint == checkpoint]
        assert [row.image for row in rows] == images.keys
        assert [row.value for row in rows] == pytest.approx(expected)


def test_the_number_of_each_dataset_and_its_bicubic_is_the_mean_over_its_images(tmp_path):
    tiny = Images(count=7, name="tiny")
    other = Images(count=3, name="other")

    evaluate(tmp_path, PSNR(control=True), data=[loader(tiny), loader(other)])

    numbers = stored(tmp_path)
    assert [number.dataset for number in numbers] == ["tiny", "other", "tiny", "other"]
    assert [number.checkpoint for number in numbers] == ["a.ckpt", "a.ckpt", "bicubic", "bicubic"]
    for number in numbers:
        values = [row.value for row in stored_images(tmp_path) if row.number == number.number]
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
@pytest.mark.parametrize(("changed", "dropped"), [("nothing", False), ("hr", True), ("lr", True)])
def test_numbers_of_changed_images_are_dropped(tmp_path, caplog, metric, changed, dropped):
    """If one metric is measured again on changed images, the others' numbers do not belong to it.

    They would stand beside it in one table.
    """
    evaluate(tmp_path, PSNR(), SSIM(), SWD(levels=1))

    evaluate(tmp_path, metric, data=loader(Changed(changed)))

    kept = {metric.name} if dropped else {"psnr", "ssim", "swd"}
    assert {number.metric for number in stored(tmp_path)} == kept
    # SWD, of sets, has no number of an image.
    assert {image.metric for image in stored_images(tmp_path)} == kept - {"swd"}
    assert ("are replaced: tiny x2" in caplog.text) == dropped


@pytest.mark.parametrize(("content", "dropped"), [("same", False), ("other", True)])
def test_numbers_of_changed_weights_are_dropped(tmp_path, caplog, content, dropped):
    """Training on writes other weights into `last.ckpt`; the file's hash tells them apart."""
    file = tmp_path / "last.ckpt"
    model = Trained()
    model.weights_source = f"{file} (EMA)"  # its averages
    file.write_text("same")
    evaluate(tmp_path, PSNR(), SSIM(), model=model)
    file.write_text(content)

    evaluate(tmp_path, PSNR(), model=model)

    metrics = {number.metric for number in stored(tmp_path)}
    assert metrics == ({"psnr"} if dropped else {"psnr", "ssim"})
    assert ("no longer among the results: ssim on tiny x2" in caplog.text) == dropped


def test_other_images_at_another_scale_drop_nothing(tmp_path, caplog):
    """Each scale has images of its own; a digest is a hash of HR and the detail of LR."""
    append(tmp_path, [row(scale=2.0, digest="00000001 9.0")])

    append(tmp_path, [row(scale=4.0, digest="00000002 9.0")])

    assert not caplog.records
    assert len(read(tmp_path)) == 2


def killed(path, text):
    raise KeyboardInterrupt


@pytest.mark.parametrize("writes", [0, 1, 2])  # before the kill, of three
@pytest.mark.parametrize("digest", ["00000001", "00000002"], ids=["old images", "new images"])
def test_numbers_of_old_and_new_images_are_never_mixed_by_a_kill(
    tmp_path, monkeypatch, writes, digest
):
    """PSNR and SSIM are of old images; a process that measures PSNR of new ones is killed.

    The next process measures PSNR of old or new images, and no number of the others may be left.
    """

    def measure(digest, *metrics):
        rows = []
        for metric in metrics:
            rows.append(row(metric=metric, value=int(digest)))  # 1 of old images, 2 of new ones
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


def evaluate_seeds(folder, *evaluations):
    """Evaluate a model with noise by the seeds of each evaluation, as `--run.seeds` does.

    Yields the PSNR of each seed when its numbers are stored.
    """
    results = Results()
    run = trainer(folder, PSNR(control=True), results)
    model = Stochastic()
    for seeds in evaluations:
        results.repeats = len(seeds)
        for seed in seeds:
            model.set_noise_seed(seed)
            run.test(model, loader(), verbose=False)
            yield run.callback_metrics["test/psnr"].double()


def test_the_number_of_several_seeds_is_their_mean_and_deviation(tmp_path):
    values = torch.stack(list(evaluate_seeds(tmp_path, [4, 5, 6])))

    number, bicubic = stored(tmp_path)
    assert number.value == pytest.approx(values.mean().item(), rel=1e-6)
    assert number.std == pytest.approx(values.std().item(), rel=1e-4)
    assert number.std > 0
    assert bicubic.seeds is None  # which draws no noise
    assert {image.seed for image in stored_images(tmp_path)} == {4, 5, 6, None}


def test_each_seed_is_stored_at_once_and_all_are_shown_in_one_table(tmp_path, capsys):
    """An interrupt then loses no seed that has been measured."""
    seeds = [stored(tmp_path)[0].seeds for _ in evaluate_seeds(tmp_path, [4, 5, 6])]

    assert seeds == [[4], [4, 5], [4, 5, 6]]
    assert capsys.readouterr().out.count("checkpoint") == 1  # a heading of the table


def test_another_evaluation_replaces_all_seeds_of_the_one_before(tmp_path):
    list(evaluate_seeds(tmp_path, [4, 5], [6]))

    assert stored(tmp_path)[0].seeds == [6]


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
