"""`encode`: shards hold the autoencoder's latents, and training reads them."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from degradations.bicubic import Bicubic
from files.owned import refuse_foreign
from lightning_modules.backbone.space import Taef2Space
from lightning_modules.latents import enlarged, latent_pair
from lightning_modules.methods.resshift import ResShift
from lightning_modules.networks.autoencoders import taef2_decoder, taef2_encoder
from tests.distributed.processes import succeeds
from tests.make import assert_near, read

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
ENCODE = "encode --config tiny.yaml --model model.yaml"
CROPS = "--encode.crop 32 --encode.crops_per_image 2 --encode.samples_per_shard 6"
PAIRS = "--encode.pairs true --encode.hr true --encode.flips true"
LATENTS = "--data.train datamodules.Latents --data.train.urls out/*.tar --data.val null"
FIT = f"fit --config tiny.yaml --model model.yaml {LATENTS} --trainer.max_steps 2"


def save_autoencoder(seed):
    torch.manual_seed(seed)
    torch.save(taef2_encoder().state_dict(), "encoder.pth")
    torch.save(taef2_decoder().state_dict(), "decoder.pth")


@pytest.fixture
def work(tiny):
    """A working directory with a method in the latents of a small random autoencoder."""
    (tiny / "model.yaml").write_text(MODEL)
    with torch.random.fork_rng(devices=[]):
        save_autoencoder(seed=0)
    return tiny


def members(folder):
    """The files in the shards of a folder and their contents."""
    contents = {}
    for shard in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(shard) as tar:
            contents |= {member.name: tar.extractfile(member).read() for member in tar}
    return contents


def contents(folder):
    """All files and their contents, without times of modification."""
    files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    for path in Path(folder).glob("*.idx.json"):
        files[path.name] = {**json.loads(path.read_text()), "mtime_ns": 0}
    return files


def pixels(content):
    return read(io.BytesIO(content))


def latent(content):
    return torch.from_numpy(np.load(io.BytesIO(content)))[None]


def colours(image):
    return {tuple(pixel) for pixel in image[0].flatten(1).T.tolist()}


def test_each_sample_of_encode_has_a_square_its_lr_and_both_latents(work, photo_folder, enlarger):
    """The latent of LR is that of LR enlarged to the size of HR, as ResShift begins from."""
    enlarger(f"{ENCODE} {CROPS} {PAIRS} --encode.out out --encode.dtype float32")

    space = Taef2Space("encoder.pth", "decoder.pth")
    seeds = torch.tensor([0])  # bicubic draws nothing
    files = members("out")
    keys = {name.split(".")[0] for name in files}  # such as 3/1 of 3.png
    assert len(keys) == 20  # 2 squares of each of 10 photographs
    for key in keys:
        hr = pixels(files[f"{key}.png"])
        photo = read(photo_folder / f"{Path(key).parent}.png")
        assert colours(hr) <= colours(photo)
        lr = pixels(files[f"{key}.lr.png"])
        latent_of_hr = latent(files[f"{key}.latent.npy"])
        latent_of_lr = latent(files[f"{key}.lr_latent.npy"])
        assert_near(lr, Bicubic(2.0)(hr, seeds), within=0.51 / 255)  # a PNG has 8 bits
        assert_near(latent_of_hr, space.encode(hr), within=1e-4)
        assert_near(latent_of_lr, space.encode(enlarged(lr, (32, 32))), within=1e-4)


def test_encode_json_has_the_statistics_of_all_latents(work, enlarger):
    """Methods standardise latents by mean and deviation of each channel."""
    enlarger(f"{ENCODE} {CROPS} --encode.out out --encode.dtype float32")

    latents = [latent(file) for name, file in members("out").items() if name.endswith(".npy")]
    stack = torch.cat(latents).numpy()
    about = json.loads(Path("out/encode.json").read_text())
    assert about["samples"] == 20  # 2 squares of each of 10 photographs
    np.testing.assert_allclose(about["mean"], stack.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(about["deviation"], stack.std((0, 2, 3)), rtol=1e-4)
    assert len(np.unique(stack[:, 0, 0, 0])) > 15  # squares of a photograph differ, but for chance
    assert len(list(Path("out").glob("*.tar"))) == 4  # 20 squares, 6 a shard
    refuse_foreign(Path("out/encode.json"))  # or the command could not be given again


def test_training_reads_latents_and_encodes_nothing(work, enlarger, monkeypatch):
    enlarger(f"{ENCODE} {CROPS} {PAIRS} --encode.out out --encode.dtype float32")
    batches = []
    step = ResShift.training_step

    def training_step(model, batch, index):
        batches.append(batch)
        z, y = latent_pair(model.space, batch)
        assert torch.equal(z, (batch["latent"] - 0.5) / 2)  # mean and deviation of MODEL
        assert torch.equal(y, (batch["lr_latent"] - 0.5) / 2)
        return step(model, batch, index)

    monkeypatch.setattr(ResShift, "training_step", training_step)
    monkeypatch.setattr(Taef2Space, "encode", lambda *_: pytest.fail("training need not encode"))
    enlarger(FIT)

    assert len(batches) == 2
    for batch in batches:
        assert batch["latent"].shape == (4, 32, 4, 4)  # 1/8 of 32 pixels
        assert batch["lr"].shape == (4, 3, 16, 16)
        assert batch["hr"].shape == (4, 3, 32, 32)
        assert batch["size"] == (32, 32)


@pytest.mark.slow
def test_a_killed_encode_is_refused_in_training_and_goes_on_to_equal_bytes(work, enlarger, refusal):
    command = f"{ENCODE} {CROPS} --encode.out out"
    enlarger(command)
    uninterrupted = contents("out")
    for name in ("encode.json", "latents-000001.tar", "latents-000003.tar"):
        Path("out", name).unlink()  # as after a kill of two processes
    assert "which main.py encode writes at its end, is missing" in refusal(FIT)

    enlarger(command)

    assert contents("out") == uninterrupted


@pytest.mark.slow
def test_latents_are_refused_where_lr_is_needed_and_for_other_options(work, enlarger, refusal):
    """Shards of two kinds in one folder would be trained on without a word."""
    command = f"{ENCODE} {CROPS} --encode.out out"  # without --encode.pairs
    enlarger(command)
    assert "this method also needs LR images" in refusal(FIT)
    changed = refusal(f"{command} --encode.flips true")
    assert "made otherwise (flips was False, now it is True)" in changed
    save_autoencoder(seed=1)  # other weights in the same files
    assert "made otherwise (space was" in refusal(command)


def save_images(folder, count):
    """Write images of noise; of many, 6 is too narrow for a square, and 3, 8 and 9 are broken."""
    Path(folder).mkdir()
    for number in range(count):
        width = 24 if number == 6 else 48
        noise = np.random.default_rng(number).integers(0, 256, (40, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"{folder}/{number:02d}.png")
    for number in (3, 8, 9):
        if number < count:
            Path(f"{folder}/{number:02d}.png").write_bytes(b"")


def test_encode_refuses_to_go_on_with_another_degradation_folder_or_image(work, enlarger, refusal):
    save_images("one", count=3)
    save_images("two", count=3)
    command = f"{ENCODE} --encode.out out --encode.crop 32 --encode.pairs true --data.train.root"
    enlarger(f"{command} one")
    sentence = refusal(f"{command} two --degradation.init_args.quantize false")
    assert "data.train.root was 'one', now it is 'two'" in sentence
    assert "degradation.quantize was True, now it is False" in sentence
    Image.new("RGB", (64, 64)).save("one/00.png")
    assert "made otherwise (images_of was" in refusal(f"{command} one")


INVERT = """{class_path: datamodules.Albumentations,
    init_args: {transforms: [{class_path: albumentations.InvertImg, init_args: {p: 1.0}}]}}"""
ROUND_TRIP = """{class_path: lightning_modules.RoundTrip, init_args: {space: {
    class_path: lightning_modules.Taef2Space,
    init_args: {encoder: encoder.pth, decoder: decoder.pth}}}}"""


def squares(enlarger, options):
    """The squares that `encode` cuts from the photographs."""
    enlarger(f"{ENCODE} {CROPS} --encode.hr true --encode.out out {options}")
    files = members("out")
    shutil.rmtree("out")
    return [pixels(files[name]) for name in sorted(files) if name.endswith(".png")]


@pytest.mark.slow
def test_encode_augments_each_square(work, enlarger):
    plain = squares(enlarger, "")
    inverted = squares(enlarger, f"--data.crops.augment '{INVERT}'")
    torch.testing.assert_close(inverted, [1 - square for square in plain])


@pytest.mark.slow
def test_encode_with_horizontal_flips_mirrors_some_squares_and_leaves_the_others(work, enlarger):
    """Also with a method that has nothing to train."""
    mirrored = 0
    plain = squares(enlarger, "")
    flipped = squares(enlarger, f"--encode.flips horizontal --model '{ROUND_TRIP}'")
    for square, other in zip(plain, flipped, strict=True):
        if torch.equal(other, square.flip(-1)):
            mirrored += 1
        else:
            assert torch.equal(other, square)
    assert 0 < mirrored < len(plain)


def test_two_images_of_one_name_in_the_shards_are_refused(work, refusal):
    """Training would refuse the output after hours of encoding."""
    Path("names").mkdir()
    for name in ("a.b.c", "a.b_c"):
        Image.new("RGB", (64, 64)).save(f"names/{name}.png")
    sentence = refusal(f"{ENCODE} {CROPS} --encode.out out --data.train.root names")
    assert "a.b.c and a.b_c would have the same name in the shards, a_b_c" in sentence
    assert not list(Path().glob("out/*.tar"))


@pytest.mark.slow
@pytest.mark.distributed
def test_parts_and_processes_write_the_bytes_of_one_process(work, enlarger, monkeypatch):
    """12 images have 36 squares, so there are 9 shards of 4.

    The seventh is empty and left out: its squares 24 to 27 are of the broken images 8 and 9.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    save_images("images", count=12)
    split = "--encode.crop 32 --encode.crops_per_image 3 --encode.samples_per_shard 4"
    command = f"{ENCODE} {split} {PAIRS} --data.train.root images --encode.out"
    enlarger(f"{command} whole")
    whole = contents("whole")
    assert len(list(Path("whole").glob("*.tar"))) == 8

    enlarger(f"{command} parts --encode.part 1/2")
    assert not Path("parts/encode.json").exists()
    enlarger(f"{command} parts --encode.part 0/2")
    assert contents("parts") == whole

    succeeds(f"{command} out")
    for number in (1, 4, 7):  # process 1 of 3 has every third shard: the others have nothing to do
        Path(f"out/latents-00000{number}.tar").unlink()
    succeeds(f"{command} out", processes=3)
    assert contents("out") == whole
