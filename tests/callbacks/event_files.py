"""What TensorBoard reads of a run."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

Points = list[tuple[int, float]]


class Log:
    """The events of a folder, as TensorBoard shows them, without its limits.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        self._events.Reload()

    def names(self, plugin: str) -> list[str]:
        """Return the tags of ``scalars``, ``images``, ``text`` or ``hparams``; at least one."""
        return sorted(self._events.PluginTagToContent(plugin))

    def scalars(self, name: str) -> Points:
        """Return steps and values."""
        events = self._events.Tensors(name)
        return [(event.step, float(make_ndarray(event.tensor_proto))) for event in events]

    def texts(self, name: str) -> list[str]:
        """Return the texts."""
        events = self._events.Tensors(f"{name}/text_summary")
        return [event.tensor_proto.string_val[0].decode() for event in events]

    def hyperparameters(self) -> dict[str, float | str]:
        """Return the latest hyperparameters."""
        (content,) = self._events.PluginTagToContent("hparams").values()
        found = HParamsPluginData.FromString(content).session_start_info.hparams
        return {name: getattr(v, v.WhichOneof("kind")) for name, v in found.items()}

    def images(self, name: str) -> list[tuple[int, NDArray[np.uint8]]]:
        """Return steps and images, (H, W, 3)."""
        found = []
        for event in self._events.Tensors(name):
            _, _, png = event.tensor_proto.string_val
            found.append((event.step, np.asarray(Image.open(io.BytesIO(png)))))
        return found
