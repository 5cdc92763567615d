"""Training images that cannot be used: counted and told, and too many of them stop the run."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal, NamedTuple

log = logging.getLogger(__name__)

Small = Literal["error", "pad", "skip"]
SMALL = "small"  # the reason of an image that is smaller than the crop
LEAST = 1000  # samples: a share of fewer would be a matter of luck
TOLD = 20  # warnings before they become rare
LISTED = 50  # images in the error


class Skipped(NamedTuple):
    """An image that could not be used.

    key: Its key.
    reason: One word or two, to count by.
    message: What was wrong, with the file or the shard.
    planned: Whether the plan had it there; else it was to replace one.
    """

    key: str
    reason: str
    message: str
    planned: bool


class Tally:
    """Counts the training images of one process that could not be used.

    Args:
        limit: The run stops when more than this share of the samples had an unreadable image.
            Below 1,000 samples it is this share of 1,000: at 0.01, the eleventh stops the run.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.samples = 0  # all that this process had
        self.failed = 0  # those of them whose own image could not be read
        self.reasons: Counter[str] = Counter()  # of each time an image was skipped
        self.pictures: dict[str, str] = {}  # message by key, of the first unreadable ones

    @property
    def unreadable(self) -> int:
        """How often an unreadable image was skipped, as a replacement too."""
        return self.reasons.total() - self.reasons[SMALL]

    def add(self, samples: int, skipped: list[Skipped]) -> None:
        """Count one batch.

        Args:
            samples: How many it has.
            skipped: What was skipped until they were found.

        Raises:
            ValueError: The limit is passed; with the images and the counts.
        """
        self.samples += samples
        for picture in skipped:
            self.reasons[picture.reason] += 1
            if picture.reason == SMALL:
                self._tell("skipped a training image, too small (%d so far): %s", picture)
                continue
            self._tell("skipped an unreadable training image (%d so far): %s", picture)
            self.failed += picture.planned
            if len(self.pictures) < LISTED:
                self.pictures.setdefault(picture.key, picture.message)
        if self.failed > self.limit * max(self.samples, LEAST):
            raise ValueError(self._verdict())

    def summary(self) -> str:
        """The counts by reason; empty if there are none."""
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())

    def _tell(self, message: str, picture: Skipped) -> None:
        small = picture.reason == SMALL
        count = self.reasons[SMALL] if small else self.unreadable
        if count <= TOLD or count % 1000 == 0:
            log.warning(message, count, picture.message)

    def _verdict(self) -> str:
        of = max(self.samples, LEAST)
        return (
            f"{self.failed} of the {self.samples} training samples that this process has had so "
            f"far could not be read ({self.summary()}), more than the {int(self.limit * of)} "
            f"that data.init_args.crops.unreadable_limit allows ({self.limit:g} of {of}): mend these "
            "images, leave them out, or raise the limit:\n  " + "\n  ".join(self.pictures.values())
        )
