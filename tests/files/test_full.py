"""Files that cannot be written or read: the error names them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from files.weights import read_weights
from tests.conftest import REPO

FULL = """
import resource, signal, sys
from pathlib import Path
from files.owned import write_whole

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
write_whole(Path(sys.argv[1]), "x" * 100)
"""


def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", FULL, path]
    ended = subprocess.run(command, cwd=REPO, text=True, capture_output=True)
    assert ended.stderr.endswith(f"File too large: '{path}'\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"weight_map": []}'])
def test_a_damaged_index_of_weights_is_named(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ValueError, match=f"{index} is no index of weights"):
        read_weights(index)


def test_a_group_of_weights_that_contains_itself(tmp_path: Path) -> None:
    group: dict[str, object] = {}
    group["group"] = group
    torch.save({"params": group}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth has a group that contains itself"):
        read_weights(tmp_path / "w.pth")
