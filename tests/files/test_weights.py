"""Reading weights: every kind of file, and no code in any of them."""

import hashlib
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.serialization import set_crc32_options

from files.weights import load_strictly, read_weights
from tests.make import assert_near

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}
OLD = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
NORM = {"a.running_mean": torch.ones(2), "a.num_batches_tracked": torch.tensor(7)}


def below(prefix, tensors):
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


MODULE = below("module", TENSORS)
FLAT = below("model", OLD)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.pth"


def assert_tensors(path, expected=TENSORS):
    assert_near(read_weights(path).tensors, expected, within=0)


# -------------------------------------------------------------------------------- kinds of files


FILES = {
    "flat": TENSORS,
    "BasicSR": {"params": TENSORS},
    "state_dict": {"state_dict": TENSORS, "epoch": 3},
    "LIIF": {"model": {"name": "liif", "args": {}, "sd": TENSORS}},
    "model": {"model": TENSORS, "optimizer": {}},
    "a tokenizer": {"vae": TENSORS, "discriminator": {}},
    "other things beside": {**TENSORS, "epoch": 3, 7: torch.ones(1)},
    "parameters": {k: nn.Parameter(v) for k, v in TENSORS.items()},
    "no averages": {"params": TENSORS, "params_ema": {}},
    "averages that are none": {"params": TENSORS, "ema": None},
    "a decay alone": {"params": TENSORS, "ema": {"decay": 0.9}},
    "averaged losses": {"params": TENSORS, "ema_losses": [torch.ones(())]},
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_weights_are_found_in_files_of_all_kinds(path, content):
    torch.save(content, path)
    weights = read_weights(path)
    assert_near(weights.tensors, TENSORS, within=0)
    assert weights.model is None
    assert weights.averages == ""
    assert weights.name == str(path)


def test_an_index_of_several_files_is_read_if_all_of_them_are_there(tmp_path):
    save_file({"a.weight": TENSORS["a.weight"]}, tmp_path / "0.safetensors")
    save_file({"a.bias": TENSORS["a.bias"]}, tmp_path / "1.safetensors")
    places = {"a.weight": "0.safetensors", "a.bias": "1.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))

    assert_tensors(index)
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"1\.safetensors does not exist"):
        read_weights(index)


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"weight_map": []}'])
def test_a_damaged_index_is_named(tmp_path, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ValueError, match=f"{index} is no index of weights"):
        read_weights(index)


# --------------------------------------------------------------------------------------- averages


DECAY = {"decay": torch.ones(1)}  # of averages, among which some authors store it
LIGHTNING = {"pytorch-lightning_version": "2"}
OUR_CALLBACKS = {"EMA": {"weights": TENSORS}}
AVERAGED = {
    "a group": ({"params": OLD, "params_ema": TENSORS}, "params_ema"),
    "before an optimiser": ({"model": OLD, "ema": TENSORS, "opt": {"state": {0: DECAY}}}, "ema"),
    "a prefix of DDP": ({"state_dict": OLD, "state_dict_ema": MODULE}, "state_dict_ema"),
    "a group in a group": ({"model": OLD, "model_ema": {"module": TENSORS}}, "model_ema"),
    "both in a group": ({"trainer": {"gpt_fsdp": OLD, "gpt_ema_fsdp": TENSORS}}, "gpt_ema_fsdp"),
    "a decay beside": ({"model": OLD, "ema": {**DECAY, "shadow": TENSORS}}, "ema"),
    "polyak": ({"model": OLD, "polyak": TENSORS}, "polyak"),
    "swa": ({"swa": {"n_averaged": torch.tensor(3), **MODULE}, "model": OLD}, "swa"),
    "a prefix": (OLD | below("model_ema", TENSORS | DECAY), "model_ema"),
    "averages alone": ({"state_dict": below("ema_model", TENSORS) | DECAY}, "ema_model"),
    "Lightning's": ({**LIGHTNING, "state_dict": OLD, "ema_state": TENSORS}, "ema_state"),
    "our own": ({"model": "a.Run", "state_dict": OLD, "callbacks": OUR_CALLBACKS}, "EMA"),
}


@pytest.mark.parametrize(("content", "group"), AVERAGED.values(), ids=AVERAGED)
def test_averages_are_used_whatever_their_group_is_called(path, caplog, content, group):
    """The authors' published results are of averages (TENSORS), not of the last step (OLD)."""
    caplog.set_level("INFO")
    torch.save(content, path)
    assert_tensors(path)
    read_weights(path).log()
    assert caplog.messages == [f"weights: {path}, its averages ({group})"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"model": OLD, "ema_a": TENSORS, "ema_b": OLD}, id="groups"),
        pytest.param(FLAT | below("ema_a", TENSORS) | below("ema_b", OLD), id="prefixes"),
    ],
)
def test_the_first_of_several_averages_is_used(path, caplog, content):
    torch.save(content, path)
    assert_tensors(path)
    assert f"{path} has several averages: ema_a is used, not ema_b;" in caplog.text


