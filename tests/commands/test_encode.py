"""`encode`: shards hold the autoencoder's latents, and training reads them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands import encode as encoding
from datamodules.pack import shard_set
from degradations.bicubic import Bicubic
from files.owned import refuse_foreign
from lightning_modules.backbone.space import Taef2Space
from lightning_modules.latents import enlarged, latent_pair
from lightning_modules.methods.resshift import ResShift
from lightning_modules.networks.autoencoders import taef2_decoder, taef2_encoder
from tests.conftest import REPO
from tests.ports import free_port

Enlarger = Callable[..., None]
Refusal = Callable[..., str]
MODEL = """
class_path: lightning_modules.ResShift
init_args:
  space:
    class_path: lightning_modules.Taef2Space
    init_args: {encoder: encoder.pth, decoder: decoder.pth, mean: [0.5], deviation: [2.0]}
  network:
    class_path: lightning_modules.SwinUNet
    init_args: {channels: 32, width: 8, multipliers: [1], blocks: 1, swin_width: 8, heads: 1,
                window: 2, condition_factor: 4}
"""
ROUND_TRIP = """
class_path: lightning_modules.RoundTrip
init_args:
  space:
    class_path: lightning_modules.Taef2Space
    init_args: {encoder: encoder.pth, decoder: decoder.pth}
