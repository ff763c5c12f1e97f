from __future__ import annotations

import json
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch

import ngbench.store.reader
from ngbench.errors import GraphError, SplitError, StoreFormatError, UnknownNameError
from ngbench.graph import NeuralGraph, restore
from ngbench.store import Zoo, ZooInfo, ZooWriter
from ngbench.store.seal import write_sealed
from ngbench.store.splits import assign
from ngbench.zoo.transfer import OneOf

NUM_MLPS, NUM_CNNS = 11, 6
NUM_NETWORKS = NUM_MLPS + NUM_CNNS


def same_bits(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_each_network_comes_back_bit_for_bit(tiny, tiny_zoo):
    assert len(tiny_zoo) == NUM_NETWORKS
    for index in range(NUM_NETWORKS):
        graph = tiny_zoo[index]
        assert graph.topology == tiny.topologies[index]
        assert same_bits(graph.row(), tiny.row(index))
        assert graph.equal(NeuralGraph.from_row(tiny.topologies[index], torch.from_numpy(tiny.row(index).copy())))


@pytest.mark.parametrize(
    "key",
    [
        slice(None),
        slice(13, 2, -3),
        slice(4, 4),
        [16, 0, 12, 0],
        [],
        np.array([3, -1, 11]),
        np.arange(NUM_NETWORKS) % 4 == 1,
        (5, 6),
    ],
    ids=str,
)
def test_lists_of_networks_come_in_the_order_asked_for(tiny, tiny_zoo, key):
    expected = np.arange(NUM_NETWORKS)[key if isinstance(key, slice) else np.asarray(key, dtype=None if len(key) else int)]
    graphs = tiny_zoo[key]
    assert isinstance(graphs, list)
    assert len(graphs) == len(expected)
    for graph, index in zip(graphs, expected, strict=True):
        assert graph.topology == tiny.topologies[index]
        assert same_bits(graph.row(), tiny.row(index))


def test_a_numpy_integer_and_a_negative_number_give_one_graph(tiny, tiny_zoo):
    assert same_bits(tiny_zoo[np.int64(2)].row(), tiny.row(2))
    assert same_bits(tiny_zoo[-1].row(), tiny.row(NUM_NETWORKS - 1))


def test_a_row_beyond_the_end_is_an_index_error_so_that_loops_end(tiny_zoo):
    with pytest.raises(IndexError, match="17"):
        tiny_zoo[17]


def test_iteration_gives_every_network_once(tiny, tiny_zoo, monkeypatch):
    monkeypatch.setattr(ngbench.store.reader, "_ITERATED_AT_ONCE", 5)
    assert [graph.row().numpy().tobytes() for graph in tiny_zoo] == [tiny.row(i).tobytes() for i in range(NUM_NETWORKS)]


def test_values_stack_networks_that_differ_in_activation_only(tiny, tiny_zoo):
    rows = [10, 1, 3]
    values = tiny_zoo.values(rows)
    assert values.dtype == np.float32
    assert same_bits(values, tiny.mlp_rows[rows])
    assert len({tiny.topologies[row].digest for row in rows}) == 2


def test_values_of_two_structures_do_not_stack(tiny_zoo):
    with pytest.raises(GraphError, match="the 2 rows have networks of 2 structures, which do not stack"):
        tiny_zoo.values([0, 12])


def test_values_of_no_rows_keep_their_width(tiny_zoo):
    assert tiny_zoo.values([]).shape == (0, 32)


def test_what_is_handed_out_can_be_changed_without_harm(tiny, tiny_path):
    zoo = Zoo(tiny_path)
    before = tiny_path.read_bytes()
    zoo.values([0, 1])[:] = 9
    graph = zoo[0]
    graph.block(graph.topology.blocks[0].name).zero_()
    torch.from_numpy(zoo.values([2])).add_(1)
    zoo.metadata["width"][:] = 0
    zoo.split("train")[:] = 0
    zoo.ids[:] = ""
    zoo.run_ids[:] = ""
    zoo.topology_index[:] = 0
    assert all(same_bits(zoo[i].row(), tiny.row(i)) for i in range(3))
    assert (zoo.metadata["width"] == tiny.metadata["width"]).all()
    assert zoo.ids.tolist() == tiny.ids
    assert zoo.run_ids.tolist() == tiny.run_ids
    assert len(set(zoo.topology_index)) == 3
    assert tiny_path.read_bytes() == before


def test_networks_run_and_topologies_are_named(tiny, tiny_zoo):
    assert tiny_zoo.ids.tolist() == tiny.ids
    assert tiny_zoo.run_ids.tolist() == tiny.run_ids
    assert [tiny_zoo.topologies[index] for index in tiny_zoo.topology_index] == tiny.topologies
    assert tiny_zoo.diverged == (("run-90", "losses are not finite"), ("run-91", "weights are not finite"))


def test_the_zoo_says_what_it_is(tiny, tiny_zoo, tiny_path):
    assert tiny_zoo.info == tiny.info
    assert (tiny_zoo.name, tiny_zoo.version, tiny_zoo.path) == ("tiny", "3", tiny_path)
    assert repr(tiny_zoo) == f"Zoo('tiny' version 3, 17 networks, {str(tiny_path)!r})"


def test_a_recipe_comes_back_as_it_was(tiny, tmp_path):
    tiny.info = ZooInfo("tiny", "3", "é", "CC0-1.0", "nobody", {"b": [1e-9, 0.1], "a": {"ü": None}})
    assert Zoo(tiny.write(tmp_path / "a.h5")).info == tiny.info


def test_metadata_comes_back_typed_and_described(tiny, tiny_zoo):
    assert list(tiny_zoo.columns.values()) == list(tiny.columns)
    assert list(tiny_zoo.metadata) == ["optimizer", "width", "test_accuracy"]
    assert len(tiny_zoo.metadata) == 3
    assert "width" in tiny_zoo.metadata
    assert "depth" not in tiny_zoo.metadata
    for name, dtype in (("optimizer", np.str_), ("width", np.int64), ("test_accuracy", np.float64)):
        assert np.issubdtype(tiny_zoo.metadata[name].dtype, dtype)
        assert (tiny_zoo.metadata[name] == tiny.metadata[name]).all()


def test_an_unknown_column_is_met_with_the_close_one(tiny_zoo):
    with pytest.raises(
        UnknownNameError, match="unknown metadata column of zoo 'tiny' 'test_acuracy': did you mean 'test_accuracy'"
    ):
        tiny_zoo.metadata["test_acuracy"]


def test_parts_of_the_split_cover_all_networks_by_run(tiny, tiny_zoo):
    assert tiny_zoo.splits == ("default",)
    parts = {part: tiny_zoo.split(part) for part in ("train", "val", "test")}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(NUM_NETWORKS))
    expected = assign("tiny", tiny.run_ids)
    for index, rows in enumerate(parts.values()):
        assert rows.dtype == np.int64
        assert (rows == np.flatnonzero(expected == index)).all()
    assert (tiny_zoo.parts() == expected).all()


