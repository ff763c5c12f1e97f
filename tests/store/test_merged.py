from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ngbench.errors import StoreFormatError, StoreWriteError
from ngbench.store import Zoo, ZooWriter, generate, merge
from ngbench.zoo.columns import Column
from ngbench.zoo.transfer import OneOf

pytestmark = pytest.mark.usefixtures("one_thread")

CUTS = [(0, 4), (4, 11), (11, 17)]
DIVERGED = [("run-90", "losses are not finite"), ("run-91", "weights are not finite")]

trains_in_a_fork = pytest.mark.skipif(
    torch.cuda.is_available(), reason="where there is a GPU, autograd has threads, and a forked process lacks them"
)


def write_part(tiny, path, first, last, **options):
    """Some networks of the tiny zoo as a file of their own; the last one has the runs that diverged."""
    with ZooWriter(path, tiny.info, columns=tiny.columns, **options) as writer:
        tiny.append_to(writer, first, last)
        writer.add_diverged(DIVERGED if last == len(tiny.ids) else [])
    return path


@pytest.fixture
def parts(tiny, tmp_path):
    return [write_part(tiny, tmp_path / f"part-{first}.h5", first, last) for first, last in CUTS]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("at_once", [1, 100, 2**24])
def test_merged_parts_are_the_file_of_one_writer_byte_by_byte(tiny, parts, tmp_path, monkeypatch, compressed, at_once):
    monkeypatch.setattr("ngbench.store.merged._VALUES_AT_ONCE", at_once)
    whole = tiny.write(tmp_path / "whole.h5", compressed=compressed)
    merge(parts, tmp_path / "merged.h5", compressed=compressed)
    assert (tmp_path / "merged.h5").read_bytes() == whole.read_bytes()


def test_a_zoo_grows_by_what_is_merged_with_it(tiny, parts, tmp_path):
    whole = tiny.write(tmp_path / "whole.h5")
    growing = tmp_path / "growing.h5"
    merge(parts[:1], growing)
    for part in parts[1:]:
        merge([growing, part], growing)
    assert growing.read_bytes() == whole.read_bytes()


def test_further_splits_and_stored_outputs_come_along(tiny, tmp_path, inr_zoo):
    held_out = {"sgd-held-out": OneOf(kind="one_of", column="optimizer", values=("sgd",))}
    paths = [write_part(tiny, tmp_path / f"{first}.h5", first, last, splits=held_out) for first, last in CUTS]
    merged = merge(paths, tmp_path / "merged.h5", splits=held_out)
    assert merged.parts("sgd-held-out").tolist() == [part for path in paths for part in Zoo(path).parts("sgd-held-out")]
    assert merge([inr_zoo.path], tmp_path / "inr.h5").sha256 == inr_zoo.sha256


def test_splits_of_the_recipe_come_along_by_themselves(mixed_recipe, tmp_path):
    zoo = generate(mixed_recipe, tmp_path / "mixed.h5")
    assert set(zoo.splits) > {"default"}
    assert merge([zoo.path], tmp_path / "again.h5").sha256 == zoo.sha256


def test_splits_that_no_rule_decides_come_along_network_by_network(tiny, tmp_path):
    paths, given = [], np.random.default_rng(5).integers(-1, 3, len(tiny.ids)).astype(np.int8)
    given = given[[tiny.run_ids.index(run_id) for run_id in tiny.run_ids]]
    for first, last in CUTS:
        paths.append(tmp_path / f"{first}.h5")
        with ZooWriter(paths[-1], tiny.info, columns=tiny.columns) as writer:
            tiny.append_to(writer, first, last)
            writer.add_split("published", given[first:last])
    merged = merge(paths, tmp_path / "merged.h5")
    assert merged.parts("published").tolist() == given.tolist()
    assert set(given.tolist()) == {-1, 0, 1, 2}


def test_a_split_of_one_part_alone_is_refused(tiny, parts, tmp_path):
    with ZooWriter(tmp_path / "other.h5", tiny.info, columns=tiny.columns) as writer:
        tiny.append_to(writer, 4, 11)
        writer.add_split("published", np.zeros(7, dtype=np.int8))
    with pytest.raises(StoreWriteError, match=r"splits \['default'\]; expected \['default', 'published'\]"):
        merge([tmp_path / "other.h5", parts[0]], tmp_path / "m.h5")


def test_a_network_that_stands_in_two_parts_is_refused(parts, tmp_path):
    with pytest.raises(StoreWriteError, match=r"network id 'réseau-00' stands twice in '.*m\.h5'; expected each id once"):
        merge([parts[0], parts[1], parts[0]], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def other_version(tiny):
    return {"info": replace(tiny.info, version="4")}


def other_column(tiny):
    return {"columns": (*tiny.columns[:2], Column("test_accuracy", "measurement", "float", "another text"))}


def other_rule(tiny):
    return {"split_by": "optimizer"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (other_version, r"other\.h5' cannot be merged: version 4; expected 3, as in the other files"),
        (other_column, r"other\.h5' cannot be merged: columns \[.*another text.*\]; expected \[.*fraction right"),
        (other_rule, r"cannot be merged: column that decides split 'default' optimizer; expected None"),
    ],
)
def test_files_that_are_not_of_one_zoo_are_refused(tiny, parts, tmp_path, change, match):
    options = {"info": tiny.info, "columns": tiny.columns, **change(tiny)}
    with ZooWriter(tmp_path / "other.h5", **options) as writer:
        tiny.append_to(writer, 4, 11)
    with pytest.raises(StoreWriteError, match=match):
        merge([parts[0], tmp_path / "other.h5"], tmp_path / "m.h5")