"""
ENCODE = ("encode", "--config", "tiny.yaml", "--model", "model.yaml", "--encode.out", "out")
CROPS = ("--encode.crop", 32, "--encode.crops_per_image", 2, "--encode.samples_per_shard", 6)
PAIRS = ("--encode.pairs", "true", "--encode.hr", "true", "--encode.flips", "true")
LATENTS = ("--data.init_args.train", "datamodules.Latents")


def save_halves(seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(taef2_encoder().state_dict(), "encoder.pth")
    torch.save(taef2_decoder().state_dict(), "decoder.pth")


@pytest.fixture
def work(tiny: Path) -> Path:
    (tiny / "model.yaml").write_text(MODEL)
    with torch.random.fork_rng(devices=[]):
        save_halves(0)
    return tiny


def fit(*more: object) -> tuple[object, ...]:
    urls = ("--data.init_args.train.init_args.urls", "out/*.tar", "--data.init_args.val", "null")
    run = ("fit", "--config", "tiny.yaml", "--model", "model.yaml", "--trainer.max_steps", 2)
    return (*run, *LATENTS, *urls, *more)


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def pixels(data: bytes) -> torch.Tensor:
    array = np.array(Image.open(io.BytesIO(data)))
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


def test_pairs_are_the_autoencoder_s_and_training_takes_them(
    work: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    enlarger(*ENCODE, *CROPS, *PAIRS, "--encode.dtype", "float32")
    shards = sorted(Path("out").glob("*.tar"))
    assert len(shards) == 4  # of 6 samples, for 10 images
    space = Taef2Space("encoder.pth", "decoder.pth")
    latents = []
    for shard in shards:
        found = members(shard)
        for key in {name.split(".")[0] for name in found}:
            hr, lr = pixels(found[f"{key}.png"]), pixels(found[f"{key}.lr.png"])
            z = torch.from_numpy(np.load(io.BytesIO(found[f"{key}.latent.npy"])))[None]
            y = torch.from_numpy(np.load(io.BytesIO(found[f"{key}.lr_latent.npy"])))[None]
            torch.testing.assert_close(z, space.encode(hr), rtol=1e-4, atol=1e-4)
            assert (lr - Bicubic(2.0)(hr, torch.tensor([0]))).abs().max() < 0.51 / 255
            of_lr = space.encode(enlarged(lr, (32, 32)))
            torch.testing.assert_close(y, of_lr, rtol=1e-4, atol=1e-4)
            latents.append(z[0].numpy())
    refuse_foreign(Path("out/encode.json"))  # or the command could not be given again
    about = json.loads(Path("out/encode.json").read_text())
    stack = np.stack(latents)
    assert about["samples"] == len(latents) == 20
    np.testing.assert_allclose(about["mean"], stack.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(about["deviation"], stack.std((0, 2, 3)), rtol=1e-4)
    assert len(np.unique(stack[:, 0, 0, 0])) > 15  # squares of an image differ

    taken: list[dict[str, Any]] = []
    step = ResShift.training_step

    def training_step(model: ResShift, batch: Any, index: int) -> Any:
        taken.append(batch)
        assert torch.equal(latent_pair(model.space, batch)[0], (batch["latent"] - 0.5) / 2)
        assert torch.equal(latent_pair(model.space, batch)[1], (batch["lr_latent"] - 0.5) / 2)
        return step(model, batch, index)

    monkeypatch.setattr(ResShift, "training_step", training_step)
    monkeypatch.setattr(Taef2Space, "encode", lambda *_: pytest.fail("training need not encode"))
    enlarger(*fit())
    for batch in taken:
        assert batch["latent"].shape == (4, 32, 4, 4)
        assert batch["lr"].shape == (4, 3, 16, 16)
        assert batch["hr"].shape == (4, 3, 32, 32)
        assert batch["size"] == (32, 32)


@pytest.mark.slow
def test_a_stopped_command_goes_on(
    work: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    monkeypatch.chdir(work)
    enlarger(*ENCODE, *CROPS)
    whole = {path.name: path.read_bytes() for path in Path("out").glob("*.tar")}
    Path("out").rename("whole")
    write_shard, begun = shard_set.write_shard, []

    def stop(path: Path, *arguments: Any) -> None:
        begun.append(path)
        if len(begun) == 3:
            raise RuntimeError("killed")
        write_shard(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shard_set, "write_shard", stop)
        with pytest.raises(RuntimeError, match="killed"):
            enlarger(*ENCODE, *CROPS)
    assert len(list(Path("out").glob("*.tar"))) == 2
    assert "made otherwise (flips was False, now it is True)" in refusal(
        *ENCODE, *CROPS, "--encode.flips", "true"
    )
    enlarger(*ENCODE, *CROPS)
    Path("out/encode.json").unlink()
    sentence = refusal(*fit())
    assert "out/encode.json, which main.py encode writes at its end, is missing" in sentence
    enlarger(*ENCODE, *CROPS)
    assert {path.name: path.read_bytes() for path in Path("out").glob("*.tar")} == whole
    about = [json.loads(Path(f, "encode.json").read_text()) for f in ("out", "whole")]
    assert about[0] == about[1]
    assert about[0]["scale"] is None

    assert "this method also needs LR images" in refusal(*fit())
    save_halves(1)
    assert "made otherwise (space was" in refusal(*ENCODE, *CROPS)


INVERT = """
data:
  init_args:
    crops:
      augment:
        class_path: datamodules.Albumentations
        init_args:
          transforms: [{class_path: albumentations.InvertImg, init_args: {p: 1.0}}]
