"""Suites: each cell in a process of its own, so that one that fails is a state, and what is done is not run again."""

import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from ngbench.errors import ClusterError
from ngbench.evaluation import Result
from ngbench.evaluation.suite import process as processes
from ngbench.evaluation.suite import running
from ngbench.evaluation.suite.cells import SuiteCell
from ngbench.evaluation.suite.running import Runner, State
from ngbench.store import ZooInfo, ZooWriter, open_zoo
from ngbench.testing import SEVERAL_STRUCTURES, fake_dataset
from ngbench.zoo.columns import COLUMNS

PLANTED = """
import os
import signal
import sys
import time
from pathlib import Path

from ngbench.errors import GraphError
from ngbench.methods import MethodInfo

FITS, IS_OPEN, PIDS = (Path(__file__).with_name(name) for name in ("fits", "open", "pids"))


def note(file, text):
    with file.open("a") as lines:
        lines.write(f"{text}\\n")


class Spread:
    info = MethodInfo("spread", "Spread of weights", "weights", invariant=True, any_architecture=False, paper="none")
    num_parameters = 2

    def fit(self, problem, train, val, context):
        note(FITS, f"{type(self).__name__} {context.seed}")
        context.progress(1, 4, "loss 0.5")
        self.work(context)

    def work(self, context):
        print("from Python")
        os.write(1, b"from C\\n")
        os.write(2, b"no text: \\xff\\n")

    def predict(self, networks):
        return networks.one_structure(reader="spread").values.double().square().mean(1).numpy()


class Refusing(Spread):
    def work(self, context):
        raise GraphError(f"it reads no MLPs with seed {context.seed}")


class Exiting(Spread):
    def work(self, context):
        print("a warning", file=sys.stderr, flush=True)
        os._exit(3)


class Killed(Spread):
    def work(self, context):
        os.kill(os.getpid(), signal.SIGKILL)


class Faulty(Spread):
    def work(self, context):
        raise ZeroDivisionError("of 7 parts")


class Waiting(Spread):
    def work(self, context):
        if context.seed == 1 and not IS_OPEN.exists():
            note(PIDS, os.getpid())
            context.progress(2, 4, "waiting")
            time.sleep(100)


class Sleeping(Spread):
    def work(self, context):
        time.sleep(100)


class Stubborn(Waiting):
    def work(self, context):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        super().work(context)
"""

