"""What TensorBoard reads of a run."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray


class Log:
    """The events of a folder, as TensorBoard shows them, without its limits.

    Args:
        folder: The folder.
    """

    def __init__(self, folder):
        self._events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        self._events.Reload()

    def names(self, plugin):
        """Return the tags of ``scalars``, ``images``, ``text`` or ``hparams``; at least one."""
        return sorted(self._events.PluginTagToContent(plugin))

    def scalars(self, name):
        """Return steps and values."""
        events = self._events.Tensors(name)
        return [(event.step, float(make_ndarray(event.tensor_proto))) for event in events]

    def texts(self, name):
        """Return the texts."""
        events = self._events.Tensors(f"{name}/text_summary")
        return [event.tensor_proto.string_val[0].decode() for event in events]

    def hyperparameters(self):
        """Return the latest hyperparameters."""
        [content] = self._events.PluginTagToContent("hparams").values()
        values = HParamsPluginData.FromString(content).session_start_info.hparams
        return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}

    def images(self, name):
        """Return steps and images, (H, W, 3)."""
        images = []
        for event in self._events.Tensors(name):
            _, _, png = event.tensor_proto.string_val
            images.append((event.step, np.asarray(Image.open(io.BytesIO(png)))))
        return images
