"""The Python interface: images of each kind, trained weights, numbers as by `main.py`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from PIL import Image
from PIL.ExifTags import IFD, Base
from safetensors.torch import save_file

import enlarger
from callbacks import EMA, PSNR
from callbacks.predict.files import Extras, encode
from callbacks.results.files import read_file
from callbacks.results.results import Results
from commands import measure
from commands.run.files import newest_whole
from commands.run.ranking import best_or_newest
from datamodules import Folder
from degradations.bicubic import resize
from degradations.tools.configure import degradation_of
from files.images.decode import read_image
from lightning_modules import EDSR, Bicubic, Regression, ResShift, RRDBNet, Taef2Space
from lightning_modules.sampling.tiling import Tiling
from main import main
from tests.callbacks.tiny import trainer
from tests.conftest import REPO
from tests.datamodules.profiles import rgb_profile

Command = Callable[..., None]
DRAWS = np.random.default_rng(0)
EXPORTED = {"enlarger": "0", "model": "lightning_modules.Regression"}
RGB = DRAWS.integers(0, 256, (24, 20, 3), dtype=np.uint8)


@pytest.fixture
def command(request: pytest.FixtureRequest) -> Command:
    found: Command = request.getfixturevalue("enlarger")
    return found


@pytest.fixture(scope="module")
def bicubic() -> enlarger.Enlarger:
    return enlarger.Enlarger(Bicubic(2), "cpu")


SEEN = np.full_like(RGB[..., :1], 99)  # an even alpha, which weights no colours
KINDS: dict[str, Callable[[], Any]] = {
    "RGB": lambda: Image.fromarray(RGB),
    "L": lambda: Image.fromarray(RGB[..., 0]),
    "LA": lambda: Image.fromarray(np.dstack([RGB[..., 0], SEEN])),
    "RGBA": lambda: Image.fromarray(np.dstack([RGB, SEEN])),
    "I;16": lambda: Image.fromarray(RGB[..., 0].astype(np.uint16) * 257),
    "I;16B": lambda: Image.frombytes(
        "I;16B", (20, 24), (RGB[..., 0].astype(">u2") * 257).tobytes()
    ),
    "uint8": lambda: RGB,
    "grey uint8": lambda: RGB[..., 0],
    "uint16": lambda: RGB.astype(np.uint16) * 257,
    "float64": lambda: RGB / 255,
    "grey with alpha uint16": lambda: np.dstack([RGB[..., 0], SEEN]).astype(np.uint16) * 257,
    "alpha uint8": lambda: np.dstack([RGB, SEEN]),
    "tensor": lambda: torch.from_numpy(RGB / np.float32(255)).movedim(-1, 0),
}


def as_floats(image: Any) -> np.ndarray:
    """Return (H, W, C) in [0, 1]."""
    if isinstance(image, torch.Tensor):
        return image.movedim(0, -1).numpy()
    array = np.atleast_3d(np.asarray(image))
    most = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    return array / most


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_enlarged_to_its_own_kind(bicubic: enlarger.Enlarger, kind: str) -> None:
    """Of each channel, alpha too, it is the bicubic interpolation."""
    image = KINDS[kind]()
    made = bicubic.enlarge(image)
    assert type(made) is type(image)
    if isinstance(image, Image.Image):
        assert (made.mode, made.size) == (image.mode.replace("16B", "16"), (40, 48))
    else:
        assert made.dtype == image.dtype
    given = torch.from_numpy(as_floats(image)).movedim(-1, 0)[None].float()
    expected = resize(given, (48, 40)).clamp(0, 1)[0].movedim(0, -1).numpy()
    deep = dict.fromkeys(("uint16", "grey with alpha uint16", "I;16", "I;16B"), 1e-4)
    tolerance = {**deep, "float64": 1e-6, "tensor": 1e-6}.get(kind, 4e-3)
    assert np.abs(as_floats(made) - expected).max() < tolerance


@pytest.mark.parametrize("outer", [0, 1, 40, 200])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_colours_are_weighted_by_alpha(bicubic: enlarger.Enlarger, outer: int, kind: str) -> None:
    """A red square on green that is hardly visible: bicubic of colours multiplied by alpha."""
    image = np.full((16, 16, 4), (0, 255, 0, outer), kind)
    image[4:12, 4:12] = 200, 30, 40, 255
    image = image * (np.iinfo(kind).max // 255)
    made = as_floats(bicubic.enlarge(image))
    given = torch.from_numpy(as_floats(image)).movedim(-1, 0)[None]
    multiplied = resize(given[:, :3] * given[:, 3:], (32, 32), clamp=False)[0].movedim(0, -1)
    alpha = resize(given[:, 3:], (32, 32), clamp=False)[0].movedim(0, -1)
    seen = made[..., 3] > 0.5
    expected = (multiplied / alpha).clamp(0, 1).numpy()
    np.testing.assert_allclose(made[..., :3][seen], expected[seen], atol=0.02)


def test_alpha_is_enlarged_as_a_grey_image_and_copied_where_it_is_constant() -> None:
    network = EDSR(2, blocks=1, channels=4)
    model = enlarger.Enlarger(Regression(2, network), "cpu")
    image = np.dstack([RGB, RGB[..., 0]]) / np.float32(255)
    image[:, :12, 3] = 1
    alpha = model.enlarge(image)[..., 3]
    as_grey = model.enlarge(image[..., [3, 3, 3]]).mean(2)
    assert (alpha[:, :20] == 1).all()
    assert (as_grey[:, :20] != 1).any()
    np.testing.assert_allclose(alpha[:, 24:], as_grey[:, 24:], atol=1e-6)


TRANSPARENT: dict[str, Callable[[], Image.Image]] = {
    "LA": lambda: Image.fromarray(np.dstack([RGB[..., 0], HIDING])),
    "L": lambda: Image.fromarray(RGB[..., 0]),  # with tRNS
    "P": lambda: Image.fromarray(np.dstack([RGB, HIDING])).quantize(16),
    "RGBA": lambda: Image.fromarray(np.dstack([RGB, HIDING])),
}
HIDING = np.where(RGB[..., :1] < 99, 0, RGB[..., 1:2])  # hidden colours would be spread


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_is_enlarged_as_by_predict(
    bicubic: enlarger.Enlarger, command: Command, tmp_path: Path, kind: str
) -> None:
    image, hidden = TRANSPARENT[kind](), {"transparency": 7} if kind == "L" else {}
    image.save(tmp_path / "a.png", icc_profile=rgb_profile(), **hidden)
    folder = ("--writer.folder", tmp_path / "out", "--data.init_args.predict", tmp_path / "a.png")
    model = ("--model", REPO / "configs/model/bicubic.yaml", "--data", "datamodules.SRDataModule")
    command("predict", *model, "--data.scale", 2, "--run.root", tmp_path / "runs", *folder)
    written = Image.open(tmp_path / "out/a.png")
    made = bicubic.enlarge(Image.open(tmp_path / "a.png"))
    assert (made.mode, made.info["icc_profile"]) == (written.mode, written.info["icc_profile"])
    assert np.array_equal(np.asarray(made), np.asarray(written))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 4, 4), "1x3x4x4 of float32; expected"),
        (RGB.astype(np.float32), r"lies in \[0, 255\]; expected floats in \[0, 1\]"),
        (torch.full((3, 4, 4), torch.nan), r"lies in \[nan, nan\]; expected"),
        (Image.fromarray(RGB[..., 0].astype(np.int32) * 257), "mode I, whose range is unknown"),
    ],
)
def test_what_is_no_image(bicubic: enlarger.Enlarger, image: Any, message: str) -> None:
    """Nothing is clipped: of values in [0, 255] hardly any but white would be left."""
    for take in (bicubic.enlarge, enlarger.degrade):
        with pytest.raises(ValueError, match=message):
            take(image)
    if not isinstance(image, str):
        with pytest.raises(ValueError, match=message):
            enlarger.measure([image], [image])


@pytest.mark.parametrize("kind", ["rgb", "grey with alpha", "16 bit"])
def test_a_file_is_enlarged_as_an_image_with_its_profile(
    bicubic: enlarger.Enlarger, kind: str, tmp_path: Path
) -> None:
    levels = {
        "rgb": RGB,
        "grey with alpha": np.dstack([RGB[..., 0], RGB[..., 1]]),
        "16 bit": RGB.astype(np.uint16) * 200,
    }[kind]
    profile = None if "grey" in kind else rgb_profile()
    source = tmp_path / "photo.png"
    with source.open("w+b") as file:
        encode(file, levels, Extras(profile), "png", 0)

    lost = bicubic.enlarge_file(source, tmp_path / "large.png")

    written = read_image(tmp_path / "large.png")
    assert lost == []
    assert np.array_equal(written.array(), bicubic.enlarge(levels))
    assert written.icc == profile


def test_what_a_file_format_lacks_is_returned(bicubic: enlarger.Enlarger, tmp_path: Path) -> None:
    source = tmp_path / "photo.png"
    clear = np.dstack([RGB, RGB[..., 0]]).astype(np.uint16) * 257
    cv2.imwrite(str(source), clear)

    lost = bicubic.enlarge_file(source, tmp_path / "large.jpg", side=100)

    assert lost == ["16 bit", "transparency"]
    assert Image.open(tmp_path / "large.jpg").size == (83, 100)


def test_exif_is_kept_without_the_place(bicubic: enlarger.Enlarger, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[Base.Make] = "Camera"
    exif[IFD.GPSInfo] = {1: "N"}
    Image.fromarray(RGB).save(tmp_path / "photo.jpg", exif=exif)

    bicubic.enlarge_file(tmp_path / "photo.jpg", tmp_path / "large.jpg", exif="no_place")

    kept = Image.open(tmp_path / "large.jpg").getexif()
    assert kept[Base.Make] == "Camera"
    assert not kept.get_ifd(IFD.GPSInfo)


def test_a_file_of_an_unknown_format_is_refused(bicubic: enlarger.Enlarger, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a name in png, jpg, webp, tiff"):
        bicubic.enlarge_file("photo.png", tmp_path / "large.bmp")


def test_a_target_that_cannot_be_written_is_refused_before_the_work(
    bicubic: enlarger.Enlarger, tmp_path: Path
) -> None:
    (tmp_path / "large.png").mkdir()
    with pytest.raises(ValueError, match=r"large\.png: it is a folder"):
        bicubic.enlarge_file("photo.png", tmp_path / "large.png")


def test_degrade_is_the_recipe_of_the_command_line() -> None:
    image = Image.fromarray(RGB)
    first, again, other = (
        np.asarray(enlarger.degrade(image, "real_esrgan", scale=4, seed=seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (6, 5, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    recipe = degradation_of([REPO / "configs/degradation/bicubic.yaml"], 2)
    hr = torch.from_numpy(RGB).movedim(-1, 0)[None] / 255
    expected = (recipe(hr, torch.zeros(1, dtype=torch.int64)) * 255).round()[0].movedim(0, -1)
    assert np.array_equal(enlarger.degrade(RGB, "bicubic", scale=2), expected.byte().numpy())
    assert np.array_equal(enlarger.degrade(RGB, recipe), expected.byte().numpy())
    with pytest.raises(ValueError, match="no degradation 'bsrgn'; did you mean 'bsrgan'"):
        enlarger.degrade(RGB, "bsrgn")


# ---------------------------------------------------------------------------------------- weights


def test_a_run_is_loaded_as_predict_does(trained: Path, command: Command) -> None:
    """Also its export, alone in another folder, and files; with another argument it is another."""
    source = Path("photo.png")
    Image.fromarray(RGB).save(source)
    config = trained / "config.yaml"
    tiles = "  size: 8\n  overlap: 0\n"
    config.write_text(config.read_text().replace("  size: auto\n  overlap: null\n", tiles))
    command("predict", "--config", config, "--data.init_args.predict", source)
    predicted = np.asarray(Image.open(trained / "predict/photo.png"))
    model = enlarger.load(trained, device="cpu")
    assert np.array_equal(model.enlarge(RGB), predicted)
    whole = model.enlarge(RGB, tiling=Tiling())
    assert not np.array_equal(whole, predicted)
    command("export", trained, "--export.out", "shared")
    assert np.array_equal(enlarger.load("shared", device="cpu").enlarge(RGB), predicted)
    for file in ("shared/model.safetensors", best_or_newest(trained / "checkpoints")[0]):
        assert np.array_equal(enlarger.load(file, device="cpu").enlarge(RGB), whole)
    command("predict", "--model", "shared/model.safetensors", "--data.predict", source)
    assert np.array_equal(np.asarray(Image.open("runs/shared/predict/photo.png")), whole)
    changed = enlarger.load(trained, device="cpu", color_fix="adain")
    assert not np.array_equal(changed.enlarge(RGB), predicted)


def test_files_that_arguments_name_are_read_in_python(tmp_path: Path) -> None:
    """Random weights were taken, without a word; or the file may be missing."""
    trained = Regression(2, network=EDSR(2, blocks=1, channels=4))
    torch.save({"params": trained.network.state_dict()}, tmp_path / "a.pth")
    named = Regression(2, network=EDSR(2, blocks=1, channels=4), weights=str(tmp_path / "a.pth"))
    expected = enlarger.Enlarger(trained, "cpu").enlarge(RGB)
    assert np.array_equal(enlarger.Enlarger(named, "cpu").enlarge(RGB), expected)
    named.network.tail[-1].bias.data += 0.5
    assert not np.array_equal(enlarger.Enlarger(named, "cpu").enlarge(RGB), expected)  # only once
    missing = Regression(2, network=EDSR(2, blocks=1), weights="no/such.pth")
    with pytest.raises(FileNotFoundError, match="no weights at no/such"):
        enlarger.Enlarger(missing)
    random = ResShift(4, torch.nn.Identity(), Taef2Space())
    with pytest.raises(ValueError, match="the space of ResShift has random weights"):
        enlarger.Enlarger(random)


def test_arguments_change_what_they_name_and_nothing_else(tmp_path: Path) -> None:
    """In a group of a class, in an export, and of a file that spandrel reads."""
    networks = [EDSR(2, blocks=1, channels=4), EDSR(2, blocks=1, channels=4)]
    for name, network in zip("ab", networks, strict=True):
        torch.save({"params": network.state_dict()}, tmp_path / f"{name}.pth")
    network = {"class_path": "lightning_modules.EDSR", "init_args": {"blocks": 1, "channels": 4}}
    model = {"class_path": "lightning_modules.Regression", "init_args": {"network": network}}
    (tmp_path / "model.yaml").write_text(json.dumps(model))
    a, b = (str(tmp_path / f"{name}.pth") for name in "ab")
    changed: Any = enlarger.load(
        tmp_path / "model.yaml", scale=2, weights=a, network={"init_args": {"res_scale": 0.5}}
    )
    assert [block.res_scale for block in changed.module.network.body[:-1]] == [0.5]
    data = {"init_args": {"scale": 2}}
    (tmp_path / "config.yaml").write_text(json.dumps({"model": model, "data": data}))
    state = {f"network.{name}": tensor for name, tensor in networks[0].state_dict().items()}
    save_file(state, tmp_path / "model.safetensors", EXPORTED)
    for given, expected in (({}, networks[0]), ({"weights": b}, networks[1])):
        found = enlarger.load(tmp_path, **given).module.state_dict()
        assert all(torch.equal(found[f"network.{n}"], t) for n, t in expected.state_dict().items())
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    published = RRDBNet(4, channels=64, blocks=1).community()
    save_file({n: t.contiguous() for n, t in published.items()}, tmp_path / "x4.safetensors")
    known: Any = enlarger.load(tmp_path / "x4.safetensors", color_fix="wavelet")
    assert known.module.color_fix == "wavelet"
    with pytest.raises(ValueError, match=r"Option 'colour_fix' is not accepted"):
        enlarger.load(tmp_path / "x4.safetensors", colour_fix="wavelet")


# ---------------------------------------------------------------------------------------- numbers


def test_numbers_are_those_of_the_metric(tmp_path: Path, bicubic: enlarger.Enlarger) -> None:
    outputs = [bicubic.enlarge(RGB), RGB.repeat(2, 0).repeat(2, 1)]
    hr = DRAWS.integers(0, 256, (2, 48, 40, 3), dtype=np.uint8)
    found = enlarger.measure(outputs, list(hr), ["psnr", PSNR(color="rgb", label="rgb")], scale=2)
    assert found["psnr"]["n"] == 2
    assert found["psnr"]["protocol"]["color"] == "y"
    assert list(found["rgb"]["images"]) == ["000000", "000001"]
    inner = (slice(2, -2), slice(2, -2))
    expected = [
        10 * np.log10(255**2 / np.mean((sr[inner] / 1.0 - truth[inner]) ** 2))
        for sr, truth in zip(outputs, hr, strict=True)
    ]
    assert list(found["rgb"]["images"].values()) == pytest.approx(expected, rel=1e-5)
    for folder, images in (("sr", outputs), ("hr", hr)):
        (tmp_path / folder).mkdir()
        for name, image in zip("ab", images, strict=True):
            Image.fromarray(image).save(tmp_path / folder / f"{name}.png")
    again = enlarger.measure(tmp_path / "sr", tmp_path / "hr", ["psnr"], scale=2)
    assert again["psnr"]["value"] == found["psnr"]["value"]
    assert list(again["psnr"]["images"]) == ["a", "b"]


def test_an_infinite_number_is_written_as_text(tmp_path: Path) -> None:
    Image.new("RGB", (24, 20)).save(tmp_path / "a.png")
    file = tmp_path / "out.json"
    assert measure.main([str(tmp_path), f"--reference={tmp_path}", f"--json={file}"]) == 0
    found = json.loads(file.read_text(), parse_constant=pytest.fail)["psnr"]
    assert (found["value"], found["images"]) == ("inf", {"a": "inf"})


def test_the_command_prints_and_writes_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, seed in (("sr", 1), ("hr", 2)):
        (tmp_path / folder).mkdir()
        image = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / folder / "a.png")
    sr, hr = tmp_path / "sr", tmp_path / "hr"
    with pytest.raises(SystemExit) as ended:
        main(
            ["measure", str(sr), "--reference", str(hr), "--scale=2", f"--json={tmp_path}/out.json"]
        )
    assert ended.value.code == 0
    found = enlarger.measure(sr, hr, scale=2)
    assert json.loads((tmp_path / "out.json").read_text()) == found
    printed = capsys.readouterr().out
    for name in ("psnr", "ssim"):
        assert f"{name:<12} {found[name]['value']:<10.5g} of 1 images" in printed
    with pytest.raises(SystemExit) as ended:
        main(["measure", str(sr), "--metric", "psnr"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: psnr needs references\n"


@pytest.mark.parametrize(
    ("outputs", "references", "metrics", "message"),
    [
        ([RGB], [RGB], ["pnsr"], "no metric 'pnsr'; did you mean 'psnr'"),
        ({"a": RGB}, {"b": RGB}, ["psnr"], "differ in 2 names, such as a"),
        ([RGB[:9]], [RGB], ["psnr"], "expected equal sizes"),
        ([RGB], [RGB], ["lr_consistency"], "has no `lr` to compare"),
    ],
)
def test_what_cannot_be_measured(
    outputs: Any, references: Any, metrics: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        enlarger.measure(outputs, references, metrics)


def test_images_are_measured_as_they_are(bicubic: enlarger.Enlarger) -> None:
    """Whole, though the scale does not divide their sides; a reference is cut to its output."""
    hr = DRAWS.integers(0, 256, (23, 19, 3), dtype=np.uint8)
    lr = enlarger.degrade(hr, "bicubic", scale=2)
    whole, cut = bicubic.enlarge(lr, size=(23, 19)), bicubic.enlarge(lr)
    found = enlarger.measure([whole], [hr], [PSNR(color="rgb", border=0)], scale=2)["psnr"]
    error = np.mean((whole / 1.0 - hr) ** 2)
    assert found["value"] == pytest.approx(10 * np.log10(255**2 / error), rel=1e-5)
    protocols = []
    for sr in (whole, cut):
        protocols.append(enlarger.measure([sr], [hr], "psnr", scale=2)["psnr"]["protocol"])
    assert [protocol["border"] for protocol in protocols] == [2, 2]
    assert [protocol.get("reference") for protocol in protocols] == [None, "cut to multiples of 2"]


def test_rounding_is_as_the_protocol_says(tmp_path: Path) -> None:
    """Of files of 16 bits, and of arrays of floats."""
    hr = DRAWS.integers(0, 65536, (24, 20, 3)).astype(np.uint16)
    sr = np.clip(hr.astype(int) + DRAWS.integers(-90, 90, hr.shape), 0, 65535).astype(np.uint16)
    expected = 10 * np.log10(65535**2 / np.mean((sr / 1.0 - hr) ** 2))
    for name, image in (("sr", sr), ("hr", hr)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), image[..., ::-1])
    exact = PSNR(color="rgb", border=0, round_8bit=False)
    for images in ([tmp_path / "sr", tmp_path / "hr"], [[sr / 65535], [hr / 65535]]):
        found = enlarger.measure(*images, [exact])["psnr"]
        assert found["value"] == pytest.approx(expected, rel=1e-4)
        rounded = enlarger.measure(*images, [PSNR(color="rgb", border=0)])["psnr"]
        assert abs(rounded["value"] - expected) > 1


def test_n_is_without_infinite_numbers() -> None:
    found = enlarger.measure([RGB, RGB, RGB // 2], [RGB] * 3, ["psnr"])["psnr"]
    assert (found["n"], len(found["images"])) == (1, 3)


def test_pillow_images_are_measured_in_srgb_as_files_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, icc_profile=rgb_profile())
    found = enlarger.measure([Image.open(path)], [path], ["psnr"])
    assert np.isinf(found["psnr"]["value"])
    assert np.isfinite(enlarger.measure([RGB], [path], ["psnr"])["psnr"]["value"])


# --------------------------------------------------------------------------------------- training


def test_plain_lightning_trains_on_data(tmp_path: Path, photo_folder: Path) -> None:
    settings: dict[str, Any] = {"crop_size": 16, "batch_size": 5, "workers": 0}
    settings["crops"] = {"per_image": 2}
    images = enlarger.data(photo_folder, scale=2, val=photo_folder, **settings)
    module = Regression(2, network=EDSR(2, blocks=1, channels=4))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    (run := trainer(tmp_path, PSNR())).fit(module, images)
    assert any(not torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert np.isfinite(float(run.callback_metrics["val/psnr"]))
    assert enlarger.Enlarger(module, "cpu").enlarge(RGB).shape == (48, 40, 3)


def test_numbers_of_trained_weights_are_not_those_of_the_file_before(
    tmp_path: Path, photo_folder: Path
) -> None:
    """Neither after training, nor after Lightning's ``ckpt_path``, in the same process."""
    file = tmp_path / "a.pth"
    torch.save(Regression(2, network=EDSR(2, blocks=1, channels=4)).state_dict(), file)
    images = enlarger.data(photo_folder, scale=2, crop_size=16, batch_size=2, workers=0)
    images.test = {"test": Folder(str(photo_folder))}

    def named() -> list[tuple[str | None, bool]]:
        found = read_file(tmp_path / "results.json")
        return [(row.checkpoint, row.sha256 is not None) for row in found]

    module = Regression(2, network=EDSR(2, blocks=1, channels=4), weights=str(file))
    run = trainer(tmp_path, PSNR(), Results(), max_steps=1)
    run.test(module, images, verbose=False)
    run.fit(module, images)
    run.test(module, images, verbose=False)
    assert named() == [(str(file), True), (f"{file}, trained on", False)]
    run.save_checkpoint(tmp_path / "b.ckpt")
    module = Regression(2, network=EDSR(2, blocks=1, channels=4), weights=str(file))
    run.test(module, images, verbose=False, ckpt_path=tmp_path / "b.ckpt")
    assert named() == [(str(file), True), (f"{file}, trained on", False)]


