"""A torchvision for another version of torch."""

from __future__ import annotations

from pathlib import Path

ABOUT = """Metadata-Version: 2.1
Name: torchvision
Version: 0.20.1
Requires-Dist: torch (==2.5.1)
"""
# As the real one, it registers operators that this torch does not have.
CODE = """import torch


@torch.library.register_fake("torchvision::nms")
def nms(boxes, scores, threshold): ...
"""


def fake_torchvision(folder: Path, code: str = CODE) -> None:
    """Write it into a folder of ``sys.path``."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(code)
    (folder / "torchvision-0.20.1.dist-info").mkdir()
    (folder / "torchvision-0.20.1.dist-info" / "METADATA").write_text(ABOUT)
