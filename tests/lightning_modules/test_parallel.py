"""What several processes can train, of any method."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from lightning_modules.backbone.space import PCASpace
from lightning_modules.first_stage.autoencoder import Autoencoder
from lightning_modules.methods.real_esrgan import RealESRGAN
from lightning_modules.methods.regression import Regression
from lightning_modules.parallel import networks, refuse_other_results


def on(strategy, method, processes=2):
    """Return a method with a trainer of several processes."""
    method._trainer = SimpleNamespace(strategy=strategy, world_size=processes)
    return method


def regression(*layers):
    return Regression(1, nn.Sequential(nn.Conv2d(3, 3, 1), *layers))


# ------------------------------------------------------------------------------------------- FSDP


def of_its_own(value):
    method = regression()
    method.gain = nn.Parameter(torch.tensor(value))
    return method


def in_a_list():
    method = regression()
    method.trained_parts = ("network", "gains")
    method.gains = nn.ParameterList([torch.ones(3)])
    return method


def one_number():
    method = regression()
    method.network.gain = nn.Parameter(torch.ones(()))
    return method


def in_two_networks():
    method = regression()
    method.trained_parts = ("network", "other")
    method.other = nn.Conv2d(3, 3, 1)
    method.other.weight = method.network[0].weight
    return method


def block_twice():
    block = nn.Sequential(nn.Conv2d(3, 3, 1))
    return regression(block, block)


REFUSED = {
    "gain": lambda: of_its_own([1.0]),
    "gain of one number": lambda: of_its_own(1.0),
    "gains.0": in_a_list,
    "network.gain": one_number,
    "other.weight": in_two_networks,
    "network.2.0.weight": block_twice,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_parameter_that_fsdp_would_not_average_is_refused(name):
    method = on(ModelParallelStrategy(), REFUSED[name]())
    with pytest.raises(ValueError, match=f"and {name.split()[0]} of Regression .* to ddp"):
        refuse_other_results(method)


@pytest.mark.parametrize("name", REFUSED)
def test_ddp_averages_all_of_them(name):
    refuse_other_results(on(DDPStrategy(), REFUSED[name]()))


def test_fsdp_leaves_what_does_not_train():
    method = regression()
    method.gain = nn.Parameter(torch.ones(()), requires_grad=False)
    refuse_other_results(on(ModelParallelStrategy(), method))


def test_networks_in_containers_are_sharded_one_by_one():
    one, two, three = (nn.Conv2d(3, 3, 1) for _ in range(3))
    method = nn.Module()
    method.first = one
    method.rest = nn.ModuleList([nn.ModuleDict({"a": two}), three])
    assert [*networks(method)] == [one, two, three]


# ---------------------------------------------------------------------------------- running values


def adversarial(network, discriminator=None):
    return RealESRGAN(1, network, discriminator=discriminator)


NORMED = {
    "network.1": lambda: regression(nn.BatchNorm2d(3)),
    "network.1 without affine": lambda: regression(nn.BatchNorm2d(3, affine=False)),
    "network.1 of batches": lambda: regression(nn.BatchNorm2d(3, track_running_stats=False)),
    "network.1 of images": lambda: regression(nn.InstanceNorm2d(3, track_running_stats=True)),
    "network.1 on a CPU": lambda: regression(nn.SyncBatchNorm(3)),
    "network.0": lambda: adversarial(nn.Sequential(nn.BatchNorm2d(3))),
    "discriminator.0": lambda: adversarial(nn.Identity(), nn.Sequential(nn.BatchNorm2d(3))),
    "space.vae.standard": lambda: Autoencoder(1, PCASpace(latent=4)),
}


@pytest.mark.parametrize("strategy", [DDPStrategy, ModelParallelStrategy])
@pytest.mark.parametrize("name", NORMED)
def test_a_norm_with_statistics_of_each_process_is_refused(name, strategy):
    method = on(strategy(), NORMED[name]())
    with pytest.raises(ValueError, match=f"{name.split()[0]} is .*trainer.sync_batchnorm to true"):
        refuse_other_results(method)


@pytest.mark.parametrize("name", NORMED)
def test_one_process_trains_it(name):
    refuse_other_results(on(DDPStrategy(), NORMED[name](), processes=1))


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm2d(3, affine=True), nn.GroupNorm(1, 3), nn.BatchNorm2d(3).eval()],
)
def test_other_norms_train_on_several_processes(norm):
    refuse_other_results(on(DDPStrategy(), regression(norm)))


def test_batch_norms_that_synchronise_train_on_gpus():
    method = on(DDPStrategy(), regression(nn.SyncBatchNorm(3)))
    method._device = torch.device("cuda:0")
    refuse_other_results(method)