def test_an_unknown_split_or_part_is_met_with_the_known_ones(tiny_zoo):
    for ask in (lambda: tiny_zoo.split("test", "wide"), lambda: tiny_zoo.parts("wide")):
        with pytest.raises(SplitError, match="zoo 'tiny' has no split 'wide'; expected one of default"):
            ask()
    with pytest.raises(SplitError, match="split 'default' of zoo 'tiny' has no part 'dev'; expected one of train, val, test"):
        tiny_zoo.split("dev")


def test_a_zoo_travels_to_another_process_as_its_path(tiny, tiny_zoo):
    tiny_zoo[:]
    data = pickle.dumps(tiny_zoo)
    assert len(data) < 500
    assert same_bits(pickle.loads(data)[3].row(), tiny.row(3))


def test_a_zoo_that_was_replaced_meanwhile_is_told(tiny, tiny_path):
    zoo, data = Zoo(tiny_path), pickle.dumps(Zoo(tiny_path))
    tiny.ids[0] = "renamed"
    tiny.write(tiny_path)
    with pytest.raises(StoreFormatError, match=r"tiny\.h5' was replaced by another zoo file after it was opened; open it again"):
        zoo.split("test")
    with pytest.raises(StoreFormatError, match=rf"was replaced by another zoo file: it has sha256 .*, expected {zoo.sha256}"):
        pickle.loads(data)


