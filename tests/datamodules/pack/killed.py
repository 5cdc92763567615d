"""The beginning of programs that are killed before or after a step of the packer."""

STEP = """
import os, pathlib, signal, sys, tarfile
import webdataset
from PIL import Image
from datamodules.pack import __main__ as pack

Image.init(), webdataset.TarWriter  # else each fork would import them

def step(function):
    def wrapped(*arguments, **options):
        global left
        for _ in "before", "after":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options) if _ == "before" else result
        return result
    return wrapped
"""
