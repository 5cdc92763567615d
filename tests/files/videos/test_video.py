"""What the frames of a video have that an output does not keep."""

import av

from files.videos.video import extras_of
from tests.video_files import make_video


def lost_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return extras_of(next(container.decode(stream)), stream).lost


def test_an_interlaced_video_loses_its_fields(tmp_path):
    options = {"x264-params": "tff=1"}  # the top field first
    progressive = make_video(tmp_path / "progressive.mp4", [0, 40])
    interlaced = make_video(tmp_path / "interlaced.mp4", [0, 40], options=options)

    assert lost_of(progressive) == ()
    assert lost_of(interlaced)[0].startswith("fields (interlaced, enlarged as progressive")
