"""Videos through predict: times, colours, sound, rotation; stopped, broken, finished ones."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

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
from files.owned import hidden
from files.videos.video import BT601, stated_frames
from lightning_modules.controls.simple import Bicubic
from tests.callbacks.predict.test_predictions import stored
from tests.callbacks.tiny import OneThread, trainer
from tests.conftest import REPO
from tests.quick import quick
from tests.video_files import make_video, read_video

# Times of frames in milliseconds.
SHORT = [40 * n for n in range(12)]  # half a second
LONG = [40 * n for n in range(70)]  # three seconds
UNEVEN = [0, 40, 73, 106, 300, 301, 350, 1000]


def seconds(times):
    return [Fraction(time, 1000) for time in times]


class Counted(Bicubic):
    """Bicubic that counts its frames, and kills its process or returns NaN at one of them."""

    made = 0
    kill_at = None
    nan_at = None

    def predict_step(self, batch, *indices):
        if "error" not in batch:
            self.made += 1
        if self.made == self.kill_at:
            os._exit(9)
        if self.made == self.nan_at:
            return {"sr": torch.full((1, 3, *batch["size"]), torch.nan)}
        return super().predict_step(batch, *indices)


def predict(source, out, model=None, scale=2.0, workers=0, processes=1, **settings):
    """Enlarge videos; return the model, which has counted their frames."""
    data = SRDataModule(scale, predict=str(source), workers=workers)
    data.outputs = Outputs(out, partial(outputs_in, out))  # as the command does
    model = model or Counted(scale)
    writer = Writer(folder=str(out), suffix="_x2", **settings)
    several = {"devices": processes, "strategy": "ddp_fork"} if processes > 1 else {}
    run = trainer(out.parent, writer, OneThread(), **several)
    gc.collect()  # a forked process that frees a decoder of PyAV waits for its threads forever
    run.predict(model, data, return_predictions=False)
    return model


def enlarged(source, **settings):
    """The content of a video of 32x24 pixels, and that of the enlarged one."""
    out = source.parent / "out"
    predict(source, out, **settings)
    return read_video(source), read_video(out / f"{source.stem}_x2.mp4")


def files(out):
    return sorted(path.name for path in out.iterdir() if path.name != NAME)


# ---------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_times_sound_rotation_aspect_tags_and_hdr_of_a_video_are_kept(tmp_path, codec):
    # A mastering display: x and y of green, blue, red and white in 50,000ths; its luminance.
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    source = make_video(
        tmp_path / "clip.mp4",
        UNEVEN,
        size=(32, 24),
        audio="aac",
        rotation=90,
        aspect=Fraction(4, 3),
        tags={"title": "Hut"},
        codec="libx265",
        pixels="yuv420p10le",
        options={"x265-params": f"log-level=error:master-display={display}:max-cll=1000,400"},
    )

    original, output = enlarged(source, codec=codec)

    [line] = stored(tmp_path / "out")
    assert original.times == seconds(UNEVEN)
    assert output.times == original.times
    assert output.end == original.end
    assert output.size == (64, 48)
    assert output.audio == original.audio
    assert len(output.audio) > 40  # a second of 48 kHz has 47 packets of 1024 samples
    assert original.rotation == 90
    assert output.rotation == 90
    assert original.aspect == Fraction(4, 3)
    assert output.aspect == Fraction(4, 3)
    assert output.tags["title"] == "Hut"
    assert output.hdr == pytest.approx(original.hdr, rel=0.05)
    assert original.hdr[0] == 0.68  # x of red: 34000 of 50,000
    assert np.abs(output.means - original.means).max() < 4  # of 1024 levels
    assert line["key"] == "clip"
    assert line["output"] == "clip_x2.mp4"
    assert line["frames"] == len(UNEVEN)
    assert line["size"] == [48, 64]
    assert line["lr_size"] == [24, 32]
    assert line["options"]["writer.codec"] == codec


# Numbers as FFmpeg counts them.
@pytest.mark.parametrize("matrix", quick([1, 5, 6, 9], 1, 9))  # BT.709, 470BG, SMPTE 170M, BT.2020
@pytest.mark.parametrize("range", [1, 2])  # limited, full
@pytest.mark.parametrize(("pixels", "within"), [("yuv420p", 1), ("yuv420p10le", 2)])  # levels
def test_colours_and_their_tags_are_kept(tmp_path, matrix, range, pixels, within):
    bt2020_primaries = 9
    pq_transfer = 16
    colours = (range, matrix, bt2020_primaries, pq_transfer)
    source = make_video(tmp_path / "a.mp4", SHORT[:3], colours=colours, pixels=pixels)

    original, output = enlarged(source)

    assert original.colours == colours
    assert output.colours == colours
    assert output.format == original.format
    assert np.abs(output.means - original.means).max() < within


def test_a_small_video_without_tags_of_colours_is_tagged_as_limited_bt601(tmp_path):
    """As players show it."""
    unknown_range = 0
    unspecified = 2
    untagged = (unknown_range, unspecified, unspecified, unspecified)
    source = make_video(tmp_path / "a.mp4", SHORT[:2], colours=untagged)

    _, output = enlarged(source)

    limited = 1
    assert output.colours == (limited, BT601, unspecified, unspecified)


def from_first(times):
    return [time - times[0] for time in times]


@pytest.mark.parametrize(
    ("name", "codec", "audio"),
    [
        pytest.param("a.mkv", "libx264", "libopus", id="Matroska"),
        pytest.param("a.mov", "libx264", "pcm_s16le", id="QuickTime"),
        pytest.param("a.avi", "libx264", "libmp3lame", id="no times of frames shown later"),
        pytest.param("a.mkv", "libx264", "pcm_s16le", id="no layout of channels"),
        pytest.param("a.avi", "mpeg4", "pcm_s24le", id="AVI"),
        pytest.param("a.mkv", "libx264", "alac", id="no durations of packets"),
    ],
)
def test_other_containers_keep_times_and_sound(tmp_path, name, codec, audio):
    source = make_video(tmp_path / name, SHORT, audio=audio, codec=codec)

    original, output = enlarged(source)

    if not name.endswith("avi"):  # which counts a frame for each millisecond of this file
        assert abs(stated_frames(str(source)) - len(SHORT)) <= 3  # for the progress bar
    assert from_first(output.times) == seconds(SHORT)
    assert b"".join(output.audio) == b"".join(original.audio)


CLOCK = 2**33 / 90_000  # seconds until the 33 bits of an MTS file's 90 kHz clock overflow


@pytest.mark.parametrize(
    ("name", "start"),
    [
        pytest.param("a.mts", CLOCK - 2, id="wraps after 2 s"),  # and is negative before
        pytest.param("a.mts", CLOCK - 1.5, id="wraps between frames stored in another order"),
        pytest.param("a.mts", 50_000, id="mts at 50,000 s"),
        pytest.param("a.mkv", 30, id="mkv at 30 s"),
    ],
)
def test_times_and_sound_are_kept_wherever_a_videos_clock_begins(tmp_path, name, start):
    source = make_video(tmp_path / name, LONG, audio="aac", start=start)

    original, output = enlarged(source)

    lag = output.times[0] - output.audio_times[0]
    expected_lag = original.times[0] - original.audio_times[0]
    assert from_first(output.times) == seconds(LONG)
    for packet, kept in zip(original.audio, output.audio, strict=True):
        assert packet.endswith(kept)  # in an MTS file, each has a header of its own
    assert abs(lag - expected_lag) < Fraction(1, 1000)
    assert 0 <= output.times[0] < Fraction(1, 10)


@pytest.mark.parametrize("start", [0, 50_000, 3], ids=["from 0", "far ahead", "before the first"])
def test_two_recordings_joined_in_one_file_are_refused(tmp_path, start):
    """Their clocks do not go on from each other: the first begins at 5 s, the second at `start`."""
    first = make_video(tmp_path / "1.mts", LONG, audio="aac", start=5)
    second = make_video(tmp_path / "2.mts", SHORT, audio="aac", start=start)
    source = tmp_path / "a.mts"
    source.write_bytes(first.read_bytes() + second.read_bytes())

    with pytest.raises(UnreadableImage, match="a part is missing"):
        list(Videos({"a": str(source)}).decode(0))


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_of_a_film_with_a_cover_the_film_is_enlarged(tmp_path, ending):
    film = make_video(tmp_path / "film.mp4", SHORT)
    source = tmp_path / f"a.{ending}"
    with av.open(str(film)) as given, av.open(str(source), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
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

    output = read_video(tmp_path / "out/a_x2.mp4")
    assert output.size == (64, 48)  # twice the film's 32x24, not the cover's 16x16
    assert len(output.times) == len(SHORT)


def chapter(number, title):
    """A chapter of 200 ms, as PyAV takes it."""
    times = {"start": 200 * number, "end": 200 * number + 200, "time_base": Fraction(1, 1000)}
    return {"id": number, "metadata": {"title": title}, **times}


def test_chapters_are_kept(tmp_path):
    chapters = [chapter(0, "Hut"), chapter(1, "Summit")]
    source = make_video(tmp_path / "a.mkv", SHORT, chapters=chapters)

    predict(source, tmp_path / "out")

    with av.open(str(tmp_path / "out/a_x2.mp4")) as container:
        hut, summit = container.chapters()
    assert hut["metadata"]["title"] == "Hut"
    assert summit["metadata"]["title"] == "Summit"
    assert summit["start"] * summit["time_base"] == Fraction(1, 5)


def test_an_odd_side_of_a_video_becomes_even_by_one_pixel(tmp_path):
    """Codecs with 4:2:0 colours take even sides only."""
    source = make_video(tmp_path / "a.mp4", SHORT[:2], size=(34, 22))

    original, output = enlarged(source, scale=1.5)

    assert output.size == (51 + 1, 33 + 1)
    assert np.abs(output.means - original.means).max() < 1  # level: the pixel is not black
    assert stored(tmp_path / "out")[0]["size"] == [33, 51]  # height and width without it


@pytest.mark.parametrize(
    ("exif", "kept"), [("keep", {"location", "title"}), ("no_place", {"title"}), ("drop", set())]
)
def test_metadata_of_a_video_or_its_place_alone_can_be_dropped(tmp_path, exif, kept):
    tags = {"location": "+46.6+008.0/", "title": "Hut"}
    source = make_video(tmp_path / "a.mp4", SHORT[:2], tags=tags)

    _, output = enlarged(source, exif=exif)

    assert tags.keys() & output.tags.keys() == kept


# ------------------------------------------------------------ what is finished, and stopped runs


def test_a_video_is_made_again_only_if_the_settings_or_the_file_change(tmp_path):
    source = make_video(tmp_path / "a.mp4", SHORT)
    out = tmp_path / "out"

    assert predict(source, out).made == len(SHORT)
    assert predict(source, out).made == 0
    larger = (out / "a_x2.mp4").stat().st_size

    assert predict(source, out, crf=40).made == len(SHORT)
    assert (out / "a_x2.mp4").stat().st_size < larger  # a crf of 40 is a low quality

    make_video(source, SHORT[:5])
    assert predict(source, out, crf=40).made == 5


def killed(root):
    """Called in a process of its own."""
    model = Counted(2.0)
    model.kill_at = 60
    predict(Path(root, "a.mkv"), Path(root, "out"), model)


@pytest.mark.slow
def test_a_video_of_a_killed_run_has_no_file_and_is_made_again_from_its_start(tmp_path):
    source = make_video(tmp_path / "a.mkv", LONG, audio="aac")
    code = f"from {__name__} import killed; killed({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True)
    assert done.returncode == 9, done.stderr
    assert hidden(tmp_path / "out/a_x2.mp4").stat().st_size > 0
    assert not (tmp_path / "out/a_x2.mp4").exists()

    second = predict(source, tmp_path / "out")

    predict(source, tmp_path / "undisturbed")
    undisturbed = tmp_path / "undisturbed/a_x2.mp4"
    assert second.made == len(LONG)
    assert files(tmp_path / "out") == ["a_x2.mp4"]
    assert (tmp_path / "out/a_x2.mp4").read_bytes() == undisturbed.read_bytes()
    assert read_video(undisturbed).times == seconds(LONG)


# ---------------------------------------------------------------------------------- broken videos


def broken(folder, how):
    source = make_video(folder / "broken.mkv", LONG, size=(128, 96))
    data = source.read_bytes()
    middle = len(data) // 2
    damage = bytes(reversed(range(200))) * 2
    contents = {
        "truncated": data[:middle],
        "damaged": data[:middle] + damage + data[middle + len(damage) :],
        "text": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "empty": b"",
    }
    source.write_bytes(contents[how])
    return source


@pytest.mark.distributed
def test_two_processes_write_the_files_and_lines_of_one(tmp_path):
    two = tmp_path / "two"
    one = tmp_path / "one"
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in/long.mp4", LONG, audio="aac")
    make_video(tmp_path / "in/short.mp4", SHORT)
    broken(tmp_path / "in", "damaged")

    predict(tmp_path / "in", two, processes=2)

    predict(tmp_path / "in", one)
    assert files(two) == ["long_x2.mp4", "short_x2.mp4"]
    assert files(one) == files(two)
    for name in files(two):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    lines = {line["key"]: line for line in stored(two)}
    assert len(stored(two)) == 3
    for expected in stored(one):
        for name in ("input", "output", "error", "lr_size", "size", "scale", "frames", "seed"):
            assert lines[expected["key"]].get(name) == expected.get(name)


@pytest.mark.parametrize("how", ["truncated", "damaged", "text", "empty"])
@pytest.mark.parametrize("workers", quick([0, 1], 0))
def test_a_broken_video_is_left_out_and_tried_again_by_the_next_run(tmp_path, how, workers, caplog):
    caplog.set_level("INFO")
    source = broken(tmp_path, how)
    make_video(tmp_path / "sound.mp4", SHORT)

    predict(tmp_path, tmp_path / "out", workers=workers)
    second = predict(tmp_path, tmp_path / "out")

    assert files(tmp_path / "out") == ["sound_x2.mp4"]
    assert f"unusable, left out: {source}: " in caplog.text
    assert "1 written, 0 skipped (done before), 1 unusable" in caplog.text
    assert second.made < len(LONG)  # it stops at the damage
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

    for percent in (5, 15, 25):  # few, as the index at the end of an AVI is large
        source.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(UnreadableImage):
            list(videos.decode(0))


def test_a_video_with_a_frame_that_is_not_finite_is_given_up_and_the_next_one_made(tmp_path):
    make_video(tmp_path / "a.mp4", LONG)
    make_video(tmp_path / "b.mp4", SHORT)
    model = Counted(2.0)
    model.nan_at = 5

    predict(tmp_path, tmp_path / "out", model, workers=1)

    # Of the 70 frames of a.mp4, only those come after the fifth that the worker has read ahead.
    assert model.made <= 5 + 5 + len(SHORT)
    assert files(tmp_path / "out") == ["b_x2.mp4"]
    assert "not finite" in stored(tmp_path / "out")[0]["error"]


def test_an_out_of_memory_error_ends_the_run(tmp_path, monkeypatch):
    """It is no fault of this video: all others would fail in the same way."""

    def fail(*_):
        raise RuntimeError("CUDA out of memory")

    make_video(tmp_path / "a.mp4", SHORT)
    monkeypatch.setattr("callbacks.predict.writer.levels_of", fail)

    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        predict(tmp_path, tmp_path / "out")
