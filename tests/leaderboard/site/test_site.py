"""The pages as files: every text escaped, every link met, and nothing asked for."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from leaderboard.records import Record
from leaderboard.site import write_site
from leaderboard.testing import benchmark_questions, fake_record
from ngbench.errors import ConfigError

VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """What stands in a page: elements with their attributes, ids, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.unmatched = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unmatched.append(tag)

    def values(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def pages(planted_site):
    folder = planted_site.folder
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.html"))}


@pytest.fixture(scope="module")
def parsed(pages):
    return {name: Page(text) for name, text in pages.items()}


def test_there_is_a_page_for_each_question_and_submission_and_data_beside_them(planted_site, pages):
    assert {"index.html", "submissions.html", "history.html"} <= set(pages)
    assert sum(name.startswith("tables/") for name in pages) == len(benchmark_questions())
    assert {f"submissions/{name}.html" for name in planted_site.records} <= set(pages)
    for name in pages:
        if name.startswith("tables/"):
            assert (planted_site.folder / name).with_suffix(".csv").is_file()
            assert len(json.loads((planted_site.folder / name).with_suffix(".json").read_text())["questions"]) == 1
    own = Record.load(planted_site.folder / "submissions" / "hostile.json")
    assert own == planted_site.records["hostile"]
    assert (planted_site.folder / "data" / "leaderboard.csv").read_text().count("\n") > 40


def test_every_tag_is_closed_and_every_id_stands_once(parsed):
    for name, page in parsed.items():
        assert (page.open, page.unmatched) == ([], []), name
        ids = page.values("id")
        assert len(set(ids)) == len(ids), name


def test_every_link_within_the_site_leads_somewhere(planted_site, parsed):
    count = 0
    for name, page in parsed.items():
        for href in page.values("href"):
            parts = urlsplit(href)
            if parts.scheme:
                continue
            target = (planted_site.folder / name).parent / unquote(parts.path) if parts.path else planted_site.folder / name
            assert target.is_file(), (name, href)
            if parts.fragment:
                other = parsed[target.resolve().relative_to(planted_site.folder.resolve()).as_posix()]
                assert parts.fragment in other.values("id"), (name, href)
            count += 1
    assert count > 300


def test_nothing_outside_the_page_is_asked_for(parsed):
    for name, page in parsed.items():
        assert page.values("src") == [], name
        assert page.values("style") == [], name
        assert [tag for tag, _ in page.elements if tag in ("iframe", "object", "embed", "base", "img")] == []
        schemes = {urlsplit(href).scheme for href in page.values("href")}
        assert schemes <= {"", "https", "data"}, name
        assert [a["href"][:19] for t, a in page.elements if t == "link"] == ["data:image/svg+xml;"]


def test_every_text_of_a_submission_is_escaped(pages, parsed):
    hostile = pages["submissions/hostile.html"]
    for text in ("<script>alert('title')</script>", "<img src=x onerror=alert(1)>", "</style></script><script>", "<b>first</b>"):
        assert not any(text in page for page in pages.values()), text
        assert html.escape(text, quote=False).replace("'", "&#39;") in hostile
    for name, page in parsed.items():
        # its own script alone
        assert [tag for tag, _ in page.elements].count("script") == 1, name
        assert [a for _, a in page.elements if any(key.startswith("on") for key in a)] == []


def test_a_text_that_is_an_address_is_a_link_and_no_other(pages):
    hostile = pages["submissions/hostile.html"]
    assert '<a href="https://example.org/paper?a=1&amp;b=2" rel="noopener nofollow ugc">' in hostile
    record = fake_record("own", {benchmark_questions()[0]: 0.5}, about={"paper": "javascript:alert(1)"})
    from leaderboard.site.pages import _linked

    assert str(_linked(record.about.paper)) == "javascript:alert(1)"
    assert str(_linked('https://a"onclick=b')) == "https://a&#34;onclick=b"


def test_the_policy_knows_the_style_and_script_of_the_page_and_no_other(pages):
    for text in pages.values():
        policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
        assert policy.startswith("default-src 'none'; ")
        for tag in ("style", "script"):
            (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "unsafe" not in policy


def test_flags_differences_and_history_of_a_submission_are_shown(pages):
    hostile = pages["submissions/hostile.html"]
    assert "looks like &lt;i&gt;another&lt;/i&gt;" in hostile
    assert "claims kendall_tau 0.99, 0.55 follows" in hostile
    assert hostile.index("2031-06-02</time><p>Fits of more seeds") < hostile.index("2031-05-18</time>")
    history = pages["history.html"]
    assert history.index("Fits of more seeds") < history.index("&lt;b&gt;first") < history.index("submissions/aleph.html")


def test_the_overall_rank_leaves_out_who_did_not_answer_everything(pages):
    index = pages["index.html"]
    overall = index[index.index('<table id="overall"') : index.index("</table>", index.index('<table id="overall"'))]
    assert "submissions/aleph.html" in overall
    assert overall.index("submissions/gimel.html") < overall.index("submissions/nothing.html")
    assert "submissions/prober.html" not in overall
    assert "submissions/hostile.html" not in overall


def test_without_records_there_is_a_site_that_says_so(tmp_path):
    index = write_site([], tmp_path / "site").read_text(encoding="utf-8")
    assert "No submission has been accepted yet." in index
    assert Page(index).unmatched == []


def test_without_answers_to_every_question_it_is_said_which_are_missing(tmp_path):
    every = [question for question in benchmark_questions() if question.task != "merging"]
    index = write_site([fake_record("own", dict.fromkeys(every, 0.5))], tmp_path).read_text(encoding="utf-8")
    assert "nobody has answered Merging on digits-mlp." in index


def test_what_the_benchmark_no_longer_asks_is_marked_and_stands_apart(tmp_path):
    first = benchmark_questions()[0]
    former = first.model_copy(update={"zoo_sha256": "f" * 64})
    index = write_site([fake_record("own", {first: 0.5, former: 0.25})], tmp_path).read_text(encoding="utf-8")
    assert "1 of earlier versions, or beyond the protocol" in index
    (page,) = (path for path in (tmp_path / "tables").glob("*.html") if "ffffffffffff" in path.name)
    assert "It counts for no overall rank." in page.read_text(encoding="utf-8")


def test_a_site_is_written_again_without_the_pages_that_it_no_longer_has(tmp_path):
    first, second, *_ = benchmark_questions()
    write_site([fake_record("one", {first: 0.5}), fake_record("two", {second: 0.5})], tmp_path)
    (tmp_path / "CNAME").write_text("mine")
    write_site([fake_record("one", {first: 0.5})], tmp_path)
    assert sorted(path.name for path in (tmp_path / "submissions").iterdir()) == ["one.html", "one.json"]
    assert len(list((tmp_path / "tables").iterdir())) == 3
    assert (tmp_path / "CNAME").read_text() == "mine"


def test_a_list_of_files_that_leads_out_of_the_folder_removes_nothing_there(tmp_path):
    (tmp_path / "precious").write_text("mine")
    write_site([], tmp_path / "site")
    (tmp_path / "site" / ".ngbench-site").write_text("../precious\nindex.html\n")
    write_site([], tmp_path / "site")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_with_other_files_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=f"'{tmp_path}' is a file, or holds files that are no page of a leaderboard"):
        write_site([], tmp_path)
    with pytest.raises(ConfigError, match="thesis.tex' is a file"):
        write_site([], tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
