"""A hash of the content of all images of a dataset."""

from __future__ import annotations

import hashlib
import json

from cfp_cli.data.dataset import Dataset
from cfp_cli.data.folders import relative_name
from cfp_cli.foundation.files import sha256


def hash_images(dataset: Dataset) -> str:
    """Return the SHA-256, in hex, over the split, relative path, class and content of every image.

    It reads every file. `Dataset.fingerprint` reads none. That one has the sizes of the files instead, so it stays the
    same if an image is replaced by another one of the same size.
    """
    digest = hashlib.sha256()
    for split, items in sorted(dataset.splits.items()):
        for item in items:
            try:
                content = sha256(item.path)
            # Decoding reports the file.
            except OSError:
                content = ""
            fields = [split, relative_name(item.path, dataset.root), dataset.classes[item.label], content]
            digest.update(json.dumps(fields).encode())
    return digest.hexdigest()
