"""Networks that are named by their class, and made for a scale."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable

from torch import nn

NetworkCallable = Callable[[float], nn.Module]


def built(network: NetworkCallable, scale: float) -> nn.Module:
    """The network for a scale.

    Args:
        network: Makes it.
        scale: Factor by which it enlarges.

    Raises:
        ValueError: Its class does not take the scale as its first argument.
    """
    try:
        return network(scale)
    except TypeError as error:
        # Of the call itself, by the parser; one within the network's own code is a bug of that.
        *_, last = traceback.extract_tb(error.__traceback__)
        by_parser = "jsonargparse" in last.filename
        if not by_parser or not re.search(r"__init__\(\) takes .* given", str(error)):
            raise
        raise ValueError(
            f"model.init_args.network: {error}. The first argument of a network is the scale: "
            "def __init__(self, scale: float, ...), as docs/plugins/network.md shows"
        ) from error