def test_buffers_that_are_not_averaged_are_the_trained_ones(path):
    torch.save({"model": OLD | NORM, "ema": TENSORS}, path)
    assert_tensors(path, TENSORS | NORM)


def test_averages_without_names_are_refused(path):
    averages = {"shadow_params": [*TENSORS.values()], "decay": 0.9}
    torch.save({"model": OLD, "ema": averages}, path)
    with pytest.raises(ValueError, match="averages without names in ema"):
        read_weights(path)


def test_averages_of_litema_whose_names_have_no_dots_are_used(path):
    """LitEma of latent diffusion keeps them as buffers, in whose names torch allows no dot."""
    averages = {name.replace(".", ""): value for name, value in TENSORS.items()}
    vae = {"vae.b": torch.ones(1)}
    torch.save({"state_dict": FLAT | vae | below("model_ema", averages)}, path)
    assert_tensors(path, below("model", TENSORS) | vae)


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param(TENSORS | {"ema.conv.weight": torch.ones(2)}, id="of no tensor here"),
        pytest.param(below("avg_branch", TENSORS) | below("max_branch", OLD), id="pooling"),
    ],
)
def test_a_part_of_a_network_called_ema_or_avg_is_no_average(path, tensors):
    torch.save(tensors, path)
    assert_tensors(path, tensors)


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("weight", "word"),
    [
        (torch.tensor([[1.0, torch.nan]]), "NaN"),
        (torch.full((1, 2), 70000.0).half(), "infinity"),  # float16 ends at 65504
        (torch.tensor([[0.0, -torch.inf]]), "infinity"),
        (torch.ones(1, 2, dtype=torch.int64), "int64"),
        (torch.ones(1, 2, dtype=torch.complex64), "complex64"),
        (torch.ones(1, 2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(1, 2).to_sparse(), "sparse"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(weight, word):
    layer = nn.Linear(2, 1)
    before = layer.weight.clone()
    with pytest.raises(ValueError, match=rf"w\.pth .*{word}"):
        load_strictly(layer, {**layer.state_dict(), "weight": weight}, "w.pth")
    assert torch.equal(layer.weight, before)


def test_buffers_may_be_infinite_or_integers():
    """Such as an attention's mask, an index, or a count of batches; weights may be in float16."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    network.register_buffer("mask", torch.zeros(2, 2).fill_diagonal_(-torch.inf))
    network.register_buffer("index", torch.tensor([0, 1]))
    state = {name: value.clone() for name, value in network.half().state_dict().items()}
    state["0.weight"] += 1  # by which loading is seen

    load_strictly(network, state, "w.pth")

    assert_near(network.state_dict(), state, within=0)


@pytest.mark.parametrize("name", ["w.ckpt", "w.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02}q", bytes(100), b"\x89PNG\r\n\x1a\n"],
    ids=["empty", "text", "half a zip", "half a pickle", "zeros", "an image"],
)
def test_a_corrupt_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is corrupt or no weights file") as caught:
        read_weights(tmp_path / name)
    assert "weights_only" not in str(caught.value)  # torch's advice to load it all the same


def test_a_group_that_contains_itself_is_refused(path):
    group = {}
    group["group"] = group
    torch.save({"params": group}, path)
    with pytest.raises(ValueError, match=r"w\.pth has a group that contains itself"):
        read_weights(path)


@pytest.mark.parametrize(("save", "name"), [(torch.save, "w.pth"), (save_file, "w.safetensors")])
def test_a_file_that_contradicts_the_checksum_beside_it_is_refused(tmp_path, save, name):
    save(TENSORS, tmp_path / name)
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    checksum = tmp_path / f"{name}.sha256"
    # Two ways of writing a right checksum, and a file of another meaning, which says nothing.
    for text in (digest, f"{digest.upper()} *{name}", "no digest"):
        checksum.write_text(text)
        read_weights(tmp_path / name)

    checksum.write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        read_weights(tmp_path / name)


def test_a_file_without_checksums_in_its_zip_is_read(path):
    set_crc32_options(False)  # of torch.save
    torch.save(TENSORS, path)
    set_crc32_options(True)
    assert_tensors(path)


class Bomb:
    """Makes a folder when it is unpickled, which shows that code ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_is_refused_and_not_run(path, tmp_path):
    torch.save({"a": torch.ones(1), "x": Bomb(tmp_path / "run")}, path)
    with pytest.raises(ValueError, match=r"w\.pth holds \S*mkdir, and loading .* run code"):
        read_weights(path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "run")))
    with pytest.raises(ValueError, match=r"plain\.pth"):
        read_weights(tmp_path / "plain.pth")
    assert not (tmp_path / "run").exists()