def test_fit_continues_a_run_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        Image.fromarray(RGB.repeat(2, 0)).save(photos / f"{number}.png")
    monkeypatch.chdir(tmp_path)

    def fit(steps: int, run: str | None) -> enlarger.Enlarger:
        torch.manual_seed(0)
        images = enlarger.data(photos, scale=2, crop_size=16, batch_size=2, workers=0)
        model = Regression(2, network=EDSR(2, blocks=1, channels=4))
        quiet = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
        ema = EMA(0.5)
        found = enlarger.fit(model, images, callbacks=[ema], max_steps=steps, run=run, **quiet)
        averages = ema.state_dict()["weights"]
        assert all(torch.equal(averages[n], p) for n, p in found.module.named_parameters())
        return found

    whole = fit(4, None).module.state_dict()
    fit(3, "x")
    resumed = fit(4, "x").module.state_dict()
    newest = newest_whole(tmp_path / "runs/x/checkpoints")
    assert newest.name == "step-000000004.ckpt"
    raw = torch.load(newest)["state_dict"]
    assert any(not torch.equal(value, raw[name]) for name, value in whole.items())
    fit(4, "x")  # which has nothing to do
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())

    images = enlarger.data(photos, scale=2, val=photos, workers=0)
    model = Regression(2, network=EDSR(2, blocks=1, channels=4))
    trainer(tmp_path).validate(model, images, ckpt_path=newest, weights_only=True, verbose=False)
    assert all(torch.equal(value, raw[name]) for name, value in model.state_dict().items())
    assert not any(path.name == "checkpoints" for path in tmp_path.iterdir())


