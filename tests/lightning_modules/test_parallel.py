"""What several processes can train, of any method."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from lightning_modules import RealESRGAN, Regression
from lightning_modules.parallel import networks, refuse_other_results


def check_before_training(method, strategy, processes=2):
    """As before the first step of a run on several processes; raises where it is refused."""
    method._trainer = SimpleNamespace(strategy=strategy, world_size=processes)
    refuse_other_results(method)


def regression(*layers):
    return Regression(1, nn.Sequential(nn.Conv2d(3, 3, 1), *layers))


# ------------------------------------------------------------------------------------------- FSDP


def parameter_of_the_method():
    method = regression()
    method.gain = nn.Parameter(torch.ones(1))
    return method


def parameter_in_a_list():
    method = regression()
    method.trained_parts = ("network", "gains")
    method.gains = nn.ParameterList([torch.ones(3)])
    return method


def parameter_without_dimensions():
    method = regression()
    method.network.gain = nn.Parameter(torch.ones(()))
    return method


def parameter_of_two_networks():
    method = regression()
    method.trained_parts = ("network", "other")
    method.other = nn.Conv2d(3, 3, 1)
    method.other.weight = method.network[0].weight
    return method


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (parameter_of_the_method, "gain"),
        (parameter_in_a_list, "gains.0"),
        (parameter_without_dimensions, "network.gain"),
        (parameter_of_two_networks, "other.weight"),
    ],
)
def test_a_parameter_that_fsdp_would_not_average_is_refused(make, name):
    check_before_training(make(), DDPStrategy())  # which averages it
    with pytest.raises(ValueError, match=f"and {name} of Regression .* to ddp"):
        check_before_training(make(), ModelParallelStrategy())


def test_a_frozen_parameter_outside_the_networks_is_not_refused_under_fsdp():
    method = parameter_of_the_method()
    method.gain.requires_grad_(False)
    check_before_training(method, ModelParallelStrategy())


def test_networks_in_containers_are_sharded_one_by_one():
    """`networks` yields what FSDP shards: the outermost modules that are called.

    They have a `forward`, or say in `called` by which methods they are called instead.
    """
    one = nn.Conv2d(3, 3, 1)
    two = nn.Conv2d(3, 3, 1)
    three = nn.Conv2d(3, 3, 1)
    method = nn.Module()
    method.first = one
    method.rest = nn.ModuleList([nn.ModuleDict({"a": two}), three])
    method.encoder = nn.ModuleDict({"a": nn.Conv2d(3, 3, 1)})
    method.encoder.called = ("encode",)
    assert list(networks(method)) == [one, two, three, method.encoder]


# ------------------------------------------------------------------- statistics of normalisation


def with_a_discriminator():
    return RealESRGAN(1, nn.Identity(), discriminator=nn.Sequential(nn.BatchNorm2d(3)))


@pytest.mark.parametrize("strategy", [DDPStrategy, ModelParallelStrategy])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: regression(nn.BatchNorm2d(3)), "network.1"),
        (lambda: regression(nn.BatchNorm2d(3, track_running_stats=False)), "network.1"),
        (lambda: regression(nn.InstanceNorm2d(3, track_running_stats=True)), "network.1"),
        (lambda: regression(nn.SyncBatchNorm(3)), "network.1"),
        (with_a_discriminator, "discriminator.0"),
    ],
    ids=["batch", "batch, untracked", "instance, tracked", "sync on a CPU", "discriminator"],
)
def test_a_norm_with_statistics_of_each_process_is_refused(make, name, strategy):
    check_before_training(make(), strategy(), processes=1)
    with pytest.raises(ValueError, match=f"{name} is .*trainer.sync_batchnorm to true"):
        check_before_training(make(), strategy())


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm2d(3, affine=True), nn.GroupNorm(1, 3), nn.BatchNorm2d(3).eval()],
    ids=["instance: by image", "group: by image", "batch, with statistics that stay"],
)
def test_a_norm_that_is_the_same_on_each_process_is_accepted(norm):
    check_before_training(regression(norm), DDPStrategy())


def test_synchronised_batch_norms_train_on_gpus():
    method = regression(nn.SyncBatchNorm(3))
    method._device = torch.device("cuda:0")
    check_before_training(method, DDPStrategy())
