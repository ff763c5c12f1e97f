"""Files of torch.save whose objects are not made, and those that were written to harm."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from ngbench.errors import ForeignZooError
from ngbench.store.published.unpickling import Record, read_records

NUMBERS = np.arange(6, dtype="<f4")


class Storage:
    """A reference to the numbers beside a pickle."""

    def __init__(self, key="0", kind=torch.FloatStorage, tag="storage"):
        self.reference = (tag, kind, key, "cpu", 6)


class Made:
    """A tensor as a pickle makes it, of any arguments."""

    def __init__(self, *arguments):
        self.arguments = arguments


class Writer(pickle.Pickler):
    def persistent_id(self, value):
        return value.reference if isinstance(value, Storage) else None

    def reducer_override(self, value):
        return (torch._utils._rebuild_tensor_v2, value.arguments) if isinstance(value, Made) else NotImplemented


class Bare:
    """What a pickle makes by `__new__` alone."""


def write(path, content, *, name="archive/data.pkl", compression=zipfile.ZIP_STORED, times=1):
    memory = io.BytesIO()
    Writer(memory, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for time in range(times):
            archive.writestr(name if not time else f"{time}/data.pkl", memory.getvalue())
        archive.writestr("archive/data/0", NUMBERS.tobytes())
    return path


def tensor(offset=0, size=(2, 3), stride=(3, 1), storage=None):
    return Made(Storage() if storage is None else storage, offset, size, stride, False, {})


def test_tensors_come_as_arrays_on_one_storage(tmp_path):
    content = read_records(write(tmp_path / "a.pt", {"a": tensor(), "b": tensor(1, (2,), (2,)), "c": tensor(9, (0, 2), (2, 1))}))
    assert content["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert content["b"].tolist() == [1, 3]
    assert content["c"].shape == (0, 2)
    assert content["a"].dtype == np.float32


def test_objects_of_any_class_are_records_and_run_nothing(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/harmed",)

    content = read_records(write(tmp_path / "a.pt", [Harm()]))
    assert isinstance(content[0], Record)
    assert content[0].kind.endswith(".system")
    assert not (tmp_path / "harmed").exists()


def test_an_object_that_is_made_without_arguments_has_none(tmp_path):
    assert read_records(write(tmp_path / "a.pt", [Bare()]))[0].arguments == ()


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (tensor(-1), r"a tensor of size \(2, 3\) and stride \(3, 1\); expected whole numbers on a storage"),
        (tensor(0, (2, 1.5)), r"a tensor of size \(2, 1.5\) .*; expected whole numbers on a storage"),
        (tensor(storage=[1, 2]), "expected whole numbers on a storage"),
        (tensor(0, (6,), (1, 1)), r"a tensor of size \(6,\) and stride \(1, 1\); expected as many of both"),
        (tensor(1), r"a tensor of size \(2, 3\) on 6 numbers; expected no more than these"),
        (tensor(0, (10**12,), (0,)), r"a tensor of size \(1000000000000,\) on 6 numbers; expected no more than these"),
        (tensor(storage=Storage(tag="file")), "a reference .'file', .*; expected one to a storage of tensors"),
        (tensor(storage=Storage(kind=int)), "a reference .'storage', .*; expected one to a storage of tensors"),
        (tensor(storage=Storage("../../x")), "There is no item named 'archive/data/../../x' in the archive"),
    ],
)
def test_tensors_that_reach_beyond_their_bytes_are_refused(tmp_path, made, text):
    with pytest.raises(ForeignZooError, match=f"a.pt' is damaged or no file of torch.save .*{text}"):
        read_records(write(tmp_path / "a.pt", {"a": made}))


def test_archives_that_torch_would_not_write_are_refused(tmp_path):
    compressed = write(tmp_path / "a.pt", {}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ForeignZooError, match="member 'archive/data.pkl' is compressed or encrypted; expected stored bytes"):
        read_records(compressed)
    with pytest.raises(ForeignZooError, match="b.pt' is no file of torch.save: it has 0 members data.pkl; expected one"):
        read_records(write(tmp_path / "b.pt", {}, name="archive/other"))
    with pytest.raises(ForeignZooError, match="c.pt' is no file of torch.save: it has 2 members data.pkl; expected one"):
        read_records(write(tmp_path / "c.pt", {}, times=2))
    (tmp_path / "d.pt").write_bytes(compressed.read_bytes()[:-40])
    with pytest.raises(ForeignZooError, match="d.pt' is damaged or no file of torch.save"):
        read_records(tmp_path / "d.pt")
