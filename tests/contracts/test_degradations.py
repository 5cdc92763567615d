"""Every Stage and Degradation of the package, and of `--plugin`, keeps its contract."""

from __future__ import annotations

import functools

import pytest

from degradations.base import Degradation, Stage
from degradations.bicubic import Bicubic
from degradations.compose import Mixture, OneOf, Shuffled, Sometimes
from degradations.pipeline import Pipeline
from degradations.recipes.second_order import RealESRGANLight
from degradations.stages.adapters import Albumentations, KorniaAugmentation
from degradations.stages.noise import GaussianNoise
from tests.contracts import discovery
from tests.contracts.degradation_contract import DegradationContract, StageContract, build


def motion_blur():
    import albumentations  # seconds, for this one test

    return Albumentations(albumentations.MotionBlur(p=0.7))


def jiggle():
    from kornia.augmentation import ColorJiggle

    return KorniaAugmentation(ColorJiggle(0.2, 0.2, 0.2, 0.1, p=0.7))


# How to make classes that require arguments (beside the scale).
STAGES = {
    KorniaAugmentation: jiggle,
    Albumentations: motion_blur,
    Sometimes: lambda: Sometimes(GaussianNoise()),
    OneOf: lambda: OneOf([GaussianNoise(), GaussianNoise(sigma=(40.0, 50.0))]),
    Shuffled: lambda: Shuffled([GaussianNoise(), GaussianNoise(sigma=(40.0, 50.0))]),
}
DEGRADATIONS = {
    Mixture: lambda scale: Mixture(scale, [RealESRGANLight, Bicubic], [0.7, 0.3]),
    Pipeline: lambda scale: Pipeline(scale, [GaussianNoise(), GaussianNoise(sigma=(5.0, 5.0))]),
}


def pytest_generate_tests(metafunc):
    discovery.parametrize(metafunc, "stage_class", Stage, "degradations")
    discovery.parametrize(metafunc, "degradation_class", Degradation, "degradations")


class TestStages(StageContract):
    @pytest.fixture
    def stage(self, stage_class):
        return STAGES.get(stage_class, functools.partial(build, stage_class))()


class TestDegradations(DegradationContract):
    @pytest.fixture
    def make(self, degradation_class):
        return DEGRADATIONS.get(degradation_class) or functools.partial(build, degradation_class)