FAILURES = ("Refusing", "Exiting", "Killed", "Faulty")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder from which methods of a planted module are imported."""
    found = tmp_path_factory.mktemp("planted")
    (found / "planted_suite.py").write_text(PLANTED)
    sys.path.insert(0, str(found))
    yield found
    sys.path.remove(str(found))
    sys.modules.pop("planted_suite", None)


@pytest.fixture
def cell(small_zoo_path, folder):
    """Makes cells on the small zoo."""
    return lambda name, **fields: cell_of(name, folder, **{"zoo": small_zoo_path, **fields})


def cell_of(name, folder, *, zoo, task="generalization", target="test_accuracy", seeds=(0,), **fields):
    method = f"planted_suite:{name}"
    options = {"zoo": str(zoo), "seeds": seeds, "out": str(folder / "runs"), "device": "cpu", **fields}
    return SuiteCell(method=method, task=task, target=target, **options)


def short(method):
    return method.removeprefix("planted_suite:")


class Watched:
    """A watcher that notes what it is told."""

    def __init__(self):
        self.told = []

    def __call__(self, state):
        self.told.append((short(state.cell.method), state.status, state.share, state.text))


@pytest.fixture(scope="module")
def first_run(small_zoo_path, folder):
    """Methods of which one does well, and what the watcher was told."""
    watched = Watched()
    cells = [cell_of(name, folder, zoo=small_zoo_path) for name in (*FAILURES, "Spread")]
    states = Runner(cells, 2, watched).run()
    return {short(state.cell.method): state for state in states}, watched.told


def results(folder, name):
    return folder / "runs/generalization/small-v1" / f"planted_suite.{name}"


def test_a_cell_that_is_done_has_its_result_and_none_other_has(first_run, folder, small_zoo_path):
    states, _ = first_run
    assert (states["Spread"].status, states["Spread"].reason) == ("done", None)
    result, zoo = Result.load(results(folder, "Spread")), open_zoo(small_zoo_path)
    assert (result.method, [seed.seed for seed in result.seeds]) == ("planted_suite:Spread", [0])
    assert result.seeds[0].num_test == len(zoo.split("test"))
    assert not any((results(folder, name) / "result.json").exists() for name in FAILURES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Refusing", "it reads no MLPs with seed 0"),
        ("Exiting", "the process ended with code 3; the last that it said: a warning"),
        ("Killed", "the system ended the process, most likely for want of memory"),
        ("Faulty", "method 'planted_suite:Faulty' failed while it was fitted: ZeroDivisionError: of 7 parts"),
    ],
)
def test_a_cell_that_fails_has_a_reason_and_the_others_go_on(first_run, name, reason):
    states, _ = first_run
    assert (states[name].status, states[name].reason) == ("failed", reason)
    assert states["Spread"].status == "done"


def test_the_watcher_is_told_of_each_change_and_how_far_a_fit_is_and_prints_of_libraries_are_no_progress(first_run):
    _, told = first_run
    assert [found[1:] for found in told if found[0] == "Spread"] == [
        ("waiting", 0.0, ""),
        ("running", 0.0, ""),
        ("running", 0.25, "planted_suite:Spread, seed 0, loss 0.5"),
        ("done", 0.25, "planted_suite:Spread, seed 0, loss 0.5"),
    ]
    for name in FAILURES:
        assert [found[1] for found in told if found[0] == name] == ["waiting", "running", "running", "failed"]


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [
        (-11, ["UserWarning: slow\n"], "the process ended by signal 11 (Segmentation fault); the last that it said: UserWarning"),
        (-6, [], "the process ended by signal 6 (Aborted)"),
        (3, ["\n"], "the process ended with code 3"),
        (1, [], "the process ended with code 1"),
        (1, ["Traceback\n", "ValueError: 5\n", "\n"], "ValueError: 5"),
    ],
)
def test_the_end_of_a_process_is_said_before_its_last_line_unless_that_is_the_reason(code, said, reason):
    assert processes.reason_of(code, said).startswith(reason)


def no_process(*args, **options):
    raise AssertionError("a process was begun")


@pytest.fixture
def _no_processes(monkeypatch):
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=no_process, PIPE=None))


def fits(folder, name):
    lines = (folder / "fits").read_text().split("\n")
    return [int(line.split()[1]) for line in lines if line.split()[:1] == [name]]


@pytest.mark.usefixtures("first_run", "_no_processes")
def test_what_is_done_is_not_run_again(cell):
    watched = Watched()
    (state,) = Runner([cell("Spread")], 1, watched).run()
    assert (state.status, watched.told) == ("done", [("Spread", "done", 0.0, "")])


@pytest.mark.usefixtures("first_run", "_no_processes")
@pytest.mark.parametrize(("name", "seeds"), [("Faulty", (0,)), ("Spread", (0, 4)), ("Spread", (4,))])
def test_what_failed_and_another_seed_are_run(cell, name, seeds):
    with pytest.raises(AssertionError, match="a process was begun"):
        Runner([cell(name, seeds=seeds)], 1, Watched()).run()


@pytest.mark.usefixtures("first_run", "_no_processes")
def test_a_method_whose_file_has_changed_is_run_again(cell, folder, monkeypatch):
    # another command imports the file anew
    monkeypatch.delitem(sys.modules, "planted_suite")
    (folder / "planted_suite.py").write_text(PLANTED + "\n# other code\n")
    with pytest.raises(AssertionError, match="a process was begun"):
        Runner([cell("Spread")], 1, Watched()).run()
    monkeypatch.delitem(sys.modules, "planted_suite")
    (folder / "planted_suite.py").write_text(PLANTED)
    (state,) = Runner([cell("Spread")], 1, Watched()).run()
    assert state.status == "done"


@pytest.mark.usefixtures("_no_processes")
def test_what_a_method_cannot_do_or_is_left_out_or_lacks_its_zoo_is_said_without_a_process(cell, several_path, tmp_path):
    cells = [
        cell("Spread", task="retrieval", target=None),
        cell("Spread", zoo=several_path),
        cell("Spread", left_out="it takes hours"),
        cell("Spread", zoo=tmp_path / "gone.h5"),
        cell("NoSuch"),
    ]
    found = [(state.status, str(state.reason)) for state in Runner(cells, 1, Watched()).run()]
    assert [status for status, _ in found] == ["not applicable", "not applicable", "left out", "failed", "failed"]
    assert "'planted_suite:Spread' is not applicable to retrieval: it has no embed" in found[0][1]
    num_structures = len({topology.structure for topology in SEVERAL_STRUCTURES})
    assert found[1][1] == f"method 'planted_suite:Spread' reads one architecture; zoo 'several' has {num_structures}"
    assert found[2][1] == "it takes hours"
    assert "gone.h5" in found[3][1]
    assert "has no attribute 'NoSuch'" in found[4][1]


@pytest.fixture(scope="module")
def several_path(tmp_path_factory):
    """A zoo of networks of several structures."""
    path, dataset = tmp_path_factory.mktemp("several") / "several.h5", fake_dataset(SEVERAL_STRUCTURES, num_graphs=12)
    info = ZooInfo(name="several", version="1", title="Fakes", licence="MIT", citation="none", recipe=None)
    with ZooWriter(path, info, columns=[COLUMNS["test_accuracy"]]) as writer:
        for bundle in dataset.bundles:
            rows = bundle.index.numpy()
            writer.append(
                [bundle.variants[int(variant)] for variant in bundle.variant],
                bundle.values.numpy(),
                ids=[dataset.ids[row] for row in rows],
                metadata={"test_accuracy": dataset.targets[rows]},
            )
    return path


class Interrupting(Watched):
    """Presses Ctrl-C as soon as so many cells wait for it."""

    def __init__(self, num_waiting):
        super().__init__()
        self.num_waiting = num_waiting

    def __call__(self, state):
        super().__call__(state)
        waiting = {name for name, *_, text in self.told if text.endswith("waiting")}
        if len(waiting) == self.num_waiting:
            self.num_waiting = 0
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_a_process_ends_with_the_one_that_began_it(cell, folder):
    process = processes.begin()
    with process:
        print(cell("Sleeping", out=str(folder / "left")).model_dump_json(), file=process.stdin, flush=True)
        assert any("loss 0.5" in line for line in process.stdout)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(20) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals as POSIX has them")
@pytest.mark.slow
def test_an_interruption_ends_all_processes_and_a_later_run_goes_on(cell, folder, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE_S", 1.0)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    cells = [cell("Waiting", seeds=(0, 1)), cell("Stubborn", seeds=(1,)), cell("Spread", out=str(folder / "other"))]
    watched = Interrupting(num_waiting=2)
    try:
        with pytest.raises(KeyboardInterrupt):
            Runner(cells, 2, watched).run()
    finally:
        signal.signal(signal.SIGINT, handler)
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    ends = {name: status for name, status, *_ in watched.told}
    assert ends == {"Waiting": "waiting", "Stubborn": "waiting", "Spread": "waiting"}
    assert (fits(folder, "Waiting"), fits(folder, "Stubborn")) == ([0, 1], [1])
    (folder / "open").touch()
    (state,) = Runner(cells[:1], 2, Watched()).run()
    assert state.status == "done"
    assert fits(folder, "Waiting") == [0, 1, 1]


def test_a_process_is_not_begun_once_all_were_ended(cell):
    runner, state = Runner([], 1, Watched()), State(cell("Spread"))
    runner._stop()
    runner._run(state)
    assert (state.status, runner._processes) == ("waiting", set())


def test_a_machine_that_lacks_the_folder_of_results_is_named_and_begins_nothing(cell, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "begin", no_process)
    out = str(tmp_path / "elsewhere")
    with pytest.raises(ClusterError, match=f"machine '.*' of the cluster does not have the folder '{out}' .* name it as --out"):
        processes.run_elsewhere((cell("Spread", out=out), f"{out}/mark"), lambda share, text: None)


def test_a_cell_follows_the_one_whose_fits_it_takes_over(cell):
    taken = {"target": "activation", "zoo": "small"}
    cells = [
        cell("Spread", task="retrieval", **taken),
        cell("Waiting", task="classification", **taken),
        cell("Spread", task="classification", target="optimizer", zoo="small"),
        cell("Spread", task="classification", **taken),
    ]
    assert running._sources(cells) == {0: 3}
