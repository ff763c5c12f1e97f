"""A public zoo file tells nothing of the answers, the answer file all of them, and the two belong together for ever."""

from __future__ import annotations

import hashlib
import json
import pickle

import h5py
import numpy as np
import pytest

from leaderboard.seal import MIN_SEED_BITS, leaks, seal
from ngbench.errors import (
    ChecksumError,
    SplitError,
    StoreFormatError,
    StoreWriteError,
    UnknownNameError,
    WithheldError,
)
from ngbench.store import ZooInfo, ZooWriter, open_zoo, update_card, verify
from ngbench.store.answers import AnsweredZoo, Answers, commitment_of
from ngbench.store.hub import export_dataset, import_dataset
from ngbench.testing import SEVERAL_STRUCTURES, fake_dataset
from ngbench.zoo.columns import COLUMNS, INR_COLUMNS, Column
from ngbench.zoo.transfer import OneOf

NUM_NETWORKS, NUM_OUTPUTS = 60, 7
KEPT_BACK = ("run_index", "test_accuracy", "note")


def written(path, *, split_by=None, **info):
    """Untrained networks of several structures that tell everything of themselves, two of each run."""
    dataset = fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_NETWORKS, seed=7)
    rng = np.random.default_rng(2)
    told = {
        "run_index": np.arange(NUM_NETWORKS) // 2,
        "image_index": np.arange(NUM_NETWORKS) // 3,
        "optimizer": rng.choice(["adam", "sgd"], NUM_NETWORKS),
        "init_scale": dataset.hyperparameters["init_scale"],
        "test_accuracy": dataset.targets,
        "note": np.array([f"measured {row:03d}" for row in range(NUM_NETWORKS)]),
    }
    columns = [*(COLUMNS[name] for name in ("run_index", "optimizer", "init_scale", "test_accuracy"))]
    columns += [Column("note", "measurement", "str", "anything"), INR_COLUMNS["image_index"]]
    outputs = rng.normal(size=(NUM_NETWORKS, NUM_OUTPUTS)).astype(np.float16)
    splits = {"adam-held-out": OneOf(kind="one_of", column="optimizer", values=("adam",))}
    fields = {"name": "kept", "version": "3", "title": "Fakes", "licence": "MIT", "citation": "none", **info}
    with ZooWriter(path, ZooInfo(**fields), columns=columns, splits=splits, split_by=split_by) as writer:
        for bundle in dataset.bundles:
            rows = bundle.index.numpy()
            writer.append(
                [bundle.variants[int(variant)] for variant in bundle.variant],
                bundle.values.numpy(),
                ids=[f"network-{row:03d}" for row in rows],
                run_ids=None if split_by else [f"run-{row // 2:02d}" for row in rows],
                metadata={name: column[rows] for name, column in told.items()},
                functional={"digits": outputs[rows]},
            )
    return open_zoo(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(tmp_path_factory.mktemp("whole") / "kept.h5")


@pytest.fixture(scope="module")
def sealed(whole, tmp_path_factory):
    return seal(whole, tmp_path_factory.mktemp("sealed"))


@pytest.fixture(scope="module")
def public(sealed):
    return open_zoo(sealed.public)


@pytest.fixture(scope="module")
def answered(sealed):
    return open_zoo(sealed.public, answers=sealed.answers)


def origin(whole, sealed):
    """Position in the whole zoo of each network of the public file, found by nothing but the host's list of names."""
    answers = Answers.load(sealed.answers)
    names = dict(zip(answers.ids.tolist(), answers.names.tolist(), strict=True))
    place = {name: row for row, name in enumerate(whole.ids.tolist())}
    return np.array([place[names.get(id, id)] for id in open_zoo(sealed.public).ids.tolist()])


def test_weights_and_topologies_of_all_networks_are_public(whole, sealed, public):
    rows = origin(whole, sealed)
    assert sorted(rows.tolist()) == list(range(NUM_NETWORKS))
    for row, graph in zip(rows.tolist(), public, strict=True):
        assert graph.topology == whole[row].topology
        np.testing.assert_array_equal(graph.row().numpy(), whole[row].row().numpy())


def test_what_is_not_sealed_is_told_as_it_was(whole, sealed, public):
    rows = origin(whole, sealed)
    for part in ("train", "val"):
        own = public.split(part)
        assert public.ids[own].tolist() == whole.ids[whole.split(part)].tolist()
        assert public.run_ids[own].tolist() == whole.run_ids[whole.split(part)].tolist()
        for name in whole.columns:
            np.testing.assert_array_equal(public.metadata[name][own], whole.metadata[name][rows[own]])
    assert set(rows[public.split("test")].tolist()) == set(whole.split("test").tolist())


def test_of_sealed_networks_nothing_is_told_that_answers_or_names_them(sealed, public):
    test = public.split("test")
    assert sealed.withheld == (*KEPT_BACK, "image_index")
    assert public.info.withheld.columns == sealed.withheld
    assert sealed.num_networks == len(test) > 0
    assert np.isnan(public.metadata["test_accuracy"][test]).all()
    assert set(public.metadata["note"][test].tolist()) == {""}
    assert set(public.metadata["run_index"][test].tolist()) == {-1}
    # no two share a run, a name of chance has no place in the zoo, and the order is that of the names
    names = public.ids[test].tolist()
    assert len(set(public.run_ids[test].tolist())) == len(test)
    assert not {name for name in names if not name.startswith("sealed-")}
    assert test.tolist() == list(range(NUM_NETWORKS - len(test), NUM_NETWORKS))
    assert names == sorted(names)
    assert public.functional_names == ()


def test_no_byte_of_the_public_file_holds_a_text_that_is_withheld(whole, sealed):
    with h5py.File(sealed.public) as file:
        texts = []
        file.visititems(lambda _, found: texts.append(found[()].tobytes()) if isinstance(found, h5py.Dataset) else None)
        texts += [str(value).encode() for value in file.attrs.values()]
    content = b"\n".join(texts)
    told, secret = (whole.metadata["note"][whole.split(part)].tolist() for part in ("train", "test"))
    assert all(note.encode() in content for note in told)
    assert not [note for note in secret if note.encode() in content]
    assert not [name for name in whole.ids[whole.split("test")].tolist() if name.encode() in content]


def test_names_differ_each_time_so_that_two_files_cannot_be_joined(whole, sealed, tmp_path):
    again = seal(whole, tmp_path)
    assert not set(open_zoo(again.public).ids.tolist()) & {id for id in open_zoo(sealed.public).ids if id.startswith("sealed")}
    assert again.commitment != sealed.commitment


def test_the_host_has_every_column_and_output_again(whole, sealed, answered):
    rows = origin(whole, sealed)
    assert answered.info.withheld is None
    for name in whole.columns:
        np.testing.assert_array_equal(answered.metadata[name], whole.metadata[name][rows])
        assert not answered.withheld(name).any()
    test = answered.split("test")
    np.testing.assert_array_equal(answered.functional("digits")[test], whole.functional("digits")[rows[test]])
    assert np.isnan(answered.functional("digits")[answered.split("train")]).all()
    assert answered.split_keys.tolist() == whole.split_keys[rows].tolist()
    with pytest.raises(UnknownNameError, match="mnist"):
        answered.functional("mnist")


def test_what_the_host_has_is_named_as_the_public_file_and_travels_by_its_paths(public, answered):
    assert answered.sha256 == public.sha256
    assert answered.ids.tolist() == public.ids.tolist()
    copy = pickle.loads(pickle.dumps(answered))
    assert isinstance(copy, AnsweredZoo)
    np.testing.assert_array_equal(copy.metadata["test_accuracy"], answered.metadata["test_accuracy"])


def test_the_commitment_is_the_sha256_of_the_answer_file_which_holds_chance(sealed, public):
    assert public.info.withheld.commitment == sealed.commitment == hashlib.sha256(sealed.answers.read_bytes()).hexdigest()
    with np.load(sealed.answers) as content:
        assert content["salt"].dtype == np.uint8
        assert len(content["salt"]) == 32
        assert len(set(content["salt"].tolist())) > 10


def test_answers_that_were_changed_afterwards_are_refused_by_their_digest(sealed, tmp_path):
    with np.load(sealed.answers) as content:
        arrays = dict(content)
    arrays["column/test_accuracy"] = arrays["column/test_accuracy"][::-1]
    forged = tmp_path / "forged.npz"
    np.savez_compressed(forged, **arrays)
    with pytest.raises(ChecksumError, match=rf"has sha256 {commitment_of(forged)}, .*commits to {sealed.commitment}"):
        open_zoo(sealed.public, answers=forged)


def test_answers_to_a_whole_zoo_or_of_another_kind_of_file_are_refused(whole, sealed, tmp_path):
    with pytest.raises(ChecksumError, match=r"zoo 'kept' .* withholds no answers"):
        open_zoo(whole.path, answers=sealed.answers)
    other = tmp_path / "other.npz"
    np.savez(other, about=np.array(json.dumps({"format": "ngbench-answers", "format_version": 9})))
    with pytest.raises(StoreFormatError, match=r"version 9, and lacks ids, names, salt, split_keys"):
        open_zoo(sealed.public, answers=other)
    with pytest.raises(StoreFormatError, match="missing.npz"):
        open_zoo(sealed.public, answers=tmp_path / "missing.npz")


def test_a_public_file_is_proved_like_any_other(public):
    checks = {check.name: check for check in verify(public)}
    assert all(check.passed for check in checks.values()), checks
    assert public.info.withheld.commitment in checks["withheld answers"].detail


def test_an_answer_that_slipped_into_a_public_file_is_found(public, tmp_path):
    columns, test = list(public.columns.values()), public.split("test")
    metadata = {name: public.metadata[name] for name in public.columns}
    metadata["test_accuracy"][test[4]] = 0.25
    with ZooWriter(tmp_path / "leak.h5", public.info, columns=columns) as writer:
        for row, graph in enumerate(public):
            own = {name: column[[row]] for name, column in metadata.items()}
            ids = {"ids": [public.ids[row]], "run_ids": [public.run_ids[row]]}
            writer.append(graph.topology, graph.row().numpy()[None], **ids, metadata=own)
    found = {check.name: check for check in verify(open_zoo(tmp_path / "leak.h5"))}["withheld answers"]
    assert not found.passed
    assert f"column 'test_accuracy' is told of 1 of {len(test)} networks" in found.detail


def test_images_stay_together_for_the_host_where_a_column_decides_the_split(tmp_path):
    whole = written(tmp_path / "images.h5", split_by="image_index")
    made = seal(whole, tmp_path / "out", targets=["optimizer"])
    public, answered = open_zoo(made.public), open_zoo(made.public, answers=made.answers)
    test = public.split("test")
    assert set(made.withheld) == {*KEPT_BACK, "image_index", "optimizer"}
    assert len(set(public.metadata["image_index"][test].tolist())) == len(test)
    assert min(public.metadata["image_index"][test]) >= 10**17
    assert sorted(answered.split_keys[test].tolist()) == sorted(whole.split_keys[whole.split("test")].tolist())
    assert all(check.passed for check in verify(public))


def test_a_split_that_holds_networks_out_can_be_sealed_too(whole, tmp_path):
    made = seal(whole, tmp_path, splits=["adam-held-out"])
    public = open_zoo(made.public)
    test = public.split("test", "adam-held-out")
    rows = origin(whole, made)
    assert set(rows[test].tolist()) == set(whole.split("test", "adam-held-out").tolist())
    for part in ("train", "val"):
        own = whole.split(part, "adam-held-out").tolist()
        assert sorted(rows[public.split(part, "adam-held-out")].tolist()) == own
        assert not set(public.split(part).tolist()) & set(test.tolist())
    assert public.withheld("test_accuracy").sum() == len(test)


def test_splits_that_contradict_each_other_are_not_sealed_together(whole, tmp_path):
    with pytest.raises(SplitError, match=r"split 'default' of zoo 'kept' learns from \d+ networks that another of default, adam"):
        seal(whole, tmp_path, splits=["default", "adam-held-out"])
    with pytest.raises(SplitError, match="no split 'wide'"):
        seal(whole, tmp_path, splits=["wide"])
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_zoo_is_not_sealed_again_nor_anything_replaced(whole, public, sealed, tmp_path):
    with pytest.raises(WithheldError, match="zoo 'kept' in .* is sealed already"):
        seal(public, tmp_path)
    with pytest.raises(StoreWriteError, match=r"kept-v3-sealed\.h5' is there already"):
        seal(whole, sealed.public.parent)
    with pytest.raises(UnknownNameError, match="optimiser.*did you mean 'optimizer'"):
        seal(whole, tmp_path, targets=["optimiser"])


def test_a_public_file_comes_back_from_a_dataset_folder_as_it_was(public, tmp_path):
    again = import_dataset(export_dataset(public, tmp_path / "folder"), tmp_path / "again.h5")
    assert again.sha256 == public.sha256
    assert again.info.withheld == public.info.withheld


def test_no_card_is_made_of_a_public_file(public, tmp_path):
    with pytest.raises(WithheldError, match=r"version 3-sealed withholds run_index, test_accuracy, note"):
        update_card(public, tmp_path)


def test_it_is_said_by_what_answers_could_be_found_all_the_same(small_zoo_path, inr_recipe):
    assert list(leaks(open_zoo(small_zoo_path))) == []
    assert any("digits-cnn version 1 is released" in leak for leak in leaks(open_zoo("digits-cnn")))

    class Stub:
        name, version, path, sha256 = "glance", "6", "glance.h5", ""
        info = ZooInfo("glance", "6", "", "", "", {**inr_recipe.model_dump(mode="json"), "seed": 2**MIN_SEED_BITS - 1})

    assert list(leaks(Stub())) == ["its networks render images, which can be looked up where their corpus is public"]
    Stub.info = ZooInfo("glance", "6", "", "", "", inr_recipe.model_dump(mode="json"))
    assert "the recipe's seed, 8, can be guessed" in next(leaks(Stub()))


def test_a_file_whose_withheld_part_is_damaged_is_refused(sealed, tmp_path):
    from ngbench.store.seal import SEAL_BYTES, write_sealed

    for text, match in (
        ('{"splits": ["default"]}', "root attribute 'withheld' is"),
        ('{"splits": ["wide"], "columns": ["shoe"], "commitment": ""}', "names shoe, wide, which is no split or column"),
    ):
        path = tmp_path / "damaged.h5"
        path.write_bytes(sealed.public.read_bytes())
        with h5py.File(path, "r+") as file:
            file.attrs["withheld"] = text
        content = path.read_bytes()[SEAL_BYTES:]
        with path.open("wb") as file:
            write_sealed(file, content, ())
        with pytest.raises(StoreFormatError, match=match):
            open_zoo(path)
