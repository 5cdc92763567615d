"""Reading weights: every kind of file, and no code in any of them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_modules.weights import read_file, read_weights

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_tensors(path: Path, expected: dict[str, torch.Tensor] | None = None) -> None:
    weights = read_weights(path)
    expected = TENSORS if expected is None else expected
    assert weights.tensors.keys() == expected.keys()
    assert all(torch.equal(weights.tensors[name], expected[name]) for name in expected)


class TestKinds:
    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(TENSORS, id="flat"),
            pytest.param({"params": TENSORS}, id="BasicSR"),
            pytest.param({"params": {"old": torch.ones(1)}, "params_ema": TENSORS}, id="its EMA"),
            pytest.param({"state_dict": TENSORS, "epoch": 3}, id="state_dict"),
            pytest.param({"model": {"name": "liif", "args": {}, "sd": TENSORS}}, id="LIIF"),
            pytest.param({"model": TENSORS, "optimizer": {}}, id="model"),
            pytest.param({"vae": TENSORS, "discriminator": {}}, id="a tokenizer"),
            pytest.param(
                {"trainer": {"gpt_fsdp": {"old": torch.ones(1)}, "gpt_ema_fsdp": TENSORS}},
                id="Infinity's trainer",
            ),
            pytest.param({**TENSORS, "epoch": 3, 7: torch.ones(1)}, id="other things beside"),
            pytest.param({k: nn.Parameter(v) for k, v in TENSORS.items()}, id="parameters"),
        ],
    )
    def test_official(self, tmp_path, content):
        path = saved(content, tmp_path / "w.pth")
        assert_tensors(path)
        assert read_weights(path).model is None
        assert read_weights(str(path)).name == str(path)

    def test_safetensors(self, tmp_path):
        save_file(TENSORS, tmp_path / "w.safetensors")
        assert_tensors(tmp_path / "w.safetensors")
        assert read_weights(tmp_path / "w.safetensors").model is None

    def test_an_index_of_several(self, tmp_path):
        names = list(TENSORS)
        for n, part in enumerate((names[:1], names[1:])):
            save_file({name: TENSORS[name] for name in part}, tmp_path / f"{n}.safetensors")
        index = tmp_path / "model.safetensors.index.json"
        places = {name: f"{min(n, 1)}.safetensors" for n, name in enumerate(names)}
        index.write_text(json.dumps({"weight_map": places}))
        assert_tensors(index)
        (tmp_path / "1.safetensors").unlink()
        with pytest.raises(
            FileNotFoundError, match=r"names 1\.safetensors, which is not beside it"
        ):
            read_weights(index)
        index.write_text("{}")
        with pytest.raises(ValueError, match="is no index of weights"):
            read_weights(index)

    def test_ours(self, tmp_path):
        content = {
            "pytorch-lightning_version": "2.6",
            "state_dict": TENSORS,
            "model": "my.Model",
            "callbacks": {},
        }
        path = saved(content, tmp_path / "w.ckpt")
        assert_tensors(path)
        assert (read_weights(path).model, read_weights(path).name) == ("my.Model", str(path))

    def test_ours_with_averages(self, tmp_path):
        average = {"a.weight": torch.full((2, 3), 9.0)}
        content = {
            "pytorch-lightning_version": "2.6",
            "state_dict": TENSORS,
            "model": "my.Model",
            "callbacks": {"EMA": {"weights": average, "updates": 3}},
        }
        path = saved(content, tmp_path / "w.ckpt")
        assert_tensors(path, {**TENSORS, **average})
        assert read_weights(path).name == f"{path} (EMA)"

    def test_ours_with_averages_that_never_began(self, tmp_path):
        content = {
            "pytorch-lightning_version": "2.6",
            "state_dict": TENSORS,
            "callbacks": {"EMA": {}},
        }
        assert_tensors(saved(content, tmp_path / "w.ckpt"))

    def test_another_lightning_programs(self, tmp_path):
        content = {"pytorch-lightning_version": "1.9", "state_dict": TENSORS, "epoch": 1}
        path = saved(content, tmp_path / "w.ckpt")
        assert_tensors(path)
        assert read_weights(path).model is None

    def test_the_old_format_of_torch(self, tmp_path):
        torch.save(TENSORS, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
        assert_tensors(tmp_path / "w.pth")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestBadFiles:
    def test_a_missing_one(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"no weights at .*w\.ckpt: set model\.init_args\.weights"
        ):
            read_weights(tmp_path / "w.ckpt")
        with pytest.raises(FileNotFoundError, match="no weights"):
            read_weights(tmp_path)

    @pytest.mark.parametrize("name", ["w.ckpt", "w.pth", "w.safetensors"])
    @pytest.mark.parametrize(
        "content",
        [b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02}q", bytes(100), b"\x89PNG\r\n\x1a\n"],
        ids=["empty", "text", "half a zip", "half a pickle", "zeros", "an image"],
    )
    def test_a_corrupt_one(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is corrupt or no weights file") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)  # torch's advice to load it all the same

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_a_truncated_one(self, tmp_path, share):
        path = saved({k: v.repeat(50, 1) for k, v in TENSORS.items()}, tmp_path / "w.ckpt")
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=r"w\.ckpt is corrupt or no weights file: \S"):
            read_weights(path)

    def test_code_is_refused_and_not_run(self, tmp_path):
        path = saved({"a": torch.ones(1), "x": Bomb(tmp_path / "run")}, tmp_path / "w.ckpt")
        with pytest.raises(ValueError, match=r"w\.ckpt holds \S*mkdir, and loading .* run code"):
            read_weights(path)
        (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "run")))
        with pytest.raises(ValueError, match=r"plain\.pth"):
            read_weights(tmp_path / "plain.pth")
        assert not (tmp_path / "run").exists()

    def test_a_whole_module_is_refused(self, tmp_path):
        path = saved(nn.Linear(2, 2), tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"holds torch\.nn\.modules\.linear\.Linear, and"):
            read_weights(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([torch.ones(1)], r"w\.pth holds a list, not tensors by name"),
            (torch.ones(1), r"w\.pth holds a Tensor, not tensors by name"),
            ({"epoch": 3}, r"holds no tensors by name; its keys are \['epoch'\]"),
            ({"params": {}}, r"holds no tensors by name; its keys are \[\]"),
        ],
    )
    def test_something_else(self, tmp_path, content, message):
        with pytest.raises(ValueError, match=message):
            read_weights(saved(content, tmp_path / "w.pth"))

    def test_a_file_that_may_not_be_read(self, tmp_path, monkeypatch):
        def denied(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        path = saved(TENSORS, tmp_path / "w.pth")
        monkeypatch.setattr(torch, "load", denied)
        with pytest.raises(ValueError, match="Permission denied"):
            read_file(path)