"""


def test_another_lr_or_another_folder_is_not_the_set_that_is_there(
    work: Path, enlarger: Enlarger, refusal: Refusal
) -> None:
    more = (*small(work / "one", 1), "--encode.crop", 32, "--encode.pairs", "true")
    enlarger(*ENCODE, *more)
    other = ("--degradation.init_args.quantize", "false", *small(work / "two", 1))
    sentence = refusal(*ENCODE, *more, *other)
    assert f"data.train.root was '{work}/one', now it is '{work}/two'" in sentence
    assert "degradation.quantize was True, now it is False" in sentence
    Image.new("RGB", (64, 64)).save("one/00.png")
    assert "made otherwise (images_of was" in refusal(*ENCODE, *more)


@pytest.mark.slow
def test_squares_are_changed_by_augment_and_flipped_by_axis(work: Path, enlarger: Enlarger) -> None:
    Path("invert.yaml").write_text(INVERT)
    options = (*CROPS, "--encode.hr", "true")
    enlarger(*ENCODE, *options)
    enlarger(*ENCODE[:-1], "inverted", *options, "--config", "invert.yaml")
    Path("round_trip.yaml").write_text(ROUND_TRIP)  # which has nothing to train
    flips = ("--encode.flips", "horizontal", "--model", "round_trip.yaml")
    enlarger(*ENCODE[:-1], "flipped", *options, *flips)
    plain, inverted, flipped = (
        {k: v for path in sorted(Path(f).glob("*.tar")) for k, v in members(path).items()}
        for f in ("out", "inverted", "flipped")
    )
    images = [name for name in plain if name.endswith(".png")]
    turned = 0
    for name in images:
        image = pixels(plain[name])
        torch.testing.assert_close(pixels(inverted[name]), 1 - image)
        same, mirrored = (torch.equal(pixels(flipped[name]), x) for x in (image, image.flip(-1)))
        assert same or mirrored
        turned += mirrored
    assert 0 < turned < len(images)


@pytest.mark.parametrize(("first", "second"), [("a.b.c", "a.b_c"), ("a.b.c", "a_b_c")])
def test_two_images_of_one_name_in_the_shards(
    work: Path, refusal: Refusal, first: str, second: str
) -> None:
    """Training would refuse the output after hours of encoding."""
    folder = Path("names")
    folder.mkdir()
    for name in (first, second):
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
    source = ("--data.init_args.train", "datamodules.Folder")
    place = ("--data.init_args.train.init_args.root", folder)
    got = refusal(*ENCODE, *CROPS, *source, *place)
    assert f"{first} and {second} would have the same name in the shards, a_b_c: rename" in got
    assert not list(Path().glob("out/*.tar"))


def small(root: Path, count: int) -> tuple[str, ...]:
    """A folder of images, some of which are broken or too small."""
    for number in range(count):
        generator = np.random.default_rng(number)
        image = generator.integers(0, 256, (40, 24 if number == 6 else 48, 3), dtype=np.uint8)
        root.mkdir(exist_ok=True)
        Image.fromarray(image).save(root / f"{number:02d}.png")
    for number in (3, 8, 9):  # the last ones are a block
        (root / f"{number:02d}.png").write_bytes(b"")
    place = ("--data.init_args.train.init_args.root", str(root))
    return ("--data.init_args.train", "datamodules.Folder", *place)


SPLIT = ("--encode.crop", 32, "--encode.crops_per_image", 3, "--encode.samples_per_shard", 4)


def output(folder: str) -> dict[str, object]:
    """The contents without times of modification."""
    found: dict[str, object] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    for path in Path(folder).glob("*.idx.json"):
        found[path.name] = {**json.loads(path.read_text()), "mtime_ns": 0}
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_parts_and_processes_give_the_bytes_of_one(
    work: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    more = (*SPLIT, *PAIRS, *small(work / "images", 12))
    enlarger(*ENCODE[:-1], "whole", *more)
    whole = output("whole")
    assert len([name for name in whole if name.endswith(".tar")]) == 8  # one of 9 is of no square

    parts = (*ENCODE[:-1], "parts", *more)
    enlarger(*parts, "--encode.part", "1/2")
    assert not Path("parts/encode.json").exists()
    enlarger(*parts, "--encode.part", "0/2")
    assert output("parts") == whole

    assert torchrun("main.py", *ENCODE, *more) == (0, "")
    assert output("out") == whole
    for number in (1, 4, 7):
        Path(f"out/latents-00000{number}.tar").unlink()
    assert torchrun("main.py", *ENCODE, *more, processes=3)[0] == 0  # all are of one process
    assert output("out") == whole


def torchrun(script: str, *args: object, processes: int = 2) -> tuple[int, str]:
    """Return the status, and the last error in one sentence."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    place = ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    script = str(REPO / script) if script == "main.py" else script
    command = [*launcher, *place, script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    error = [line for line in done.stderr.splitlines() if "error: " in line]
    print(done.stderr[-6000:])
    return done.returncode, error[-1] if error else ""


@pytest.mark.parametrize("sample", [{}, {"text": " \n"}])
def test_a_blank_caption_is_not_encoded(sample: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"a/1 has no caption, which --encode\.texts requires: "):
        encoding._caption("a/1", sample)
