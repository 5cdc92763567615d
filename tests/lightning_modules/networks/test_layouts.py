"""Published networks have as many parameters as the released files, by the same names."""

from __future__ import annotations

import hashlib
from functools import partial

import pytest
import torch

import lightning_modules as lm
from lightning_modules.networks.autoencoders import resshift_vq
from lightning_modules.networks.latent_lpips import LatentDistance

F8 = (128, 256, 512, 512)
F16 = (128, 256, 512, 512, 512)
COMPACT = partial(lm.SRVGGNetCompact, 4, convolutions=32)

# Numbers of parameters and of tensors, and a digest of all names with their shapes: as they were
# when they had been compared with those of the released files.
LAYOUTS = {
    "EDSR x2": (partial(lm.EDSR, 2), 1_369_859, 76, "6ad3e4673c396d94"),
    "EDSR x4": (partial(lm.EDSR, 4), 1_517_571, 78, "241091aba1137989"),
    "IMDN x2": (partial(lm.IMDN, 2), 694_404, 92, "12acb5f5af882dd4"),
    "IMDN x4": (partial(lm.IMDN, 4), 715_176, 92, "ae0a166735450e4d"),
    "LIIF": (partial(lm.LIIF, 4), 1_567_299, 82, "8bcd6f46600265e0"),
    "MSRResNet x4": (partial(lm.MSRResNet, 4), 1_517_571, 74, "c5c607f53155773e"),
    "RRDBNet x4": (partial(lm.RRDBNet, 4), 16_697_987, 702, "9e49b67645e4977b"),
    "RRDBNet x2": (partial(lm.RRDBNet, 2), 16_703_171, 702, "d03cd47cc4efa2bf"),
    "compact": (COMPACT, 1_213_296, 101, "2f7dd2a036f75fa5"),
    "UNetDiscriminator": (lm.UNetDiscriminator, 4_376_897, 28, "82b052d605429bfc"),
    "LatentDiscriminator": (lm.LatentDiscriminator, 112_082_532, 519, "e8ef2d7fc8ca8f0c"),
    "PatchGAN": (lm.PatchGAN, 2_765_633, 13, "8a1f35a03b2b338e"),
    "NoisePredictor": (lm.NoisePredictor, 33_837_576, 164, "a5c49381a2130732"),
    "SwinUNet": (lm.SwinUNet, 118_593_583, 540, "7845eafe1065236b"),
    "BitwiseVAE f8": (partial(lm.BitwiseVAE, 14, F8), 81_624_209, 224, "678e40d409b426ba"),
    "BitwiseVAE f16": (partial(lm.BitwiseVAE, 32, F16), 110_118_051, 268, "fb44c9ce58dc8abb"),
    "ResShift's VQ": (resshift_vq, 55_322_782, 205, "5a17f3f0d3618dc7"),
    "Transformation": (lm.Transformation, 385_103_600, 950, "64da6d80797d3d00"),
    "LatentDistance": (LatentDistance, 14_716_736, 31, "6e62673b72ff000a"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_network_has_the_parameters_and_names_of_its_release(name):
    """Else the released file cannot be loaded any more."""
    make, *expected = LAYOUTS[name]
    with torch.device("meta"):
        network = make()
    lines = sorted(f"{key} {list(t.shape)}" for key, t in network.state_dict().items())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert [parameters, len(lines), digest] == expected, "\n".join(lines)
