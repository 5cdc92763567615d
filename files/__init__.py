"""Files and folders: reading paths, writing and deleting safely. The lowest layer."""

import sys

from files.own_modules import OWN

sys.meta_path.append(OWN)  # in all our processes, also in the workers of a loader
