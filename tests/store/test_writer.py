from __future__ import annotations

import os
import resource
import time

import h5py
import numpy as np
import pytest

from ngbench.errors import StoreWriteError
from ngbench.store import Zoo, ZooInfo, ZooWriter
from ngbench.store.splits import assign
from ngbench.zoo.columns import Column
from ngbench.zoo.transfer import OneOf

INFO = ZooInfo("tiny", "3", "Tiny zoo", "CC0-1.0", "nobody", {"seed": 2, "rates": [0.1, 1e-9]})


def test_the_same_networks_give_the_same_bytes_however_they_are_appended(tiny, tiny_path, tmp_path):
    compressed = h5py.File(tiny_path)["values"].chunks is not None
    # HDF5 would store times in whole seconds.
    time.sleep(1.01)
    with ZooWriter(tmp_path / "again.h5", tiny.info, columns=tiny.columns, compressed=compressed) as writer:
        writer.add_diverged([("run-90", "losses are not finite")])
        for first, last in ((0, 1), (1, 1), (1, 8), (8, 11), (11, 14), (14, 17)):
            tiny.append_to(writer, first, last)
        writer.add_diverged([("run-91", "weights are not finite")])
    assert (tmp_path / "again.h5").read_bytes() == tiny_path.read_bytes()


@pytest.mark.parametrize("change", ["value", "id", "metadata", "title"])
def test_any_other_content_gives_another_sha256(tiny, tmp_path, change):
    before = Zoo(tiny.write(tmp_path / "before.h5")).sha256
    if change == "value":
        tiny.cnn_rows[2, 5] = np.nextafter(tiny.cnn_rows[2, 5], np.float32(9))
    elif change == "id":
        tiny.ids[4] = "renamed"
    elif change == "metadata":
        tiny.metadata["width"][3] += 1
    else:
        tiny.info = ZooInfo("tiny", "3", "Other title", "CC0-1.0", "nobody, 1815")
    assert Zoo(tiny.write(tmp_path / "after.h5")).sha256 != before


def test_other_programs_find_plain_tables(tiny, tiny_path):
    with h5py.File(tiny_path) as file:
        assert set(file) == {"diverged", "metadata", "models", "splits", "topologies", "values"}
        assert (file.attrs["format"], file.attrs["format_version"], file.attrs["zoo"]) == ("ngbench-zoo", 1, "tiny")
        assert file["values"].dtype == np.dtype("<f4")
        assert file["models/id"].asstr()[1] == "réseau-01"
        assert file["metadata/width"].attrs["role"] == "hyperparameter"
        assert file["metadata/width"].attrs["description"] == "hidden units"
        assert set(np.unique(file["splits/default"])) <= {0, 1, 2}
        start, stop = file["models/value_ptr"][12:14]
        assert (file["values"][start:stop] == tiny.row(12)).all()


def test_values_are_compressed_up_to_a_size_and_mapped_above(tiny, tmp_path, monkeypatch):
    num_values = tiny.mlp_rows.size + tiny.cnn_rows.size
    for limit, chunked in ((4 * num_values, True), (4 * num_values - 1, False)):
        monkeypatch.setattr("ngbench.store.writer.HASHED_AT_OPEN_BYTES", limit)
        with h5py.File(tiny.write(tmp_path / "a.h5")) as file:
            assert (file["values"].chunks is not None) == chunked


def test_mapped_values_stand_at_the_end_on_a_boundary(tiny, tmp_path):
    path = tiny.write(tmp_path / "a.h5", compressed=False)
    with h5py.File(path) as file:
        start, num_bytes = file["values"].id.get_offset(), 4 * len(file["values"])
    assert start % 64 == 0
    assert start + num_bytes == path.stat().st_size


@pytest.fixture
def empty(traced, tmp_path):
    columns = (Column("width", "hyperparameter", "int", "hidden units"),)
    with ZooWriter(tmp_path / "a.h5", INFO, columns=columns) as writer:
        yield writer
        # So that the block ends as it must, whatever was refused in it.
        writer.append(traced["cnn"], np.zeros((1, 63), np.float32), ids=["last"], metadata={"width": [1]})


