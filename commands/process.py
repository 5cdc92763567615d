"""The process: logging and warnings, memory allocator, open files.

Imports only the standard library, for `check`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import warnings

from commands.world import claimed
from files.paths import expand_path

OWN = ("commands", "lightning_modules", "datamodules", "degradations", "callbacks", "files")

# Warnings of the libraries that do not apply here, and the reason.
QUIET = (
    ".*does not have many workers.*",  # data.init_args.workers is set on purpose
    ".*ended before the epoch ended and your dataloader is not resumable.*",  # it resumes exactly
    ".*Checkpoint directory .* exists and is not empty.*",  # that is how a run is resumed
    ".*Trying to infer the `batch_size` from an ambiguous collection.*",  # no mean is weighted here
    ".*It is recommended to use .self.log.*sync_dist=True.*",  # metrics are gathered before
    ".*predict returned None if it was on purpose.*",  # an unreadable image
    ".*Total length of .* across ranks is zero.*",  # no validation images are configured
    ".*custom batch sampler .* for prediction.*",  # ours yields every image once
    ".*will create .* worker processes in total.*",  # they are set on purpose
    ".*LeafSpec.* is deprecated.*",  # Lightning's own
    ".*smaller than the logging interval.*",  # steps are logged across epochs
    r".*module\(s\) in eval mode at the start of training.*",  # frozen parts stay in eval mode
    ".*instantiate_classes.* was deprecated.*",  # Lightning's own
    ".*meshgrid: in an upcoming release.*",  # networks of spandrel
    ".*could be decompression bomb.*",  # twice as many pixels are the limit
    ".*`local_dir_use_symlinks` argument is deprecated.*",  # diffusers' own
)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's parameters, from malloc.h
_LARGEST = 32 << 20  # bytes; glibc before 2.35 takes no larger threshold for maps
_LARGEST_PHOTOGRAPH = 1 << 30
MOST = 1 << 16  # nothing here needs more, even if the system has no limit


def prepare_output() -> None:
    """Set up logging and warnings for a command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=False)
    for noisy in ("httpx", "PIL", "matplotlib", "fsspec", "urllib3", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    level = logging.INFO if claimed().is_first else logging.WARNING
    for name in OWN:
        logging.getLogger(name).setLevel(level)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)


def keep_freed_memory(predicts: bool = False) -> None:
    """Make the C library keep the memory of freed tensors for those of the next step.

    By default glibc returns it to the kernel, which clears each page when it is used again: on a
    CPU that costs a third of a step on small images. Forked workers inherit the setting. No effect
    if the user has set ``MALLOC_TRIM_THRESHOLD_`` or ``MALLOC_MMAP_THRESHOLD_``, or with other C
    libraries.

    Args:
        predicts: Keep also the large tensors of photographs, which take a third of the time less;
            training, whose tensors differ from step to step, would need more memory.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # Setting one alone would turn off glibc's adaptation and leave the other small.
    is_set = predicts and mallopt(_MMAP_THRESHOLD, _LARGEST_PHOTOGRAPH)
    if is_set or mallopt(_MMAP_THRESHOLD, _LARGEST):
        mallopt(_TRIM_THRESHOLD, 1 << 30)


def keep_compiled_code() -> None:
    """Let torch.compile find its code again in a later start, or on another process.

    In ``$ENLARGER_CACHE``, by default ``~/.cache/enlarger``. No effect if the user has set
    ``TORCHINDUCTOR_CACHE_DIR``.
    """
    folder = expand_path(os.environ.get("ENLARGER_CACHE") or "~/.cache/enlarger", "ENLARGER_CACHE")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(folder, "compiled"))


def raise_open_files_limit() -> None:
    """Raise the limit of open files, for this process and its children, to the system's maximum.

    Systems start with a low limit, mostly 1,024, for old programs that cannot handle more, and let
    each process raise it. The limit is never lowered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard < 0 else min(hard, MOST)
    if 0 <= soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit that it hides
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
