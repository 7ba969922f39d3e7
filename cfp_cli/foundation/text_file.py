"""Read text files that users write: UTF-8, or UTF-16 and UTF-32 with the mark that programs of Windows add."""

from __future__ import annotations

import codecs
from pathlib import Path

# UTF-32 comes first: its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_user_text(path: Path) -> str:
    """Return the text of a file without its byte order mark.

    Raises:
        UnicodeDecodeError: the file is not text in one of these encodings.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8-sig")
    # `splitlines` of the callers takes any line ending.
    return content.decode(encoding)
