"""TensorBoard's files, in which a metric's curve says how its numbers were computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from callbacks.base import MetricProtocol


class DescribedLogger(TensorBoardLogger):
    """TensorBoard's logger, with a description for a tag; see ``describe``. Args as Lightning's.

    Args:
        save_dir: Folder of all runs' logs.
        name: Folder of the run in it; none if empty.
        version: Folder within that.
    """

    def __init__(self, save_dir: str, name: str = "", version: str = "tensorboard") -> None:
        super().__init__(save_dir, name=name, version=version)
        self._descriptions: dict[str, str] = {}  # of tags that were not written yet
        self._described: set[str] = set()

    def describe(self, tag: str, protocol: MetricProtocol) -> None:
        """Say how a tag's numbers are computed, before the first of them is logged.

        Args:
            tag: Its name in the logs.
            protocol: Shown by TensorBoard behind the (i) of the curve, one line an entry.
        """
        if tag not in self._described:
            self._descriptions[tag] = "\n".join(f"- {k}: {v}" for k, v in protocol.items())

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write scalars, the first one of a described tag with its description."""
        new = metrics.keys() & self._descriptions.keys()
        for tag in new:
            self._write_described(tag, float(metrics[tag]), step)
        super().log_metrics({k: v for k, v in metrics.items() if k not in new}, step)

    def _write_described(self, tag: str, value: float, step: int | None) -> None:
        # torch's writer has no argument for it. TensorBoard keeps what came with the first value.
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

        description = self._descriptions.pop(tag)
        self._described.add(tag)
        # Without its plugin's name, readers of the file complain about the tag.
        plugin = SummaryMetadata.PluginData(plugin_name="scalars")
        metadata = SummaryMetadata(summary_description=description, plugin_data=plugin)
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value, metadata=metadata)])
        self.experiment._get_file_writer().add_summary(summary, step)
