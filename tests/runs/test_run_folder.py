from __future__ import annotations

from pathlib import Path

import pytest

from cfp_cli.foundation.errors import UsageError
from cfp_cli.runs.run_folder import check_run_folder


def test_a_run_is_no_folder_of_images(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "test" / "ok").mkdir(parents=True)
    (data / "test" / "ok" / "1.png").write_bytes(b"")
    (data / "old-run").mkdir()
    (tmp_path / "link").symlink_to(data / "test")
    for folder in (data, data / "test", data / "test" / "ok", data / "old-run" / ".." / "test", tmp_path / "link"):
        with pytest.raises(UsageError, match=r"is a folder of the images in .*; choose another --run"):
            check_run_folder(folder, data)
    for folder in (data / "old-run", data / "new-run", tmp_path, tmp_path / "elsewhere"):
        check_run_folder(folder, data)
