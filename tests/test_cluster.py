"""A Ray cluster: the same results as one process, whatever dies; without Ray, an error that says what to install."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from types import ModuleType

import pytest

from ngbench.cluster import NUM_ATTEMPTS, PATIENCE_S, num_gpus_of, spread
from ngbench.errors import ClusterError, TrainingError
from ngbench.evaluation.evaluate import PREDICTIONS_FILE
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import Result
from ngbench.evaluation.suite.cells import SuiteCell
from ngbench.evaluation.suite.running import Runner
from ngbench.store import generate

NUM_WORKERS, NUM_GPUS = 3, 2

PLANTED = """
import os
import signal
import time
from pathlib import Path

from ngbench.errors import TrainingError
from ngbench.methods import MethodInfo

FOLDER = Path(__file__).parent


def square(part, tell):
    tell(0.5, "half")
    time.sleep(0.5)
    return part * part, os.getpid()


def stamp(part, tell):
    begun = time.monotonic()
    time.sleep(part)
    return begun, time.monotonic(), os.environ.get("CUDA_VISIBLE_DEVICES")


def setting(part, tell):
    return os.environ.get(part)


def fail(part, tell):
    raise TrainingError(f"part {part} failed")


def die(part, tell):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(part, tell):
    if not (FOLDER / f"died-{part}").exists():
        (FOLDER / f"died-{part}").touch()
        die(part, tell)
    return part * part


def wait(part, tell):
    (FOLDER / f"begun-{part}").touch()
    try:
        while True:
            time.sleep(0.3)
            tell(0.5, "waiting")
    finally:
        (FOLDER / f"ended-{part}").touch()


class Spread:
    info = MethodInfo("spread", "Spread of weights", "weights", invariant=True, any_architecture=False, paper="none")
    num_parameters = 2

    def fit(self, problem, train, val, context):
        context.progress(1, 4, "loss 0.5")
        self.work(context)

    def work(self, context):
        pass

    def predict(self, networks):
        return networks.one_structure(reader="spread").values.double().square().mean(1).numpy()


class Waiting(Spread):
    def work(self, context):
        with (FOLDER / "fits").open("a") as lines:
            lines.write(f"{os.getpid()} {os.getppid()}\\n")
        if not (FOLDER / "open").exists():
            time.sleep(100)


class Kept(Spread):
    def work(self, context):
        try:
            time.sleep(100)
        finally:
            (FOLDER / "kept").touch()


class Refusing(Spread):
    def work(self, context):
        raise TrainingError(f"no fit with seed {context.seed}")
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A module that worker processes import."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "planted_parts.py").write_text(PLANTED)
    sys.path.insert(0, str(folder))
    import planted_parts

    yield planted_parts
    sys.path.remove(str(folder))
    del sys.modules["planted_parts"]


