"""The page: every number follows from the runs, every text is escaped, nothing is fetched."""

import html
import re
import shutil
from html.parser import HTMLParser

import pytest

from ngbench.errors import ResultError
from ngbench.evaluation.report import write_report
from ngbench.evaluation.result import Result

HOSTILE = "<script>alert('run')</script>"


class Reader(HTMLParser):
    """Tags, and the texts of table cells by row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def text(page_path):
    return page_path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Reader(text)


def test_scores_in_the_tables_are_those_of_the_results(page, planted):
    for file in planted.runs.rglob("result.json"):
        result = Result.load(file.parent)
        spread = result.scores[result.primary]
        expected = f"{spread.mean:z.3f}" + (f" ± {spread.std:.3f}" if spread.std is not None else "")
        # of the protocol's three seeds they have two, or one
        rows = [row for row in page.rows if row[0] == f"{result.method} †" and row[1].removeprefix("★ ") == expected]
        assert any(f"{result.interval.low:.3f} … {result.interval.high:.3f}" == row[2] for row in rows)


def test_names_from_files_are_escaped(page, text):
    assert HOSTILE not in text
    assert html.escape(HOSTILE, quote=False).replace("'", "&#39;") in text
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<b>no" not in text


def test_nothing_is_fetched(page):
    addresses = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset", "data")]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)


def test_nothing_but_the_table_of_marks_names_a_colour_in_a_picture(text):
    assert not re.search(r'(fill|stroke)="(#|rgb|black|white)', text)


def test_every_address_within_the_page_exists(page):
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"} <= ids
    assert len([attrs for tag, attrs in page.tags if tag == "a"]) == 1 + 6


def test_the_audit_says_what_is_denied(page, text):
    assert "move by up to 0.25 of their spread" in text
    assert ["permutation, all layers", "6", "3e-16"] in page.rows


def test_tracks_stand_apart_and_the_best_of_several_are_marked(page):
    texts = [row[0] for row in page.rows]
    first = texts.index("reads weights")
    assert texts.index("runs the networks on 4 inputs") < texts.index("runs the networks on 5 inputs")
    assert set(texts[first + 1 : first + 3]) == {"good †", f"{HOSTILE} †"}
    assert {row[0] for row in page.rows if len(row) > 1 and row[1].startswith("★")} >= {"good †"}
    assert all(not row[1].startswith("★") for row in page.rows if row[0] == "mean †")


def test_costs_stand_in_a_table_of_their_own_that_says_which_seeds(page):
    assert ["good", "1,234", "3.00 s", "0.50 s", "7 MB", "2 (0, 1)"] in page.rows
    assert ["mean", "1,234", "3.00 s", "0.50 s", "7 MB", "1 (seed 0)"] in page.rows


def test_captions_speak_only_of_what_is_there(planted, tmp_path):
    alone = write_report([planted.runs / "generalization" / "mean"], tmp_path / "page.html", zoos=planted.zoos)
    text, whole = alone.read_text(encoding="utf-8"), (planted.runs, planted.audit)
    several = write_report(whole, tmp_path / "whole.html", zoos=planted.zoos).read_text(encoding="utf-8")
    for words in ("Mean ± standard deviation over seeds.", "★ The best of several", "over test networks and seeds"):
        assert words not in text
        assert words in several
    assert "† Fewer seeds than the 3" in text


def test_the_page_says_whose_runs_it_shows(planted, text):
    assert f"<title>{planted.runs}, {planted.audit}: methods that read neural networks</title>" in text
    assert "<dt>zoos</dt><dd>small version" in text
    assert re.search(r"<dt>commit</dt><dd>[0-9a-f]{12}(\+changes)?</dd>", text)
    assert "<dt>runs</dt><dd>14, scored again" in text


def test_a_run_that_cannot_be_read_is_named_at_the_end_and_blocks_nothing(planted, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(planted.runs / "generalization", runs)
    (runs / "good" / "result.json").write_text('{"format_version": 1}')
    page = Reader(write_report([runs], tmp_path / "page.html", zoos=planted.zoos).read_text(encoding="utf-8"))
    assert page.rows[-1][0] == str(runs / "good")
    assert "format_version: Input should be 2" in page.rows[-1][1]
    assert any(row[0] == "mean †" for row in page.rows)


def test_a_page_of_which_nothing_can_be_read_is_not_written(planted, tmp_path):
    with pytest.raises(ResultError, match=r"none of 8 runs can be shown; the first, .*good: it was made on zoo 'small'"):
        write_report([planted.runs / "generalization"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_method_with_a_run_elsewhere_is_said_to_have_none_here(planted, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(planted.runs, runs)
    shutil.rmtree(runs / "classification" / "good")
    page = Reader(write_report([runs], tmp_path / "page.html", zoos=planted.zoos).read_text(encoding="utf-8"))
    assert ["good", "no run among those given"] in page.rows


def test_a_run_whose_predictions_are_gone_is_a_row_with_the_reason(planted, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(planted.runs / "generalization", runs)
    (runs / "good" / "seed-1" / "predictions.npz").unlink()
    page = Reader(write_report([runs], tmp_path / "page.html", zoos=planted.zoos).read_text(encoding="utf-8"))
    assert any(row[0] == "good" and "no predictions file" in row[1] for row in page.rows)


def test_a_folder_that_is_named_twice_is_shown_once(planted, tmp_path):
    folder = planted.runs / "generalization"
    page = Reader(write_report([folder, folder / "good"], tmp_path / "page.html", zoos=planted.zoos).read_text(encoding="utf-8"))
    assert len([row for row in page.rows if row[0] == "good †"]) == 1


def test_an_audit_alone_is_a_page(planted, tmp_path):
    text = write_report([planted.audit], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Verdicts" in text
    assert "<dt>runs</dt>" not in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none' does not exist"),
        ("empty", "empty' holds no result.json"),
        ("wrong.json", "wrong.json is no Audit"),
        ("blank.json", "blank.json is empty; expected Audit as JSON"),
    ],
)
def test_a_path_without_runs_or_audits_is_refused(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.json").write_text("{}")
    (tmp_path / "blank.json").write_text("")
    with pytest.raises(ResultError, match=message):
        write_report([tmp_path / name], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
