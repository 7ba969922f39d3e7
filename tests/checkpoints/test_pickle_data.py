from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from cfp_cli.checkpoints.pickle_data import read_pickle
from cfp_cli.checkpoints.read import read_contents
from cfp_cli.foundation.errors import CheckpointError

# A tuple that contains itself, as built so far, twice: hashing it takes 2^60 steps.
NESTED = b")" + b"2\x86" * 60


def unpickled(data: bytes) -> object:
    return read_pickle(io.BytesIO(data), lambda _: None)


@pytest.mark.parametrize(
    "program",
    [
        b"}" + NESTED + b"Ns.",
        b"}(" + NESTED + b"Nu.",
        b"(" + NESTED + b"Nd.",
        b"\x80\x04\x8f(" + NESTED + b"\x90.",
        b"\x80\x04(" + NESTED + b"\x91.",
        b"c__builtin__\nset\n(](" + NESTED + b"etR.",
        b"ccollections\nOrderedDict\n(](" + NESTED + b"N\x86etR.",
    ],
)
def test_keys_that_take_exponential_time_are_refused(program: bytes) -> None:
    with pytest.raises(ValueError, match=r"(a key has|the arguments of its calls have) too many parts"):
        unpickled(program)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_on_which_the_reader_of_torch_would_hang_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "hang.pt"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    # The program sets a key of a dict, which it then drops.
    program = b"}" + NESTED + b"Ns0"
    if zipped:
        changed = tmp_path / "changed.pt"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                target.writestr(name, data[:2] + program + data[2:] if name.endswith("data.pkl") else data)
        path = changed
    else:
        data = path.read_bytes()
        start = data.index(b"\x80\x02}q", data.index(b"little_endian")) + 2
        path.write_bytes(data[:start] + program + data[start:])
    with pytest.raises(CheckpointError, match=r"(a key has|the arguments of its calls have) too many parts"):
        read_contents(path, unsafe_pickle=False)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_are_read_as_pickle_reads_them(protocol: int) -> None:
    value = {"a": [1, 2.5, None, True], ("b", 3): {"x", "y"}, 4: "c", "d": ({}, [], ())}
    assert unpickled(pickle.dumps(value, protocol)) == value
