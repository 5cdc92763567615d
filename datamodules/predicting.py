"""What ``predict`` enlarges, for the callback that writes it: names, files, what is left out."""

from __future__ import annotations

from datamodules.samples import Images, PredictImages
from datamodules.source import Source
from datamodules.sources.folder import Folder
from datamodules.sources.videos import VideoFrames, Videos


def images_to_enlarge(source: Source, scale: float, size: tuple[int, int] | None) -> list[Images]:
    """Return the datasets of a prepared source: its images, and its videos if there are some."""
    videos = source.videos if isinstance(source, Folder) else {}
    datasets: list[Images] = []
    if source.keys or not videos:
        datasets.append(PredictImages(source, "predict", scale, size))
    if videos:
        datasets.append(VideoFrames(Videos(videos), "predict", scale, size))
    return datasets


class Predicted:
    """The part of `SRDataModule` that the writer of ``predict`` talks to."""

    def __init__(self) -> None:
        super().__init__()
        self._datasets: dict[str, list[Images]] = {}
        self._left_out: set[str] = set()

    @property
    def predict_keys(self) -> list[str]:
        """Keys of all images and videos that ``predict`` enlarges, without the source's name."""
        return [key for dataset in self._datasets["predict"] for key in dataset.source.keys]

    @property
    def predict_paths(self) -> list[str | None]:
        """Files of these images in the same order; None for an image without a file."""
        sources = [dataset.source for dataset in self._datasets["predict"]]
        return [source.path(index) for source in sources for index in range(len(source.keys))]

    @property
    def predict_videos(self) -> list[str]:
        """Keys of the videos among them."""
        return [key for dataset in self._video_datasets() for key in dataset.source.keys]

    @property
    def predict_frames(self) -> int | None:
        """Number of frames of the clips that ``predict`` makes; None if it makes images."""
        return self._datasets["predict"][0].source.frames

    def skip_in_predict(self, keys: set[str]) -> None:
        """Leave some images and videos out of ``predict``, as they are finished.

        Args:
            keys: Their keys, as in ``predict_keys``.
        """
        self._left_out = keys

    def abandon_in_predict(self, key: str) -> None:
        """Give no more frames of a video."""
        for dataset in self._video_datasets():
            dataset.abandon(key)

    def convert_in_predict(self) -> None:
        """Convert the images of ``predict`` from their colour profiles to sRGB."""
        self._datasets["predict"][0].source.srgb = True

    def _video_datasets(self) -> list[VideoFrames]:
        """Return the dataset of the videos to enlarge, if there are some."""
        return [data for data in self._datasets["predict"] if isinstance(data, VideoFrames)]
