"""Videos through predict: times, colours, sound, rotation; stopped, broken, finished ones."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition

from callbacks.predict.predictions import NAME, outputs_in
from callbacks.predict.writer import Writer
from datamodules.base import SRDataModule
from datamodules.sources.folder import Outputs
from datamodules.sources.videos import Videos
from files.images.decode import UnreadableImage
from files.videos.video import BT601, stated_frames
from lightning_modules.controls.simple import Bicubic
from tests.callbacks.predict.test_predictions import stored
from tests.callbacks.tiny import OneThread, trainer
from tests.conftest import REPO
from tests.quick import quick
from tests.video_files import make_video, read_video

EVEN = [40 * n for n in range(12)]
UNEVEN = [0, 40, 73, 106, 300, 301, 350, 1000]
SAME = {"input", "output", "error", "lr_size", "size", "scale", "frames", "seed"}
LONG = [40 * n for n in range(70)]


class Counted(Bicubic):
    """Counts its frames, and stops in a way of its own."""

    made = 0
    stop_at = -1
    how = "error"

    def predict_step(self, batch: Any, *indices: int) -> Any:
        if "error" not in batch:
            self.made += 1
            self.seeds = [*getattr(self, "seeds", []), int(batch["seed"])]
        if self.made == self.stop_at:
            if self.how == "kill":
                os._exit(9)
            if self.how == "error":
                raise KeyError("stopped")
            return {"sr": torch.full((1, 3, *batch["size"]), float("nan"))}
        return super().predict_step(batch, *indices)


def predict(
    source: Path, out: Path, stop_at: int = -1, how: str = "error", **settings: Any
) -> Counted:
    workers = settings.pop("workers", 0)
    scale = settings.pop("scale", 2.0)
    data = SRDataModule(scale, predict=str(source), workers=workers)
    data.outputs = Outputs(out, partial(outputs_in, out))  # as the command does
    model = Counted(scale)
    model.stop_at = stop_at
    model.how = how
    several = {"devices": 2, "strategy": "ddp_fork"} if settings.pop("several", False) else {}
    writer = Writer(folder=str(out), suffix="_x2", **settings)
    run = trainer(out.parent, writer, OneThread(), **several)
    gc.collect()  # a forked process that frees a decoder of PyAV waits for its threads forever
    run.predict(model, data, return_predictions=False)
    return model


def files(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.name != NAME)


# ---------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_what_a_file_says_about_its_frames_is_kept(tmp_path, codec):
    about: Any = {"rotation": 90, "aspect": Fraction(4, 3), "tags": {"title": "Hut"}}
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    hdr = {"x265-params": f"log-level=error:master-display={display}:max-cll=1000,400"}
    about |= {"codec": "libx265", "pixels": "yuv420p10le", "options": hdr}
    source = make_video(tmp_path / "clip.mp4", UNEVEN, audio="aac", **about)
    predict(source, tmp_path / "out", codec=codec)
    assert files(tmp_path / "out") == ["clip_x2.mp4"]
    original = read_video(source)
    enlarged = read_video(tmp_path / "out/clip_x2.mp4")
    assert enlarged.times == original.times == [Fraction(time, 1000) for time in UNEVEN]
    assert enlarged.end == original.end
    assert enlarged.size == (64, 48)
    assert enlarged.audio == original.audio
    assert len(enlarged.audio) > 40
    assert enlarged.rotation == original.rotation == 90
    assert enlarged.aspect == original.aspect == Fraction(4, 3)
    assert enlarged.tags["title"] == "Hut"
    assert enlarged.hdr == pytest.approx(original.hdr, rel=0.05)
    assert original.hdr[0] == 0.68
    assert np.abs(enlarged.means - original.means).max() < 4  # of 1024
    (line,) = stored(tmp_path / "out")
    assert line["key"] == "clip"
    assert line["output"] == "clip_x2.mp4"
    assert line["frames"] == len(UNEVEN)
    assert line["size"] == [48, 64]
    assert line["lr_size"] == [24, 32]
    assert line["options"]["writer.codec"] == codec


@pytest.mark.parametrize("matrix", quick([1, 5, 6, 9], 1, 9))
@pytest.mark.parametrize("range", [1, 2])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le"])
def test_colours_are_kept(tmp_path, matrix, range, pixels):
    colours = (range, matrix, 9, 16)
    source = make_video(tmp_path / "a.mp4", EVEN[:3], colours=colours, pixels=pixels)
    predict(source, tmp_path / "out")
    original = read_video(source)
    enlarged = read_video(tmp_path / "out/a_x2.mp4")
    assert enlarged.colours == original.colours == colours
    assert enlarged.format.removeprefix("yuvj") == original.format.removeprefix("yuvj")
    assert np.abs(enlarged.means - original.means).max() < (1 if pixels == "yuv420p" else 2)


def test_an_untagged_video_is_tagged_as_players_see_it(tmp_path):
    source = make_video(tmp_path / "a.mp4", EVEN[:2], colours=(0, 2, 2, 2))
    predict(source, tmp_path / "out")
    assert read_video(tmp_path / "out/a_x2.mp4").colours == (1, BT601, 2, 2)


@pytest.mark.parametrize(
    ("name", "codec", "audio"),
    [
        ("a.mkv", "libx264", "libopus"),
        ("a.mov", "libx264", "pcm_s16le"),
        ("a.avi", "mpeg4", "ac3"),
        ("a.avi", "libx264", "libmp3lame"),  # without times of frames that are shown later
        ("a.mkv", "libx264", "pcm_s16le"),  # without a layout of channels
        ("a.avi", "mpeg4", "pcm_s24le"),
        ("a.mkv", "libx264", "alac"),  # without a duration
    ],
)
def test_other_containers_keep_times_and_sound(tmp_path, name, codec, audio):
    source = make_video(tmp_path / name, EVEN, audio=audio, codec=codec)
    predict(source, tmp_path / "out")
    original = read_video(source)
    enlarged = read_video(tmp_path / "out/a_x2.mp4")
    if not name.endswith("avi"):  # where this one's steps of a millisecond count
        assert abs(stated_frames(str(source)) - len(EVEN)) <= 3  # what the progress counts to
    assert from_first(enlarged.times) == [Fraction(time, 1000) for time in EVEN]
    assert b"".join(enlarged.audio) == b"".join(original.audio)


def from_first(times: list[Fraction]) -> list[Fraction]:
    return [time - times[0] for time in times]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a.mts", 2**33 / 90_000 - 2),  # wraps in the middle, and is negative before
        ("a.mts", 2**33 / 90_000 - 1.5),  # between frames that are stored in another order
        ("a.mts", 50_000),
        ("a.mkv", 30),
    ],
)
def test_a_clock_may_begin_anywhere(tmp_path, name, start):
    source = make_video(tmp_path / name, LONG, audio="aac", start=start)
    predict(source, tmp_path / "out")
    original = read_video(source)
    enlarged = read_video(tmp_path / "out/a_x2.mp4")
    assert from_first(enlarged.times) == [Fraction(time, 1000) for time in LONG]
    assert len(enlarged.audio) == len(original.audio)
    lag = enlarged.times[0] - enlarged.audio_times[0]
    expected = original.times[0] - original.audio_times[0]
    assert abs(lag - expected) < Fraction(1, 1000)
    assert 0 <= enlarged.times[0] < Fraction(1, 10)


@pytest.mark.parametrize("start", [0, 50_000, 3])
def test_joined_recordings_are_refused(tmp_path, start):
    first = make_video(tmp_path / "1.mts", LONG, audio="aac", start=5)
    second = make_video(tmp_path / "2.mts", EVEN, audio="aac", start=start)
    source = tmp_path / "a.mts"
    source.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(UnreadableImage, match="a part is missing"):
        list(Videos({"a": str(source)}).decode(0))


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_the_film_is_enlarged_and_not_its_cover(tmp_path, ending):
    film = make_video(tmp_path / "film.mp4", EVEN)
    source = tmp_path / f"a.{ending}"
    with av.open(str(film)) as given, av.open(str(source), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p"
        if ending == "mp4":
            cover.disposition = Disposition.attached_pic
        copy = container.add_stream_from_template(given.streams.video[0])
        container.mux(cover.encode(av.VideoFrame(16, 16, "yuvj420p")))
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    predict(source, tmp_path / "out")
    enlarged = read_video(tmp_path / "out/a_x2.mp4")
    assert enlarged.size == (64, 48)
    assert len(enlarged.times) == len(EVEN)


def test_chapters_are_kept(tmp_path):
    chapters = [
        {"id": n, "start": 200 * n, "end": 200 * n + 200, "time_base": Fraction(1, 1000)}
        | {"metadata": {"title": title}}
        for n, title in enumerate(("Hut", "Summit"))
    ]
    source = make_video(tmp_path / "a.mkv", EVEN, chapters=chapters)
    predict(source, tmp_path / "out")
    with av.open(str(tmp_path / "out/a_x2.mp4")) as container:
        hut, summit = container.chapters()
    assert hut["metadata"]["title"] == "Hut"
    assert summit["metadata"]["title"] == "Summit"
    assert summit["start"] * summit["time_base"] == Fraction(1, 5)


def test_odd_sides_get_a_pixel(tmp_path):
    source = make_video(tmp_path / "a.mp4", EVEN[:2], size=(34, 22))
    predict(source, tmp_path / "out", scale=1.5)
    assert read_video(tmp_path / "out/a_x2.mp4").size == (52, 34)
    assert stored(tmp_path / "out")[0]["size"] == [33, 51]


def test_places_in_metadata_can_be_dropped(tmp_path):
    tags = {"location": "+46.6+008.0/", "title": "Hut"}
    source = make_video(tmp_path / "a.mp4", EVEN[:2], tags=tags)
    for exif, kept in (("keep", 2), ("no_place", 1), ("drop", 0)):
        predict(source, tmp_path / exif, exif=exif)
        enlarged = read_video(tmp_path / exif / "a_x2.mp4")
        assert len(tags.keys() & enlarged.tags.keys()) == kept


# ----------------------------------------------------------------------- folders, what is finished


def test_what_is_done_is_left_alone(tmp_path):
    source = make_video(tmp_path / "a.mp4", EVEN)
    out = tmp_path / "out"
    assert predict(source, out).made == 12
    assert predict(source, out).made == 0
    before = (out / "a_x2.mp4").stat().st_size
    assert predict(source, out, crf=40).made == 12
    assert (out / "a_x2.mp4").stat().st_size < before
    make_video(source, EVEN[:5])
    assert predict(source, out, crf=40).made == 5


# ---------------------------------------------------------------------------------- stopped runs


def killed(root: str) -> None:
    """Called in a process of its own."""
    predict(Path(root, "a.mkv"), Path(root, "out"), stop_at=60, how="kill")


def test_a_killed_run_leaves_nothing_under_the_name_and_begins_again(tmp_path):
    source = make_video(tmp_path / "a.mkv", LONG, audio="aac")
    code = f"from {__name__} import killed; killed({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True)
    assert done.returncode == 9, done.stderr
    assert not (tmp_path / "out/a_x2.mp4").exists()
    assert predict(source, tmp_path / "out").made == len(LONG)
    predict(source, tmp_path / "whole")
    whole = tmp_path / "whole/a_x2.mp4"
    assert files(tmp_path / "out") == ["a_x2.mp4"]
    assert (tmp_path / "out/a_x2.mp4").read_bytes() == whole.read_bytes()
    assert read_video(whole).times == [Fraction(time, 1000) for time in LONG]


# ------------------------------------------------------------------------------ several processes


@pytest.mark.distributed
def test_processes_share_the_videos(tmp_path):
    inputs = tmp_path / "in"
    out = tmp_path / "out"
    whole = tmp_path / "whole"
    inputs.mkdir()
    make_video(inputs / "long.mp4", LONG, audio="aac")
    make_video(inputs / "short.mp4", EVEN)
    broken(inputs, "damaged")
    predict(inputs, out, several=True)
    predict(inputs, whole)
    assert files(out) == files(whole) == ["long_x2.mp4", "short_x2.mp4"]
    for name in files(out):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    of_two = {line["key"]: line for line in stored(out)}
    assert len(stored(out)) == 3
    for line in stored(whole):
        for name in SAME & line.keys():
            assert of_two[line["key"]][name] == line[name]


# ---------------------------------------------------------------------------------- broken videos


def broken(folder: Path, how: str) -> Path:
    source = make_video(folder / "broken.mkv", LONG, size=(128, 96))
    data = bytearray(source.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "damaged":
        middle = len(data) // 2
        data[middle : middle + 400] = bytes(reversed(range(200))) * 2
    elif how == "text":
        data = bytearray(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    else:
        data = bytearray()
    source.write_bytes(data)
    return source


@pytest.mark.parametrize("how", ["truncated", "damaged", "text", "empty"])
@pytest.mark.parametrize("workers", quick([0, 1], 0))
def test_a_broken_video_is_counted(tmp_path, how, workers, caplog):
    source = broken(tmp_path, how)
    make_video(tmp_path / "sound.mp4", EVEN)
    with caplog.at_level(logging.INFO):
        predict(tmp_path, tmp_path / "out", workers=workers)
    assert files(tmp_path / "out") == ["sound_x2.mp4"]
    assert f"unusable, left out: {source}: " in caplog.text
    assert "1 written, 0 skipped (done before), 1 unusable" in caplog.text
    assert predict(tmp_path, tmp_path / "out").made < len(LONG)  # tried again, by the same rules
    assert [line["key"] for line in stored(tmp_path / "out")] == ["broken", "sound", "broken"]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.avi", "mpeg4"),
        ("a.flv", "flv"),
        ("a.mp4", "libx264"),  # with its index at the end
        ("front.mp4", "libx264"),
    ],
)
def test_a_video_shorter_than_its_header_says_is_refused(tmp_path, name, codec):
    muxing = {"movflags": "faststart"} if name == "front.mp4" else {}
    source = make_video(tmp_path / name, LONG, codec=codec, muxing=muxing, size=(128, 96))
    videos = Videos({"a": str(source)})
    assert len(list(videos.decode(0))) == len(LONG)
    data = source.read_bytes()
    for percent in (5, 15, 25):  # most of these frames; an AVI's index is large
        source.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(UnreadableImage):
            list(videos.decode(0))


def test_a_video_that_cannot_be_written_ends_early(tmp_path):
    make_video(tmp_path / "a.mp4", LONG)
    make_video(tmp_path / "b.mp4", EVEN)
    model = predict(tmp_path, tmp_path / "out", stop_at=5, how="nan", workers=1)
    assert model.made <= 5 + 12 + 5  # the frames that were read ahead
    assert files(tmp_path / "out") == ["b_x2.mp4"]
    assert "not finite" in stored(tmp_path / "out")[0]["error"]


def test_an_error_of_the_network_ends_the_run(tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    make_video(tmp_path / "a.mp4", EVEN)
    monkeypatch.setattr("callbacks.predict.writer.levels_of", fail)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        predict(tmp_path, tmp_path / "out")