@pytest.fixture(scope="module")
def cluster(planted):
    """A cluster of several worker processes on this machine; its GPUs are no more than numbers."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ngbench[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    memory = 100 * 2**20
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error", "object_store_memory": memory}
    ray.init(address="local", num_cpus=NUM_WORKERS, num_gpus=NUM_GPUS, **options)
    yield ray
    ray.shutdown()


def ignored(number, done, text):
    pass


def no_work(part, tell):
    raise AssertionError("work was begun")


def kill_a_worker(name):
    """Kills a process of the cluster that works on a part, if there is one, as the lack of memory would."""
    psutil = pytest.importorskip("psutil")
    for process in psutil.Process().children(recursive=True):
        # one that has just ended has no command line
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith(f"ray::{name}"):
                process.kill()
                return


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"Ray cannot be imported \(.*\); .* pip install 'ngbench\[ray\]'"):
        list(spread(no_work, {0: "abc"}, device="cpu", report=ignored))


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_a_device_that_a_cluster_does_not_hand_out_is_refused(device):
    with pytest.raises(ClusterError, match=f"device is '{device}'; a Ray cluster itself says .* expected 'cpu' or 'cuda'"):
        num_gpus_of(device)
    assert (num_gpus_of("cpu"), num_gpus_of("cuda")) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere"])
def test_an_address_where_no_cluster_answers_is_an_error_at_once(address, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ngbench[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=f"no Ray cluster answers at RAY_ADDRESS '{address}' "):
        list(spread(no_work, {0: "abc"}, device="cpu", report=ignored))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_every_part_is_done_once_in_several_processes_and_says_how_far_it_is(planted):
    told = []
    parts = {5: 3, 2: 7, 9: 1, 4: 6}
    results = dict(spread(planted.square, parts, device="cpu", report=lambda *args: told.append(args)))
    assert {number: value for number, (value, _) in results.items()} == {5: 9, 2: 49, 9: 1, 4: 36}
    pids = {pid for _, pid in results.values()}
    assert os.getpid() not in pids
    assert len(pids) > 1
    assert {(5, 0.5, "half"), (2, 0.5, "half"), (9, 0.5, "half")} <= set(told)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_no_part_is_nothing_to_do(planted):
    assert list(spread(planted.square, {}, device="cpu", report=ignored)) == []


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_settings_of_this_process_hold_in_the_workers_and_nothing_else_of_its_environment(planted, monkeypatch):
    monkeypatch.setenv("NGBENCH_IMAGES", "/images")
    monkeypatch.setenv("OTHER_IMAGES", "/others")
    parts = {0: "NGBENCH_IMAGES", 1: "OTHER_IMAGES"}
    assert dict(spread(planted.setting, parts, device="cpu", report=ignored)) == {0: "/images", 1: None}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_error_of_a_part_is_raised_here(planted):
    with pytest.raises(TrainingError, match="part 3 failed"):
        list(spread(planted.fail, {0: 3}, device="cpu", report=ignored))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_module_that_a_machine_does_not_have_is_named(monkeypatch):
    module = ModuleType("only_here")
    exec("def work(part, tell): pass", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(ClusterError, match="of the cluster has no module 'only_here'; .* install it there"):
        list(spread(vars(module)["work"], {0: 3}, device="cpu", report=ignored))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_part_whose_worker_dies_is_done_again(planted):
    told = []
    results = dict(spread(planted.die_once, {0: 3, 1: 7}, device="cpu", report=lambda *args: told.append(args)))
    assert results == {0: 9, 1: 49}
    assert sorted(told) == [(0, 0, "its worker died: attempt 2 of 4"), (1, 0, "its worker died: attempt 2 of 4")]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_part_that_kills_every_worker_is_an_error_that_names_it(planted):
    with pytest.raises(ClusterError, match=f"worker of part 6 died in each of {NUM_ATTEMPTS} attempts, .*WorkerCrashedError"):
        list(spread(planted.die, {6: 1}, device="cpu", report=ignored))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_each_part_on_cuda_has_a_gpu_of_its_own_and_no_more_are_begun_than_there_are(planted):
    parts = dict.fromkeys(range(5), 0.5)
    results = [result for _, result in spread(planted.stamp, parts, device="cuda", report=ignored)]
    assert {gpu for *_, gpu in results} == {"0", "1"}
    for gpu in ("0", "1"):
        spans = sorted((begun, ended) for begun, ended, of in results if of == gpu)
        assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(spans))


@pytest.mark.slow
def test_a_gpu_that_the_cluster_does_not_have_is_an_error(planted, cluster, monkeypatch):
    monkeypatch.setattr(cluster, "cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(ClusterError, match="a part takes 1 GPU; the Ray cluster has 0: start a machine that has one"):
        list(spread(planted.square, {0: 3}, device="cuda", report=ignored))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_part_that_follows_another_is_begun_after_its_end(planted):
    results = dict(spread(planted.stamp, {0: 0.01, 1: 1.0, 2: 0.01}, device="cpu", report=ignored, after={2: 1, 0: 7}))
    assert results[0][0] < results[1][1] <= results[2][0]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_interruption_ends_the_work(planted):
    begun = {"a": planted.FOLDER / "begun-a", "b": planted.FOLDER / "begun-b"}

    def press(number, done, text):
        if all(path.exists() for path in begun.values()):
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(spread(planted.wait, {0: "a", 1: "b"}, device="cpu", report=press))
    assert time.monotonic() - begin < PATIENCE_S
    assert all((planted.FOLDER / f"ended-{name}").exists() for name in begun)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_zoo_is_the_same_file_as_from_one_process_though_a_worker_is_killed_in_the_middle(mixed_recipe, tmp_path):
    texts, again = [], "its worker died: attempt 2 of 4"

    def kill_one(done, total, text=""):
        # a worker that is killed just after its part has died in vain
        if again not in texts and len(texts) < NUM_ATTEMPTS - 1:
            kill_a_worker("_work_on")
        texts.append(text)

    one = generate(mixed_recipe, tmp_path / "one.h5", shard_size=1)
    many = generate(mixed_recipe, tmp_path / "many.h5", shard_size=1, executor="ray", progress=kill_one)
    assert again in texts
    assert many.sha256 == one.sha256
    assert (tmp_path / "many.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["many.h5", "one.h5"]


def cell_of(name, zoo, out, **fields):
    options = {"task": "generalization", "target": "test_accuracy", "device": "cpu", "seeds": (0, 2), **fields}
    return SuiteCell(method=f"planted_parts:{name}", zoo=str(zoo), out=str(out), **options)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_interruption_of_cells_lets_them_keep_what_they_have(planted, small_zoo_path, tmp_path):
    statuses = []

    def press(state):
        statuses.append(state.status)
        if state.share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner([cell_of("Kept", small_zoo_path, tmp_path)], 1, press, "ray").run()
    assert (planted.FOLDER / "kept").exists()
    assert statuses[-2:] == ["running", "waiting"]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_cells_have_the_same_results_as_on_one_machine_though_a_worker_is_killed_in_the_middle(planted, small_zoo_path, tmp_path):
    told = []

    def watch(state):
        told.append((state.cell.method.partition(":")[2], state.status, state.text))
        fits = planted.FOLDER / "fits"
        pids = fits.read_text().split() if fits.exists() else []
        if len(pids) >= 2 and not (planted.FOLDER / "open").exists():
            (planted.FOLDER / "open").touch()
            os.kill(int(pids[1]), signal.SIGKILL)

    def run(where, names, **options):
        cells = [cell_of(name, small_zoo_path, tmp_path / where) for name in names]
        return {state.cell.method.partition(":")[2]: (state.status, state.reason) for state in Runner(cells, 1, **options).run()}

    found = run("many", ("Waiting", "Spread", "Refusing"), watch=watch, executor="ray")
    assert found == {"Waiting": ("done", None), "Spread": ("done", None), "Refusing": ("failed", "no fit with seed 0")}
    assert ("Waiting", "running", "its worker died: attempt 2 of 4") in told
    orphan = int((planted.FOLDER / "fits").read_text().split()[0])
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{orphan}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{orphan}")
    assert run("one", ("Waiting", "Spread"), watch=lambda state: None) == {"Waiting": ("done", None), "Spread": ("done", None)}
    for name in ("Waiting", "Spread"):
        one, many = (tmp_path / where / "generalization/small-v1" / f"planted_parts.{name}" for where in ("one", "many"))
        assert Result.load(many).scores == Result.load(one).scores
        for seed in (0, 2):
            a, b = (Predictions.load(next(folder.glob(f"*{seed}*/{PREDICTIONS_FILE}"))) for folder in (one, many))
            assert (a.values == b.values).all()
            assert (a.scrambled == b.scrambled).all()
        files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (one, many)]
        assert files[0] == files[1]
    assert sorted(os.listdir(tmp_path / "many")) == sorted(os.listdir(tmp_path / "one"))
    assert set(run("many", ("Waiting", "Spread"), watch=lambda state: None, executor="ray").values()) == {("done", None)}


@pytest.mark.slow
def test_the_command_begins_a_cluster_where_there_is_none_and_prints_nothing_of_it(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ngbench[ray]'")
    command = [sys.executable, "-m", "ngbench.cli", "zoo", "generate", "digits-mlp", "--limit", "2", "--executor", "ray"]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    finished = subprocess.run([*command, "--out", tmp_path / "a.h5"], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("\n") == 1
    assert finished.stdout.startswith(f"2 networks in {tmp_path / 'a.h5'}, sha256 ")


PRINTING = """
import sys
import planted_parts
from ngbench.cluster import spread
print(dict(spread(planted_parts.die_once, {0: 13, 1: 17}, device="cpu", report=lambda *told: None)))
"""


@pytest.mark.slow
def test_a_worker_that_dies_prints_nothing_on_standard_output(planted):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ngbench[ray]'")
    environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    finished = subprocess.run([sys.executable, "-c", PRINTING], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout in ("{0: 169, 1: 289}\n", "{1: 289, 0: 169}\n")
