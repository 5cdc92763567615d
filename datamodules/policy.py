"""Count and report unusable training images; too many stop the run."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal, NamedTuple

log = logging.getLogger(__name__)

Small = Literal["error", "pad", "skip"]
SMALL = "small"  # the reason of an image that is smaller than the crop
LEAST = 1000  # samples: a share of fewer would be mostly chance
WARNINGS = 20  # warnings before they become rare
LISTED = 50  # images in the error


class Skipped(NamedTuple):
    """An image that could not be used.

    key: Its key.
    reason: One word or two, for counting.
    message: The problem, with the file or the shard.
    planned: Whether it was planned; else it was a replacement.
    """

    key: str
    reason: str
    message: str
    planned: bool


class Tally:
    """Counts the training images of one process that could not be used.

    Args:
        limit: The run stops if more than this share of the samples had an unreadable image. Below
            1,000 samples it is this share of 1,000: at 0.01, the eleventh stops the run.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.samples = 0  # of this process
        self.failed = 0  # samples whose planned image was unreadable
        self.reasons: Counter[str] = Counter()  # of all skipped images
        self.pictures: dict[str, str] = {}  # message by key, of the first unreadable images

    @property
    def unreadable(self) -> int:
        """How often an unreadable image was skipped, including replacements."""
        return self.reasons.total() - self.reasons[SMALL]

    def add(self, samples: int, skipped: list[Skipped]) -> None:
        """Count one batch.

        Args:
            samples: Number of its samples.
            skipped: Images that were skipped for them.

        Raises:
            ValueError: If the limit is exceeded; the message has the images and the counts.
        """
        self.samples += samples
        for picture in skipped:
            self.reasons[picture.reason] += 1
            if picture.reason == SMALL:
                self._warn("skipped a training image, too small (%d so far): %s", picture)
                continue
            self._warn("skipped an unreadable training image (%d so far): %s", picture)
            self.failed += picture.planned
            if len(self.pictures) < LISTED:
                self.pictures.setdefault(picture.key, picture.message)
        if self.failed > self.limit * max(self.samples, LEAST):
            raise ValueError(self._message())

    def summary(self) -> str:
        """Return the counts by reason; empty if there are none."""
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())

    def _warn(self, message: str, picture: Skipped) -> None:
        small = picture.reason == SMALL
        count = self.reasons[SMALL] if small else self.unreadable
        if count <= WARNINGS or count % 1000 == 0:
            log.warning(message, count, picture.message)

    def _message(self) -> str:
        of = max(self.samples, LEAST)
        return (
            f"{self.failed} of the {self.samples} training samples of this process so far could "
            f"not be read ({self.summary()}), more than the {int(self.limit * of)} that "
            f"data.init_args.crops.unreadable_limit allows ({self.limit:g} of {of}): fix these "
            "images, leave them out, or raise the limit:\n  " + "\n  ".join(self.pictures.values())
        )
