"""What the frames of a video have that an output does not keep."""

import av

from files.videos.video import extras_of
from tests.video_files import make_video


def lost_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return extras_of(next(container.decode(stream)), stream).lost


def test_the_fields_of_an_interlaced_video_are_reported_as_lost(tmp_path):
    options = {"x264-params": "tff=1"}  # the top field first
    times = [0, 40]  # of two frames
    progressive = make_video(tmp_path / "progressive.mp4", times)
    interlaced = make_video(tmp_path / "interlaced.mp4", times, options=options)

    assert lost_of(progressive) == ()
    assert lost_of(interlaced)[0].startswith("fields (interlaced, enlarged as progressive")