def test_no_file_stays_open(tiny_path):
    zoo = Zoo(tiny_path)
    zoo[0], zoo.metadata["width"]
    with h5py.File(tiny_path, "r+"):
        pass


def test_compressed_and_mapped_zoos_read_alike(tiny, tmp_path):
    a, b = (Zoo(tiny.write(tmp_path / f"{c}.h5", compressed=c)) for c in (True, False))
    assert all(x.equal(y) for x, y in zip(a, b, strict=True))
    assert isinstance(b._values.base, np.memmap)


def test_of_a_large_file_all_but_the_mapped_values_is_hashed_when_it_is_opened(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ngbench.store.reader, "HASHED_AT_OPEN_BYTES", 10)
    path = tiny.write(tmp_path / "a.h5", compressed=False)
    data, rng = path.read_bytes(), np.random.default_rng(1)
    values_start = len(data) - 4 * (tiny.mlp_rows.size + tiny.cnn_rows.size)
    line_of_seal = rng.integers(0, 300, 40)
    for position in np.concatenate([line_of_seal, rng.integers(512, values_start, 100)]):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(StoreFormatError):
            Zoo(path)
    damaged = bytearray(data)
    damaged[position] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StoreFormatError, match=r"a\.h5' is corrupt: its index has sha256 \w{64}, expected \w{64}"):
        Zoo(path)
    path.write_bytes(data[:values_start] + bytes(len(data) - values_start))
    assert (Zoo(path).values([0, 1]) == 0).all()


def delete(path):
    def edit(file):
        del file[path]

    return edit


def replace(path, value):
    def edit(file):
        del file[path]
        file[path] = value

    return edit


def set_attribute(name, value, path="/"):
    def edit(file):
        file[path].attrs[name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (delete("values"), r"lacks dataset '/values'; expected <f4 of shape \(any\)"),
        (delete("models/id"), r"lacks dataset '/models/id'; expected text of shape \(any\)"),
        (delete("models/value_ptr"), r"lacks dataset '/models/value_ptr'; expected <i8 of shape \(18\)"),
        (delete("metadata"), "lacks group '/metadata'"),
        (delete("topologies"), "lacks group '/topologies'"),
        (replace("values", np.zeros(700)), r"dataset '/values' is <f8 of shape \(700,\); expected <f4 of shape \(any\)"),
        (
            replace("models/topology", np.zeros(16, "<i4")),
            r"'/models/topology' is <i4 of shape \(16,\); expected <i4 of shape \(17\)",
        ),
        (replace("models/run_id", np.zeros(17)), r"'/models/run_id' is <f8 of shape \(17,\); expected text of shape \(17\)"),
        (replace("metadata/width", np.zeros(17, "f4")), r"'/metadata/width' is <f4 of shape \(17,\); expected text"),
        (
            replace("metadata/width", np.zeros(16, "<i8")),
            r"'/metadata/width' is <i8 of shape \(16,\); expected <i8 of shape \(17\)",
        ),
        (
            replace("metadata/width", np.zeros(17, "<i8")),
            "attribute 'role' of '/metadata/width' is None; expected one of identity",
        ),
        (replace("values", np.zeros(700, "<f4")), "'/models/value_ptr' does not rise from 0 to 700, the length of '/values'"),
        (replace("models/topology", np.full(17, 3, "<i4")), "'/models/topology' has positions outside 0 to 2"),
        (set_attribute("title", 5), "root attribute 'title' is .*5.*; expected text"),
        (set_attribute("recipe", "{"), "root attribute 'recipe' is no JSON"),
    ],
)
def test_an_incomplete_file_is_told_when_it_is_opened(tiny_path, seal_again, edit, match):
    with pytest.raises(StoreFormatError, match=match):
        Zoo(seal_again(tiny_path, edit))


