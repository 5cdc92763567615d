"""Metrics of clips: flicker, sets of frames, and FVD and KVD with a small network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, default_collate

from callbacks.metrics.fid import frechet_distance, polynomial_mmd
from callbacks.metrics.swd import SWD
from callbacks.metrics.video import FVD, KVD, Flicker, FrameSWD
from tests.callbacks.tiny import Images, Tiny, validate
from tests.make import keys, noisy, smooth, uniform

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")


def moving(step):
    """Three clips of 4 frames of 40x40 pixels, (3, 4, 3, 40, 40), that move so many pixels each."""
    images = smooth(3, (40, 80)) * 0.6 + 0.2
    windows = [images[..., n * step : n * step + 40] for n in range(4)]
    return torch.stack(windows, 1)


def flicker(clips):
    metric = Flicker()
    features = metric.features(clips, keys(3))
    return metric.distances(features, features)


def test_motion_does_not_count_as_flicker():
    clips = moving(step=2)

    values = flicker(clips)

    difference = (clips * 255).diff(dim=1).abs().mean().item()  # of frames, in levels
    assert values["flicker"] < 0.15 * difference  # the estimated flow is not exact
    assert values["flicker"] == values["flicker_real"]  # the outputs are the real clips


def test_a_still_clip_has_no_flicker():
    values = flicker(moving(step=0))

    assert list(values) == ["flicker", "flicker_static", "flicker_real", "flicker_static_real"]
    assert values["flicker_static"] == 0
    assert values["flicker"] < 0.05  # levels: OpenCV rounds the flow to 32nds of a pixel


def test_a_still_clip_whose_brightness_alternates_by_10_levels_has_a_flicker_of_10():
    """`flicker_static` compares places that do not move, `flicker` places along the optical flow.

    The flow takes a part of the change for motion, so that `flicker` is a lower bound.
    """
    light = torch.tensor([0.0, 10, 0, 10]).view(1, -1, 1, 1, 1) / 255

    values = flicker(moving(step=0) + light)

    assert values["flicker_static"] == pytest.approx(10, abs=0.5)  # half a level by rounding
    assert 2 < values["flicker"] <= 10.5


def test_noise_in_each_frame_counts_as_flicker():
    clips = moving(step=2)

    values = flicker(noisy(clips))

    assert values["flicker"] > 4 * flicker(clips)["flicker"]


def test_swd_of_frames_is_that_of_as_many_images():
    of_frames = FrameSWD(levels=2, patches=9)
    of_images = SWD(levels=2, patches=9)
    clips = moving(step=1)
    darker = clips * 0.8

    sr = of_frames.features(darker, keys(3)).double()
    hr = of_frames.features(clips, keys(3)).double()

    # A frame's patches are drawn by the key of its clip and its number.
    frames = {"key": [f"a/{clip}/{frame}" for clip in range(3) for frame in range(4)]}
    sr_frames = of_images.features(darker.flatten(0, 1), frames).double()
    hr_frames = of_images.features(clips.flatten(0, 1), frames).double()
    expected = of_images.distance(sr_frames, hr_frames)
    assert of_frames.distance(sr, hr) == pytest.approx(expected, rel=1e-6)


def test_the_reference_of_swd_of_frames_may_be_images():
    metric = FrameSWD(levels=2, patches=9)
    clips = moving(step=1)
    frames = clips[:, 0]

    sr = metric.features(clips * 0.8, keys(3)).double()
    images = metric.features(frames, keys(3))

    assert torch.equal(images, SWD(levels=2, patches=9).features(frames, keys(3)))
    assert metric.distance(sr, images.double()) > 0


# ------------------------------------------------------------------------------------ FVD and KVD


class Halves(nn.Module):
    """Features are the mean colours of the first and of the second half of a clip: (B, 6)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (2, -1)).mean((3, 4, 5)).flatten(1)


class LikeI3D(nn.Module):
    """A network with the arguments of the usual I3D file."""

    def forward(
        self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> Tensor:
        features = x.mean((3, 4)).flatten(1)
        return features if return_features and not rescale and not resize else features * 0


def save(network, path):
    torch.jit.script(network).save(str(path))
    return str(path)


class Clips(Images):
    """Clips of 6 frames of 12x10 pixels, and outputs beside them."""

    def __getitem__(self, index):
        sr, clip = uniform(2, 6, 3, 12, 10, seed=index)
        return {"key": self.keys[index], "clip": clip, "sr": sr * 0.8}


class Echo(Tiny):
    """Its outputs come with the batch."""

    def validation_step(self, batch, batch_idx):
        return {"sr": batch["sr"]}


def validate_clips(folder, *metrics):
    data = DataLoader(Clips(count=7), batch_size=2, collate_fn=default_collate)
    validate(folder, *metrics, model=Echo(), data=data)


def features_of(name):
    """Features by `Halves` of the first 4 frames: levels in [-1, 1], resized to 224x224."""
    clips = torch.stack([Clips(count=7)[n][name] for n in range(7)])[:, :4]
    levels = (clips * 255).round().flatten(0, 1) / 127.5 - 1
    frames = functional.interpolate(levels, (224, 224), mode="bilinear", antialias=True)
    colours = frames.mean((2, 3)).view(7, 2, 2, 3)  # (clip, half of the clip, frame, colour)
    halves = colours.mean(2)
    return halves.mT.flatten(1).double()


def test_fvd_and_kvd_are_the_distances_of_fid_and_kid_of_the_networks_features(tmp_path):
    file = save(Halves(), tmp_path / "net.pt")
    fvd = FVD(file, frames=4)
    kvd = KVD(file, frames=4)

    validate_clips(tmp_path, fvd, kvd)

    sr = features_of("sr")
    clip = features_of("clip")
    assert fvd.records[0]["value"] == pytest.approx(frechet_distance(sr, clip), rel=1e-4)
    assert kvd.records[0]["value"] == pytest.approx(polynomial_mmd(sr, clip), rel=1e-4)


def test_the_protocol_of_fvd_identifies_its_network_frames_and_small_sets(tmp_path):
    """Numbers of other I3D files, lengths of clips, or of few clips are not to be compared."""
    file = save(Halves(), tmp_path / "net.pt")
    metric = FVD(file, frames=4)

    validate_clips(tmp_path, metric)

    protocol = metric.records[0]["protocol"]
    assert protocol["weights"] == "net.pt"
    assert protocol["sha256"] == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert protocol["frames"] == "the first 4"
    assert protocol["remark"] == "few images (below 2048): biased upward"


def test_a_network_with_the_arguments_of_i3d_is_asked_for_its_features(tmp_path):
    metric = FVD(save(LikeI3D(), tmp_path / "i3d.pt"), frames=6)

    validate_clips(tmp_path, metric)

    assert metric.records[0]["value"] > 0.01  # with other arguments, all features would be 0


@pytest.mark.parametrize(
    ("weights", "problem"), [(None, "is not given"), ("$NOWHERE/i3d.pt", "is no file")]
)
def test_without_a_network_fvd_is_off_or_fails_if_strict(tmp_path, caplog, weights, problem):
    metric = FVD(weights)

    validate_clips(tmp_path, metric)

    assert metric.records == []
    warning = f"fvd is off, no number will appear: its network, `weights` of FVD, {problem}"
    assert warning in caplog.text
    with pytest.raises(FileNotFoundError, match=f"`weights` of KVD, {problem}"):
        validate_clips(tmp_path, KVD(weights, strict_weights=True))