def test_a_fit_that_fails_leaves_torchs_generators_as_before(photo_folder: Path) -> None:
    """Otherwise the next model would begin like others."""
    images = enlarger.data(photo_folder, scale=2, crop_size=16, batch_size=2, workers=0)
    model = Regression(2, network=EDSR(2, blocks=1, channels=4))
    fails = LambdaCallback(on_train_batch_end=Mock(side_effect=RuntimeError("full")))
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="full"):
        enlarger.fit(model, images, callbacks=[fails], accelerator="cpu", max_steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_fit_goes_on_with_other_images_or_another_optimiser(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Scores of other images are not ranked together; the checkpoint's learning rate is said."""
    for name, level in {"easy": 0, "hard": 128}.items():
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(RGB.repeat(2, 0) | np.uint8(level)).save(
                tmp_path / name / f"{name}{number}.png"
            )

    def fit(steps: int, val: str, lr: float = 1e-3) -> list[str]:
        optimizer = partial(torch.optim.Adam, lr=lr)
        model = Regression(2, network=EDSR(2, blocks=1, channels=4), optimizer=optimizer)
        settings: dict[str, Any] = {"crop_size": 16, "batch_size": 2, "workers": 0}
        images = enlarger.data(tmp_path / "easy", scale=2, val=tmp_path / val, **settings)
        quiet: dict[str, Any] = {"enable_progress_bar": False, "logger": False}
        caplog.clear()
        enlarger.fit(
            model, images, run=tmp_path / "run", callbacks=[PSNR()], max_steps=steps,
            accelerator="cpu", **quiet,
        )  # fmt: skip
        scores = json.loads((tmp_path / "run/checkpoints/best.json").read_text())["scores"]
        measured = scores[max(scores)]["measured"]
        return [name for name in scores if scores[name]["measured"] == measured]

    names = [f"step-{step:09d}.ckpt" for step in range(0, 10, 2)]
    assert fit(2, "easy") == [names[1]]
    assert fit(4, "easy") == [names[1], names[2]]
    assert "goes on with" not in caplog.text
    assert fit(6, "hard", lr=1e-5) == [names[3]]
    assert "the checkpoint's lr 0.001, not 1e-05" in caplog.text
    shutil.copy(tmp_path / "easy/easy0.png", tmp_path / "hard/hard0.png")
    assert fit(8, "hard") == [names[4]]
