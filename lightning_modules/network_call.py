"""Build a network for a scale from its class."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable

from torch import nn

NetworkCallable = Callable[[float], nn.Module]


def built(network: NetworkCallable, scale: float) -> nn.Module:
    """Build the network for a scale.

    Args:
        network: Factory from the configuration.
        scale: Factor by which it enlarges.

    Raises:
        ValueError: If the first argument of its class is not the scale.
    """
    try:
        return network(scale)
    except TypeError as error:
        # Only errors of the parser's call: those within the network's code keep their traceback.
        *_, last = traceback.extract_tb(error.__traceback__)
        by_parser = "jsonargparse" in last.filename
        if not by_parser or not re.search(r"__init__\(\) takes .* given", str(error)):
            raise
        raise ValueError(
            f"model.init_args.network: {error}. The first argument of a network is the scale: "
            "def __init__(self, scale: float, ...), as docs/plugins/network.md shows"
        ) from error
