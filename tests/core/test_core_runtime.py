"""The module in a Python process: threads, the GIL, memory, forks, and the stub."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from core_maps import gaussian, relu

import cfp_core

ROOT = Path(__file__).resolve().parents[2]


def test_build_info_describes_the_installed_module() -> None:
    info = cfp_core.build_info()
    assert info["version"] == version("cfp-prune")
    assert info["profile"] in ("release", "debug")
    assert info["simd"]
    assert info["threads"] >= 1


def test_the_number_of_threads_can_be_set_but_not_to_zero() -> None:
    before = cfp_core.build_info()["threads"]
    try:
        for count in (3, 1, 2):
            cfp_core.set_threads(count)
            assert cfp_core.build_info()["threads"] == count
        with pytest.raises(ValueError, match="0 threads"):
            cfp_core.set_threads(0)
        assert cfp_core.build_info()["threads"] == 2
        with pytest.raises(OverflowError):
            cfp_core.set_threads(-1)
    finally:
        cfp_core.set_threads(before)


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (28, 28), (56, 56)])
def test_thread_count_changes_no_bit(size: tuple[int, int]) -> None:
    maps = relu(np.random.default_rng(1), 120, *size).reshape(3, 40, *size)
    before = cfp_core.build_info()["threads"]
    results = []
    try:
        for count in (1, 2, 8):
            cfp_core.set_threads(count)
            norms = cfp_core.norms(maps)
            results.append((norms, cfp_core.matrix_rank(maps), cfp_core.pairwise_distance(norms, 7)))
    finally:
        cfp_core.set_threads(before)
    for result in results[1:]:
        for found, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(found, expected)


def _ticks_while(work) -> tuple[int, float]:
    """Number of ticks of another Python thread while `work` ran, and the seconds it ran."""
    ticks, done = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)

    other = threading.Thread(target=tick)
    other.start()
    time.sleep(0.01)
    ticks, began = 0, time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    found = ticks
    done.set()
    other.join()
    return found, seconds


def test_other_python_threads_run_during_a_call() -> None:
    """If a call held the GIL, the other thread would not tick. Each call takes many periods of it."""
    maps = gaussian(np.random.default_rng(2), 1, 224, 224)
    maps = np.broadcast_to(maps, (256, 224, 224)).copy()
    norms = np.random.default_rng(3).random((4000, 400))
    accumulator = cfp_core.TapAccumulator(64)
    for work in (
        lambda: cfp_core.matrix_rank(maps),
        lambda: accumulator.update(maps.reshape(4, 64, 224, 224)),
        lambda: cfp_core.pairwise_distance(norms, 7),
    ):
        ticks, seconds = _ticks_while(work)
        assert ticks >= 2 or seconds < 0.02, (ticks, seconds)


def test_python_threads_may_call_at_the_same_time() -> None:
    maps = relu(np.random.default_rng(4), 200, 14, 14)
    expected = cfp_core.matrix_rank(maps)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(cfp_core.matrix_rank(maps))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for ranks in found:
        np.testing.assert_array_equal(ranks, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_process_computes_too() -> None:
    """Data loaders fork workers. The parent's threads do not exist there, and waiting for them would never end."""
    code = """
import os, signal, warnings, numpy as np, cfp_core
warnings.simplefilter("ignore")
maps = np.ones((2, 3, 9, 9), np.float32)
cfp_core.set_threads(2)
expected = cfp_core.norms(maps).tolist()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if cfp_core.norms(maps).tolist() == expected and cfp_core.build_info()["threads"] == 2 else 1)
raise SystemExit(os.waitpid(child, 0)[1] or cfp_core.norms(maps).tolist() != expected)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_maps_are_read_without_a_copy_and_not_changed() -> None:
    """A read-only array is enough, and torch's memory is the array's."""
    tensor = torch.from_numpy(relu(np.random.default_rng(5), 12, 9, 9).reshape(2, 6, 9, 9))
    kept = tensor.clone()
    maps = tensor.numpy()
    assert np.shares_memory(maps, tensor.numpy())
    maps.flags.writeable = False
    cfp_core.norms(maps)
    cfp_core.matrix_rank(maps)
    cfp_core.TapAccumulator(6).update(maps)
    assert torch.equal(tensor, kept)


def test_memory_grows_by_a_row_of_numbers_for_each_image() -> None:
    """The process grows by less than 16 MB while it reads 160 MB of maps, in either memory order."""
    code = """
import resource, numpy as np, cfp_core
maps = np.random.default_rng(0).random((4, 16, 160, 160), np.float32)
last = np.ascontiguousarray(maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
accumulator = cfp_core.TapAccumulator(16)
accumulator.update(maps), accumulator.update(last)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for _ in range(12):
    accumulator.update(maps), accumulator.update(last)
assert accumulator.finish()["images"] == 104
raise SystemExit(peak() - before > 16 * 1024)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_stub_and_module_agree(tmp_path: Path) -> None:
    """Stub and module have the same names, parameters and defaults."""
    (tmp_path / "stubs/cfp_core").mkdir(parents=True)
    (tmp_path / "stubs/cfp_core/__init__.pyi").write_text((ROOT / "cfp_core/__init__.pyi").read_text())
    # The module inside the package that maturin makes; PyO3 shows the default Some(4) as an ellipsis.
    (tmp_path / "allowed").write_text("cfp_core.cfp_core\ncfp_core.TapAccumulator.__new__\n")
    check = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "cfp_core", "--allowlist", "allowed"],
        cwd=tmp_path,
        env={"MYPYPATH": str(tmp_path / "stubs"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_every_public_name_has_the_docstring_of_the_stub() -> None:
    tree = ast.parse((ROOT / "cfp_core/__init__.pyi").read_text())
    assert inspect.getdoc(cfp_core) == ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert ast.get_docstring(node), node.name
    # Typed dicts are in the stub only, and Python gives every `__new__` the same docstring.
    (accumulator,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TapAccumulator")
    methods = [node for node in accumulator.body if isinstance(node, ast.FunctionDef) and node.name != "__new__"]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert inspect.getdoc(cfp_core.TapAccumulator) == ast.get_docstring(accumulator)
    for owner, nodes in ((cfp_core.TapAccumulator, methods), (cfp_core, functions)):
        for node in nodes:
            assert inspect.getdoc(getattr(owner, node.name)) == ast.get_docstring(node), node.name