def test_splits_that_the_parts_do_not_have_are_refused(parts, tmp_path):
    held_out = {"held-out": OneOf(kind="one_of", column="optimizer", values=("sgd",))}
    with pytest.raises(StoreWriteError, match=r"splits \['default'\]; expected \['default', 'held-out'\]"):
        merge(parts, tmp_path / "m.h5", splits=held_out)


def test_no_part_is_refused(tmp_path):
    with pytest.raises(StoreWriteError, match=r"no zoo file was given to merge into '.*m\.h5'; expected at least one"):
        merge([], tmp_path / "m.h5")


def test_a_part_whose_mapped_values_are_damaged_is_refused_however_large(tiny, tmp_path, monkeypatch):
    path = write_part(tiny, tmp_path / "part.h5", 0, 11, compressed=False)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    monkeypatch.setattr("ngbench.store.reader.HASHED_AT_OPEN_BYTES", 0)
    Zoo(path)
    with pytest.raises(StoreFormatError, match=r"part\.h5' is corrupt: its content has sha256"):
        merge([path], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def in_child(work, *, kill):
    """Does something in a child process that is killed; whether it came to its end before that.

    Args:
        work: What is done.
        kill: Called in the parent with the child's id to kill it after a time, or in the child to arm it.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            kill(0)
            work()
            code = 0
        finally:
            os._exit(code)
    kill(child)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


def after(seconds):
    """Kills the child after a time."""

    def kill(child):
        if child:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)

    return kill


def at_event(number):
    """The child kills itself when it is about to open a file to write, or to rename or remove one, for the n-th time."""

    def kill(child):
        left = number
        if child:
            return

        def count(event, arguments):
            nonlocal left
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)

    return kill


def build(tiny, folder):
    """Writes the parts that are missing, then the zoo of them all."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"part-{first:02d}.h5" for first, _ in CUTS]
    for path, (first, last) in zip(paths, CUTS, strict=True):
        if not path.exists():
            write_part(tiny, path, first, last, compressed=False)
    merge(paths, folder / "zoo.h5", compressed=False)


def check_whole_or_missing(folder, names):
    """What has its name is a whole file."""
    for name in names:
        if (folder / name).exists():
            Zoo(folder / name)


def test_killed_before_any_step_on_the_disk_the_same_zoo_results(tiny, tmp_path):
    whole = tiny.write(tmp_path / "whole.h5", compressed=False).read_bytes()
    names = [*(f"part-{first:02d}.h5" for first, _ in CUTS), "zoo.h5"]
    number, ended = 0, False
    while not ended:
        number += 1
        folder = tmp_path / f"killed-{number}"
        ended = in_child(lambda folder=folder: build(tiny, folder), kill=at_event(number))
        check_whole_or_missing(folder, names)
        build(tiny, folder)
        assert (folder / "zoo.h5").read_bytes() == whole
        assert sorted(os.listdir(folder)) == names
    assert number > 12


def test_killed_again_and_again_at_random_moments_the_same_zoo_results(tiny, tmp_path):
    whole, rng = tiny.write(tmp_path / "whole.h5", compressed=False).read_bytes(), np.random.default_rng(11)
    start = time.perf_counter()
    build(tiny, tmp_path / "timed")
    duration_s = time.perf_counter() - start
    for number in range(12):
        folder = tmp_path / f"killed-{number % 4}"
        in_child(lambda folder=folder: build(tiny, folder), kill=after(rng.random() * duration_s))
        check_whole_or_missing(folder, ["zoo.h5"])
    for number in range(4):
        build(tiny, tmp_path / f"killed-{number}")
        assert (tmp_path / f"killed-{number}" / "zoo.h5").read_bytes() == whole
        assert len(os.listdir(tmp_path / f"killed-{number}")) == len(CUTS) + 1


@trains_in_a_fork
def test_a_generation_killed_again_and_again_at_random_moments_ends_with_the_same_file(recipe, tmp_path):
    start = time.perf_counter()
    whole = generate(recipe, tmp_path / "whole.h5", shard_size=2)
    duration_s, rng, path = time.perf_counter() - start, np.random.default_rng(12), tmp_path / "a.h5"
    ended = False
    for _ in range(6):
        ended = ended or in_child(lambda: generate(recipe, path, shard_size=2), kill=after(duration_s * rng.uniform(0.1, 0.8)))
        if path.exists():
            assert Zoo(path).sha256 == whole.sha256
    assert generate(recipe, path, shard_size=2).sha256 == whole.sha256
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "whole.h5"]


@trains_in_a_fork
def test_a_generation_killed_before_any_step_of_its_end_leaves_only_the_zoo_when_it_is_run_again(recipe, tmp_path):
    whole, path = generate(recipe, tmp_path / "whole.h5", shard_size=4), tmp_path / "a.h5"
    number, ended = 0, False
    while not ended:
        number += 1
        ended = in_child(lambda: generate(recipe, path, shard_size=4), kill=at_event(number))
        if path.exists():
            assert Zoo(path).sha256 == whole.sha256
    assert generate(recipe, path, shard_size=4).sha256 == whole.sha256
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "whole.h5"]