@pytest.mark.parametrize("way", ["link", "storage", "view"])
def test_numbers_of_another_file_are_not_read(tiny_path, tmp_path, seal_again, way):
    private = tmp_path / "private.h5"
    with h5py.File(private, "w") as file:
        file["width"] = np.arange(17)

    def edit(file):
        del file["metadata/width"]
        if way == "link":
            file["metadata/width"] = h5py.ExternalLink(str(private), "width")
        elif way == "storage":
            file.create_dataset("metadata/width", (17,), "<i8", external=[(str(private), 0, 17 * 8)])
        else:
            layout = h5py.VirtualLayout((17,), "<i8")
            layout[:] = h5py.VirtualSource(str(private), "width", (17,))
            file.create_virtual_dataset("metadata/width", layout)

    expected = r"'/metadata/width' is taken from other files; expected <i8 of shape \(17\) in the file itself"
    with pytest.raises(StoreFormatError, match=expected):
        Zoo(seal_again(tiny_path, edit))


def test_a_missing_attribute_is_told(tiny_path, seal_again):
    def edit(file):
        del file.attrs["licence"]

    with pytest.raises(StoreFormatError, match="root attribute 'licence' is None; expected text"):
        Zoo(seal_again(tiny_path, edit))


def test_a_split_of_another_type_is_told_when_it_is_read(tiny_path, seal_again):
    zoo = Zoo(seal_again(tiny_path, replace("splits/default", np.zeros(17, "<i8"))))
    with pytest.raises(StoreFormatError, match=r"'/splits/default' is <i8 of shape \(17,\); expected \|i1 of shape \(17\)"):
        zoo.split("train")


def test_a_topology_that_is_not_its_digest_is_told(tiny_path, seal_again):
    def edit(file):
        first, second = sorted(file["topologies"])[:2]
        text = file[f"topologies/{second}/json"][()]
        del file[f"topologies/{first}/json"]
        file.create_dataset(f"topologies/{first}/json", data=text, dtype=h5py.string_dtype("utf-8", len(text)))

    with pytest.raises(StoreFormatError, match=r"'/topologies/\w+/json' has digest \w+; expected \w+; fetch the file again"):
        _ = Zoo(seal_again(tiny_path, edit)).topologies


def test_text_that_is_no_topology_is_told(tiny_path, seal_again):
    def edit(file):
        for digest in file["topologies"]:
            del file[f"topologies/{digest}/json"]
            file.create_dataset(f"topologies/{digest}/json", data=json.dumps([1]), dtype=h5py.string_dtype("utf-8", 3))

    with pytest.raises(StoreFormatError, match=r"'/topologies/\w+/json' holds no topology \("):
        Zoo(seal_again(tiny_path, edit))[0]


def test_rows_of_a_length_that_is_not_the_topology_s_are_told(tiny_path, seal_again):
    def edit(file):
        file["models/value_ptr"][5] += 1

    zoo = Zoo(seal_again(tiny_path, edit))
    with pytest.raises(StoreFormatError, match=r"'/models/value_ptr' gives a network of topology \w+ 3[13] values; expected 32"):
        zoo[4]


def test_content_that_hdf5_cannot_read_is_told(tmp_path):
    with (tmp_path / "a.h5").open("wb") as file:
        write_sealed(file, bytes(1000), ())
    with pytest.raises(StoreFormatError, match=r"a\.h5' has a seal, but its HDF5 content cannot be read \(.*signature not found"):
        Zoo(tmp_path / "a.h5")


def test_a_zoo_opens_from_a_folder_that_cannot_be_written(tiny_path, tmp_path):
    folder = tmp_path / "frozen"
    folder.mkdir()
    shutil.copy(tiny_path, folder / "a.h5")
    (folder / "a.h5").chmod(0o444)
    folder.chmod(0o555)
    assert len(Zoo(folder / "a.h5")[:]) == NUM_NETWORKS
    folder.chmod(0o755)