def rows(num_networks, num_values=32):
    return np.ones((num_networks, num_values), np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_told_by_network_and_parameter(empty, traced, bad):
    values = rows(3)
    slot = next(slot for slot in traced["relu"].slots if slot.parameter.path == "2.weight")
    values[1, slot.start + 3] = bad
    with pytest.raises(
        StoreWriteError, match=f"network 'b' has the value {bad} in parameter '2.weight'; expected finite numbers"
    ):
        empty.append(traced["relu"], values, ids=["a", "b", "c"], metadata={"width": [1, 2, 3]})


def test_an_id_that_stands_twice_in_one_append_is_refused(empty, traced):
    with pytest.raises(StoreWriteError, match=r"network id 'b' stands twice in '.*a\.h5'; expected each id once"):
        empty.append(traced["relu"], rows(3), ids=["a", "b", "b"], metadata={"width": [1, 2, 3]})


def test_an_id_that_was_appended_before_is_refused(empty, traced):
    empty.append(traced["relu"], rows(2), ids=["a", "b"], metadata={"width": [1, 2]})
    with pytest.raises(StoreWriteError, match="network id 'b' stands twice"):
        empty.append(traced["relu"], rows(2), ids=["b", "c"], metadata={"width": [1, 2]})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"rows": rows(2)}, "'rows' has 2 entries for 3 network ids; expected one a network"),
        ({"run_ids": ["r"]}, "'run_ids' has 1 entries for 3 network ids"),
        ({"metadata": {"width": [1, 2]}}, "'width' has 2 entries for 3 network ids"),
        ({"metadata": {}}, r"missing \['width'\], unknown \[\]; expected all"),
        ({"metadata": {"width": [1, 2, 3], "depth": [1, 2, 3]}}, r"missing \[\], unknown \['depth'\]"),
        ({"metadata": {"width": [1.5, 2, 3]}}, "metadata column 'width' holds float64; expected int"),
        ({"rows": rows(3).astype(np.float64)}, "value rows hold float64; expected float32"),
        ({"rows": rows(3, 31)}, r"network 'a' has a value row of shape \(31,\); its topology expects \(32,\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(empty, traced, arguments, match):
    given = {"rows": rows(3), "ids": ["a", "b", "c"], "run_ids": None, "metadata": {"width": [1, 2, 3]}} | arguments
    with pytest.raises(StoreWriteError, match=match):
        empty.append(traced["relu"], given.pop("rows"), **given)


def test_topologies_of_another_number_are_refused(empty, traced):
    with pytest.raises(StoreWriteError, match="'topologies' has 2 entries for 3 network ids"):
        empty.append([traced["relu"], traced["tanh"]], rows(3), ids=["a", "b", "c"], metadata={"width": [1, 2, 3]})


def test_a_zoo_without_networks_is_refused(tmp_path):
    with (
        pytest.raises(StoreWriteError, match=r"no network was appended to '.*a\.h5'; expected at least one"),
        ZooWriter(tmp_path / "a.h5", INFO),
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_leaves_nothing(tiny, tmp_path, exception):
    def interrupted():
        with ZooWriter(tmp_path / "a.h5", tiny.info, columns=tiny.columns) as writer:
            tiny.append_to(writer, 0, 5)
            raise exception

    with pytest.raises(exception):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_an_interruption_while_the_file_is_written_leaves_the_old_one(tiny, tmp_path, monkeypatch):
    path = tiny.write(tmp_path / "a.h5")
    before = path.read_bytes()

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    tiny.ids[0] = "renamed"
    with pytest.raises(KeyboardInterrupt):
        tiny.write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.9, 0.999])
