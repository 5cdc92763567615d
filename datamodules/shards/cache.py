"""Disk cache of remote shards by webdataset's ``FileCache``, one for all processes of a node."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from webdataset.cache import FileCache
from webdataset.gopen import gopen_schemes

from datamodules.shards.remote import SCHEMES, RemoteShard, hide_secrets, open_remote
from files.owned import remove_file

log = logging.getLogger(__name__)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
RECENT = 600.0  # seconds in which a shard that was removed is not downloaded again

# By default webdataset runs curl and gsutil, knows no s3://, and begins again after a failure.
gopen_schemes.update(dict.fromkeys(SCHEMES, open_remote))


class ShardCache:
    """Remote shards on this disk.

    webdataset downloads a shard, gives it its name when it is complete, and removes the shards
    that were not used for the longest time before it downloads another one. Shards that are being
    downloaded come on top of the limit.

    Args:
        folder: Where the cache is made.
        limit: Total size in bytes; 0 for none.
        downloads: Number of shards that are downloaded ahead at a time.
    """

    def __init__(self, folder: Path, limit: int, downloads: int = 2) -> None:
        # webdataset removes any old file of its folder, so that folder is ours alone.
        self.folder, self.locks = folder / "enlarger-shards", folder / "enlarger-locks"
        self.limit, self.downloads = limit, downloads
        self.folder.mkdir(parents=True, exist_ok=True)
        self.locks.mkdir(exist_ok=True)
        self._used: dict[str, float] = {}  # times at which this process last used shards
        self._ahead: Iterator[RemoteShard] = iter(())
        self._warned = False

    def fetch(self, shard: RemoteShard) -> Path | None:
        """Return a shard on this disk, downloaded if it is missing.

        Returns:
            None if there is no room for it. The caller then reads its samples from the server.

        Raises:
            RemoteError: If the download fails.
        """
        path = self.folder / shard.name
        if not path.exists():
            last = self._used.get(shard.name)
            # Other shards needed its room. To download it for each sample would take for ever.
            is_removed = last is not None and time.monotonic() - last < RECENT
            if shard.size > self.limit or is_removed or not self._download(shard, path):
                self._warn_once(shard)
                return None
        self._used[shard.name] = time.monotonic()
        with suppress(OSError):  # it is another user's, or was removed meanwhile
            os.utime(path)  # webdataset removes files by the time of their last change
        return path

    def _download(self, shard: RemoteShard, path: Path) -> bool:
        """Download a shard, unless another process does; return False if the disk is full."""
        cache = FileCache(
            str(self.folder),
            url_to_name=lambda _: shard.name,
            validator=None,
            cache_size=self.limit,
            cache_cleanup_interval=0,
        )
        with FileLock(self.locks / f"{shard.name}.lock"):
            try:
                cache.get_file(shard.url)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                # As if it had been removed, so it is read remotely for a while.
                self._used[shard.name] = time.monotonic()
                return False
            finally:
                remove_file(path.with_name(f"{path.name}.temp{os.getpid()}"))  # webdataset's
        return True

    def _warn_once(self, shard: RemoteShard) -> None:
        """Log that the cache is too small, the first time that it is."""
        if not self._warned:
            self._warned = True
            log.warning(
                "the cache %s of %d bytes, or its disk, is smaller than what is read at the same "
                "time: samples of %s, and of other shards, are read from the server one by one: "
                "raise Shards.cache_size, or lower data.init_args.streams",
                self.folder,
                self.limit,
                hide_secrets(shard.url),
            )

    def read_ahead(self, shards: Sequence[RemoteShard]) -> None:
        """Download shards in the background, instead of those of the previous call.

        Args:
            shards: The shards, soonest first.
        """
        self._ahead = iter(shards)
        for _ in range(self.downloads):
            # Daemons, so that a download of minutes does not delay the end of the process.
            threading.Thread(
                target=self._fetch_from_queue, args=(self._ahead,), daemon=True
            ).start()

    def _fetch_from_queue(self, shards: Iterator[RemoteShard]) -> None:
        """Download shards until there are none, or a newer queue replaces this one."""
        for shard in shards:  # which the threads share
            if shards is not self._ahead:
                return
            with suppress(OSError):  # its reader will get the same error
                self.fetch(shard)