def test_restored_state_dicts_are_those_of_the_modules(tiny_zoo):
    state_dict = restore(tiny_zoo[0])
    assert {path: tuple(values.shape) for path, values in state_dict.items()} == {
        "0.weight": (5, 3),
        "0.bias": (5,),
        "2.weight": (2, 5),
        "2.bias": (2,),
    }


def test_stored_outputs_are_handed_out_as_copies(inr_zoo):
    outputs = inr_zoo.functional("digits")
    outputs[:] = 0
    assert inr_zoo.functional("digits").any()


@pytest.mark.parametrize("piece_bytes", [1, 700, 2**22])
def test_some_rows_of_a_column_or_of_outputs_are_those_of_the_whole(inr_zoo, monkeypatch, piece_bytes):
    monkeypatch.setattr("ngbench.store.arrays.PIECE_BYTES", piece_bytes)
    zoo = Zoo(inr_zoo.path)
    name, *_ = zoo.functional_names
    mask = np.arange(len(zoo)) % 3 == 1
    for rows in (np.array([30, 2, 2, 17, -1]), mask, slice(4, 20, 3), []):
        places = np.arange(len(zoo))[np.asarray(rows, dtype=np.int64) if isinstance(rows, list) else rows]
        assert zoo.functional(name, rows).tobytes() == inr_zoo.functional(name)[places].tobytes()
        for column in zoo.columns:
            assert zoo.column(column, rows).tolist() == inr_zoo.metadata[column][places].tolist()
    assert zoo.num_outputs(name) == inr_zoo.functional(name).shape[1]
    assert zoo.column("loss", [3]).tolist() == [zoo.metadata["loss"][3]] == zoo.column("loss", [3]).tolist()
    with pytest.raises(UnknownNameError, match="unknown metadata column of zoo 'glance' 'los': did you mean 'loss'"):
        zoo.column("los", [3])


def test_outputs_that_a_zoo_lacks_are_refused(inr_zoo, tiny_zoo):
    with pytest.raises(UnknownNameError, match="unknown stored outputs of zoo 'glance' 'digit': did you mean 'digits'"):
        inr_zoo.functional("digit")
    assert (tiny_zoo.functional_names, tiny_zoo.split_by) == ((), None)
    assert tiny_zoo.split_keys.tolist() == tiny_zoo.run_ids.tolist()


def test_outputs_of_another_number_of_networks_are_refused(inr_zoo, tmp_path, seal_again):
    def edit(file):
        outputs = file["functional/digits"][:-1]
        del file["functional/digits"]
        file["functional/digits"] = outputs

    path = tmp_path / "a.h5"
    path.write_bytes(inr_zoo.path.read_bytes())
    with pytest.raises(StoreFormatError, match=r"'/functional/digits' is <f2 of shape \(32, 64\); expected <f2 .*\(33, any\)"):
        Zoo(seal_again(path, edit)).functional("digits")


def test_a_split_by_what_is_no_column_is_refused(tiny_path, seal_again):
    def edit(file):
        file["splits/default"].attrs["by"] = "image"

    with pytest.raises(StoreFormatError, match="attribute 'by' of '/splits/default' is 'image', which is no column"):
        Zoo(seal_again(tiny_path, edit))


def test_values_of_any_rows_come_one_after_the_other(tiny, tiny_zoo):
    for rows in ([12, 0, 16, 3], [2, 5], []):
        flat, ptr = tiny_zoo.flat_values(rows)
        assert flat.tolist() == [value for row in rows for value in tiny.row(row).tolist()]
        assert np.diff(ptr).tolist() == tiny_zoo.num_values[rows].tolist()


def test_splits_are_told_in_the_order_in_which_they_were_written(tiny, tmp_path):
    splits = {name: OneOf(kind="one_of", column="optimizer", values=("adam",)) for name in ("b", "a", "c")}
    with ZooWriter(tmp_path / "a.h5", tiny.info, columns=tiny.columns, splits=splits) as writer:
        tiny.append_to(writer, 0, 5)
    zoo = Zoo(tmp_path / "a.h5")
    assert zoo.splits == ("a", "b", "c", "default")
    assert zoo.written_order("splits") == ("default", "b", "a", "c")
    assert zoo.written_order("functional") == ()
