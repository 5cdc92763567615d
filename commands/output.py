"""Logging and warnings: our own messages, without needless ones of the libraries."""

from __future__ import annotations

import logging
import warnings

from commands.world import claimed

OWN = ("commands", "lightning_modules", "datamodules", "degradations", "callbacks", "files")
# Warnings of the libraries that do not apply here, and the reason.
QUIET = (
    (".*does not have many workers.*", "data.init_args.workers is set on purpose"),
    (
        ".*ended before the epoch ended and your dataloader is not resumable.*",
        "the sample order resumes exactly",
    ),
    (".*Checkpoint directory .* exists and is not empty.*", "that is how a run is resumed"),
    (".*LightningCLI's args parameter is intended to run from within Python.*", "tests do"),
    (
        ".*Trying to infer the `batch_size` from an ambiguous collection.*",
        "nothing here is weighted by it",
    ),
    (".*It is recommended to use .self.log.*sync_dist=True.*", "metrics are gathered before"),
    (".*predict returned None if it was on purpose.*", "an unreadable image"),
    (".*Total length of .* across ranks is zero.*", "no validation images are configured"),
    (".*custom batch sampler .* for prediction.*", "ours yields every image once"),
    (".*will create .* worker processes in total.*", "`throughput` measures the workers"),
    (".*LeafSpec.* is deprecated.*", "Lightning's own"),
    (".*smaller than the logging interval.*", "steps are logged across epochs"),
    (r".*module\(s\) in eval mode at the start of training.*", "frozen parts stay in eval mode"),
    (".*instantiate_classes.* was deprecated.*", "Lightning's own"),
    (".*`local_dir_use_symlinks` argument is deprecated.*", "diffusers' own"),
)


def prepare_output() -> None:
    """Set up logging and warnings for a command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=False)
    for noisy in ("httpx", "PIL", "matplotlib", "fsspec", "urllib3", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    level = logging.INFO if claimed().is_first else logging.WARNING
    for name in OWN:
        logging.getLogger(name).setLevel(level)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertising)
    for message, _why in QUIET:
        warnings.filterwarnings("ignore", message=message)


def _no_advertising(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("💡")