def test_a_full_disk_leaves_nothing_and_the_process_whole(tiny, tmp_path, compressed, share):
    tiny.write(tmp_path / "whole.h5", compressed=compressed)
    limit = int(share * (tmp_path / "whole.h5").stat().st_size)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StoreWriteError, match=r"no room to write '.*a\.h5' \(File too large\)"):
            tiny.write(tmp_path / "a.h5", compressed=compressed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["whole.h5"]
    tiny.write(tmp_path / "a.h5", compressed=compressed)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_disk_that_fills_while_networks_are_appended_is_told(traced, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    num_networks = 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with (
            pytest.raises(StoreWriteError, match=r"no room to write '.*a\.h5' \(File too large\)"),
            ZooWriter(tmp_path / "a.h5", INFO) as writer,
        ):
            writer.append(traced["relu"], rows(num_networks), ids=[str(index) for index in range(num_networks)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(StoreWriteError, match=r"cannot write '.*none/a\.h5' \(No such file"),
        ZooWriter(tmp_path / "none" / "a.h5", INFO),
    ):
        pass


def test_what_is_appended_stays_as_it_was(tiny, tmp_path):
    before = tiny.mlp_rows.copy()
    tiny.mlp_rows.flags.writeable = False
    zoo = Zoo(tiny.write(tmp_path / "a.h5"))
    zoo.values(range(11))[:] = 7
    assert (tiny.mlp_rows == before).all()


def test_a_further_split_is_written_by_its_rule(tiny, tmp_path):
    split = OneOf(kind="one_of", column="optimizer", values=("adam",))
    with ZooWriter(tmp_path / "a.h5", tiny.info, columns=tiny.columns, splits={"adam-held-out": split}) as writer:
        tiny.append_to(writer, 0, 11)
        tiny.append_to(writer, 11, 17)
    zoo = Zoo(tmp_path / "a.h5")
    assert zoo.splits == ("adam-held-out", "default")
    for part, optimizer, default in zip(zoo.parts("adam-held-out"), zoo.metadata["optimizer"], zoo.parts(), strict=True):
        assert part == (2 if optimizer == "adam" else -1 if default == 2 else default)


def test_a_split_by_a_column_that_the_zoo_lacks_is_refused(tiny, tmp_path):
    split = OneOf(kind="one_of", column="family", values=("cnn",))
    with pytest.raises(
        StoreWriteError, match="split 'odd' decides by column 'family'; expected one of optimizer, width, test_acc"
    ):
        ZooWriter(tmp_path / "a.h5", tiny.info, columns=tiny.columns, splits={"odd": split})


def half(*shape):
    return np.ones(shape, np.float16)


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ({"a": half(3, 4)}, {}, r"outputs have the names \[\], and before \['a'\]; expected the same for all networks"),
        (
            {"a": half(3, 4)},
            {"a": half(3, 5)},
            r"outputs 'a' are float16 of shape \(3, 5\); expected float16 \[net",
        ),
        ({"a": half(2, 4)}, {}, "'a' has 2 entries for 3 network ids"),
        ({"a": half(3, 4).astype(np.float32)}, {}, r"outputs 'a' are float32 of shape \(3, 4\)"),
        ({"a": half(3)}, {}, r"outputs 'a' are float16 of shape \(3,\)"),
        ({"a": half(3, 4) * np.inf}, {}, "outputs 'a' are not all finite"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(traced, tmp_path, first, second, match):
    def write():
        columns = (Column("width", "hyperparameter", "int", "hidden units"),)
        with ZooWriter(tmp_path / "a.h5", INFO, columns=columns) as writer:
            for ids, outputs in (("abc", first), ("def", second)):
                writer.append(traced["relu"], rows(3), ids=ids, metadata={"width": [1, 2, 3]}, functional=outputs)

    with pytest.raises(StoreWriteError, match=match):
        write()


def test_a_column_decides_the_split_in_place_of_the_run(tiny, tmp_path):
    with ZooWriter(tmp_path / "a.h5", tiny.info, columns=tiny.columns, split_by="optimizer") as writer:
        tiny.append_to(writer, 0, 11)
    zoo = Zoo(tmp_path / "a.h5")
    expected = {name: assign("tiny", [name])[0] for name in ("sgd", "adam")}
    assert zoo.parts().tolist() == [expected[name] for name in tiny.metadata["optimizer"][:11]]
    assert zoo.split_keys.tolist() == tiny.metadata["optimizer"][:11].tolist()


@pytest.mark.parametrize("name", ["image", "test_accuracy"])
def test_the_split_is_by_a_column_of_names_or_whole_numbers(tiny, tmp_path, name):
    with pytest.raises(
        StoreWriteError, match=f"split 'default' decides by column '{name}'; expected one of optimizer, width, or"
    ):
        ZooWriter(tmp_path / "a.h5", tiny.info, columns=tiny.columns, split_by=name)


def test_compressed_numbers_stand_where_released_files_have_them(traced, tmp_path):
    num_networks, topology = 4200, traced["tanh"]
    columns = [Column("width", "hyperparameter", "int", "hidden units"), Column("loss", "measurement", "float", "nats")]
    metadata = {"width": np.arange(num_networks), "loss": np.linspace(0, 1, num_networks)}
    rows = np.random.default_rng(1).normal(size=(num_networks, topology.num_values)).astype(np.float32)

    def order(**options):
        with ZooWriter(tmp_path / "a.h5", INFO, columns=columns, **options) as writer:
            writer.append(topology, rows, ids=[str(index) for index in range(num_networks)], metadata=metadata)
        with h5py.File(tmp_path / "a.h5") as file:
            places = {name: file[name].id.get_chunk_info(0).byte_offset for name in ("metadata/loss", "splits/default")}
        return sorted(places, key=places.get)

    assert order() == ["splits/default", "metadata/loss"]
    assert order(split_by="width") == ["metadata/loss", "splits/default"]
