"""16-bit pixels to sRGB: as Little CMS with 8 bits, but finer."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageCms

from datamodules.files.deep import to_srgb_16
from files.image_profiles import to_srgb
from tests.datamodules.profiles import (
    SRGB,
    ink_profile,
    parametric_curve,
    rgb_profile,
    srgb_of_rgb,
    table_curve,
)

LEVELS = np.random.default_rng(0).integers(0, 256, (300, 9, 3)).astype(np.uint8)
DEEP = LEVELS.astype(np.uint16) * 257
CURVES = {
    "identity": b"curv" + bytes(8),
    "table": table_curve(np.linspace(0, 1, 33) ** 2.2),
    "power": parametric_curve(0, 2.4),
    "shifted": parametric_curve(1, 2.2, 0.9, 0.1),
    "raised": parametric_curve(2, 2.2, 0.9, 0.05, 0.02),
    "with a line": parametric_curve(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    "with two offsets": parametric_curve(4, 2.4, 0.9, 0.08, 0.07, 0.04, 0.01, 0.002),
}


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES.keys())
def test_every_kind_of_curve_as_little_cms(curve):
    profile = rgb_profile(curve=curve)
    expected = to_srgb(LEVELS, profile)
    found = to_srgb_16(DEEP, profile)
    assert found.dtype == np.uint16
    # Little CMS's 8-bit tables are coarse where sRGB's curve is steep.
    bright = expected > 40
    np.testing.assert_allclose(found[bright] / 257, expected[bright].astype(float), atol=1.5)
    np.testing.assert_allclose(found / 257, expected.astype(float), atol=4)


def test_as_the_formulas_have_it():
    fine = np.random.default_rng(1).integers(0, 65536, (300, 9, 3)).astype(np.uint16)
    gamma = 461 / 256  # representable in a profile
    expected = 257 * srgb_of_rgb(fine / 257, gamma=gamma)
    assert np.abs(to_srgb_16(fine, rgb_profile(gamma=gamma)) - expected).max() < 40  # of 65535


def test_srgb_changes_nothing():
    little_cms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert to_srgb_16(DEEP, little_cms) is None
    assert to_srgb_16(DEEP, rgb_profile(SRGB, curve=CURVES["with a line"])) is None


@pytest.mark.parametrize(
    "profile",
    [
        *(b"", b"no profile", rgb_profile()[:200], rgb_profile()[:140]),
        rgb_profile().replace(b"rTRC", b"????"),
        rgb_profile().replace(b"XYZ \0\0\0\0", b"XYZ ", 1),
        rgb_profile(curve=b"????" + bytes(8)),
        rgb_profile(curve=parametric_curve(7, 2.4)),
        rgb_profile().replace(b"desc", b"A2B0"),  # whose tables have precedence
        ink_profile(),
        rgb_profile()[:128] + b"\xff" * 400,
    ],
)
def test_what_cannot_be_used_is_none(profile):
    assert to_srgb_16(DEEP, profile) is None
