"""A page in headless Chromium, at a width, looked at by a script of ours."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

_HARNESS = """<!doctype html><meta charset="utf-8"><style>body{margin:0}iframe{border:0;width:%dpx;height:900px}</style>
<iframe srcdoc="%s"></iframe><pre id="seen"></pre><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", async () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const look = async (page, view) => { %s };
  let seen;
  try { seen = await look(page, view); } catch (error) { seen = {error: String(error)}; }
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""


@dataclass(frozen=True)
class Look:
    """What the script returned, and what the browser wrote to its console."""

    seen: Any
    console: list[str]


def look(page: Path, script: str, folder: Path, width: int = 1000, dark: bool = False) -> Look:
    """Open `page` in a frame of `width` pixels and run the body of an async function of `page` and `view` in it."""
    assert CHROMIUM is not None
    harness = folder / "harness.html"
    content = page.read_text(encoding="utf-8")
    harness.write_text(_HARNESS % (width, html.escape(content, quote=True), script), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += [f"--window-size={max(width, 500)},1000", "--virtual-time-budget=10000", "--enable-logging=stderr"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", harness.as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    assert found[1], f"the script gave nothing\n{done.stderr}"
    return Look(json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line])
