"""Where a crop lies, how it is turned, and how a picture that is too small is continued."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import cast

import cv2
import numpy as np

from datamodules.source import Pixels
from degradations.draws import GAMMA, MULTIPLIERS, SHIFTS

_WORD = (1 << 64) - 1


class SampleDraws:
    """What ``Draws`` gives for one sample, ten times as quick: arrays of one number are slow.

    Args:
        seed: The sample's seed.
        name: As of ``Draws.fold``.
    """

    def __init__(self, seed: int, name: str) -> None:
        self._state = _mix(_mix((seed + GAMMA) & _WORD) ^ _hash_of_name(name))

    def integer(self, low: int, high: int) -> int:
        """A number of {low, ..., high - 1}, each equally likely; ``high`` is above ``low``."""
        self._state = (self._state + GAMMA) & _WORD
        return low + int((high - low) * ((_mix(self._state) >> 11) * 2.0**-53))


def turned(picture: Pixels, turn: int, out: Pixels | None = None) -> Pixels:
    """A copy, flipped and transposed.

    OpenCV, because NumPy goes pixel by pixel: a fortieth of the time for a crop of 256 pixels.

    Args:
        picture: (H, W, 3).
        turn: 0 to 7: 1 flips left and right, 2 top and bottom, 4 swaps the axes after that.
        out: Where the copy goes, if it is of the same type; contiguous.
    """
    if out is None or out.dtype != picture.dtype:
        out = np.empty((*picture.shape[:2][:: -1 if turn & 4 else 1], 3), picture.dtype)
    code = (0, 1, 0, -1)[turn & 3]
    if turn & 4:
        cv2.transpose(cv2.flip(picture, code) if turn & 3 else picture, out)
    elif turn:
        cv2.flip(picture, code, out)
    else:
        out[...] = picture
    return out


def continued(picture: Pixels, height: int, width: int) -> Pixels:
    """A picture that is mirrored at its lower and right border until it has a size.

    The mirror is the border itself, not the middle of the last pixel: so HR and LR of a pair stay
    aligned.

    Args:
        picture: (H, W, 3).
        height: Of the result; no less than H.
        width: The same for columns.
    """
    down, right = height - picture.shape[0], width - picture.shape[1]
    if not (down or right):
        return picture
    return cast(Pixels, np.pad(picture, ((0, down), (0, right), (0, 0)), mode="symmetric"))


@cache
def _hash_of_name(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _mix(word: int) -> int:
    word = (word ^ (word >> SHIFTS[0])) * MULTIPLIERS[0] & _WORD
    word = (word ^ (word >> SHIFTS[1])) * MULTIPLIERS[1] & _WORD
    return word ^ (word >> SHIFTS[2])
