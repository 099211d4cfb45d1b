"""Two fonts in a folder: 40 images of words to train on and 80 to test, the smallest data set of typefaces."""

from pathlib import Path
from tempfile import TemporaryDirectory

import fontpkg

CLASSES = ["lora", "quicksand"]

_folder = TemporaryDirectory()  # removed when the process ends
for name in CLASSES:
    (Path(_folder.name) / f"{name}.ttf").symlink_to(fontpkg.path(name))

FOLDER = _folder.name
"""The value of ``data`` in `Settings`."""
