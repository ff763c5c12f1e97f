"""Single files of unknown origin: each fault is one sentence with the file's name."""

from __future__ import annotations

import gzip
import os
import pickle

import numpy as np
import pytest
import torch

from ngbench.errors import ForeignZooError
from ngbench.store.published import restricted
from ngbench.store.published.restricted import (
    find_all,
    find_one,
    number,
    parse_json,
    read_json,
    read_lines,
    read_npy,
    read_table,
    read_tensors,
    whole,
)


class Command:
    """What runs a command where its pickle is trusted."""

    def __reduce__(self):
        return os.system, ("exit 1",)


def test_one_file_of_a_name_is_found_and_none_or_two_are_refused(tmp_path):
    with pytest.raises(ForeignZooError, match="holds 0 files 'a.csv'; expected one: name the folder"):
        find_one(tmp_path, "a.csv")
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.csv").touch()
        assert find_one(tmp_path / folder, "a.csv") == tmp_path / folder / "a.csv"
    with pytest.raises(ForeignZooError, match="holds 2 files 'a.csv'; expected one: name the folder"):
        find_one(tmp_path, "a.csv")


def test_a_folder_without_a_file_of_the_pattern_is_refused(tmp_path):
    (tmp_path / "a.pth").mkdir()
    with pytest.raises(ForeignZooError, match=r"holds no file '\*\*/\*.pth'; expected the folder or archive as it was published"):
        find_all(tmp_path, "**/*.pth")


def test_files_come_in_the_order_of_their_paths_as_text(tmp_path):
    for name in ("net2.pth", "net10.pth", "a/net1.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_all(tmp_path, "**/*.pth")]
    assert found == ["a/net1.pth", "net10.pth", "net2.pth"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            np.full(3, Command(), dtype=object),
            "is no plain array .*(allow_pickle|in dtype)",
        ),
        (np.arange(3), "a.npy' holds int64; expected one array of real numbers"),
        (np.array(["a"]), "a.npy' holds <U1; expected one array of real numbers"),
    ],
)
def test_arrays_of_anything_but_real_numbers_are_refused(tmp_path, content, text):
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(ForeignZooError, match=text):
        read_npy(tmp_path / "a.npy")


def test_several_arrays_and_truncated_ones_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", np.ones(3))
    with pytest.raises(ForeignZooError, match="a.npz' holds several arrays; expected one array"):
        read_npy(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.ones(30))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-9])
    with pytest.raises(ForeignZooError, match="a.npy' is no plain array .*; expected numbers that numpy.save wrote"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"a": Command()}, "a.pt' holds more than tensors, or is no file of torch.save .*; expected a state dict"),
        ([torch.ones(2)], "a.pt' holds a list; expected a state dict"),
        (torch.ones(2), "a.pt' holds a Tensor; expected a state dict"),
    ],
)
def test_files_of_torch_with_more_or_less_than_a_state_dict_are_refused(tmp_path, content, text):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ForeignZooError, match=text):
        read_tensors(tmp_path / "a.pt")


def test_damaged_files_of_torch_and_plain_pickles_are_refused(tmp_path):
    torch.save({"a": torch.ones(200)}, tmp_path / "a.pt")
    whole_file = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole_file[:-30])
    with pytest.raises(ForeignZooError, match="a.pt' is damaged .*; expected a state dict; fetch it again"):
        read_tensors(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"a": Command()}, protocol=2))
    with pytest.raises(ForeignZooError, match="b.pt' holds more than tensors, or is no file of torch.save"):
        read_tensors(tmp_path / "b.pt")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(1000, 7),
        torch.eye(1000, 7).to_sparse(),
        torch.ones(1000, 7, device="meta"),
    ],
    ids=["one number", "sparse", "meta"],
)
def test_tensors_that_are_not_stored_number_by_number_are_refused(tmp_path, tensor):
    torch.save({"b": torch.ones(2), "a": tensor}, tmp_path / "a.pt")
    with pytest.raises(ForeignZooError, match=r"'a' in '.*a.pt' is a tensor of shape \(1000, 7\) whose numbers do not stand in"):
        read_tensors(tmp_path / "a.pt")


def test_tensors_of_a_type_that_numpy_lacks_are_widened_or_refused(tmp_path):
    torch.save({"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "b": torch.arange(6).view(2, 3).T}, tmp_path / "a.pt")
    read = read_tensors(tmp_path / "a.pt")
    assert (read["a"].dtype, read["a"].tolist()) == (np.float32, [1.5, -2.0])
    assert read["b"].tolist() == [[0, 3], [1, 4], [2, 5]]
    torch.save({"a": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "b.pt")
    with pytest.raises(ForeignZooError, match="b.pt' is damaged .*Float8.*; expected a state dict"):
        read_tensors(tmp_path / "b.pt")


def test_a_json_file_that_is_too_large_too_deep_or_none_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ForeignZooError, match="a.json' is no JSON .*; fetch it again"):
        read_json(path)
    with pytest.raises(ForeignZooError, match=r"a.json' is no JSON \(.*char 1.*; fetch it again"):
        parse_json("{", path)
    monkeypatch.setattr(restricted, "_LARGEST_JSON", 1000)
    with pytest.raises(ForeignZooError, match="a.json' has 100,000 bytes; expected a JSON file of at most 1,000"):
        read_json(path)


def test_a_line_without_end_and_a_text_that_is_none_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_bytes(b"plain\n\xff\xfe\n")
    with pytest.raises(ForeignZooError, match="a.csv' is damaged .*; expected text; fetch it again"):
        list(read_lines(tmp_path / "a.csv"))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(bytes(9000))[:-12])
    with pytest.raises(ForeignZooError, match="b.csv.gz' is damaged .*; expected text; fetch it again"):
        list(read_lines(tmp_path / "b.csv.gz"))
    monkeypatch.setattr(restricted, "_LONGEST_LINE", 1000)
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"x" * 10_000))
    with pytest.raises(ForeignZooError, match="c.csv.gz' has a line of more than 1,000 letters; expected shorter ones"):
        list(read_lines(tmp_path / "c.csv.gz"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a,c\n1,2\n", "t.csv' lacks column 'b'; it has a, c"),
        ("", "t.csv' lacks column 'a'; it has $"),
        ("a,b\n1,2\n3\n", "t.csv' has a row 3 of another length than its header; fetch it again"),
        ("a,b\n1,2,3\n", "t.csv' has a row 2 of another length than its header; fetch it again"),
        (f"a,b\n1,{'x' * 140_000}\n", "t.csv' is no table .*field larger than field limit.*; fetch it again"),
    ],
)
def test_tables_of_another_form_are_refused(tmp_path, text, fault):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ForeignZooError, match=fault):
        list(read_table(tmp_path / "t.csv", columns=("a", "b")))


def test_numbers_are_told_from_other_texts():
    assert np.isnan(number("", where="x"))
    assert np.isnan(number(None, where="x"))
    assert number("1e-3", where="x") == 0.001
    assert whole("7.0", where="x") == 7
    for value in ("seven", [7]):
        with pytest.raises(ForeignZooError, match="column 'x' is .*seven|column 'x' is .7.; expected a number"):
            number(value, where="column 'x'")
    for value in (7.5, None, "inf", "nan"):
        with pytest.raises(ForeignZooError, match=f"column 'x' is {value!r}; expected a whole number"):
            whole(value, where="column 'x'")
    with pytest.raises(ForeignZooError, match="column 'x' is a whole number beyond those of float64; expected a smaller one"):
        number(10**400, where="column 'x'")
