"""Cards of recipes and of families of published zoos: what follows from them stands in the card, and is not stale."""

import re
import shutil
from pathlib import Path

import pytest

from ngbench.errors import CardError, UnknownNameError
from ngbench.store import PUBLISHED, RELEASED, update_outline
from ngbench.store.card import BEGIN, END, OUTLINE, recipe_digest
from ngbench.store.outline import described, outline_of_family
from ngbench.store.published import FAMILIES
from ngbench.zoo.distributions import ByValue, Choice, Fixed, LogInt, LogUniform, Uniform
from ngbench.zoo.recipe import load_recipe, recipe_names

CARDS = Path(__file__).parents[2] / "data_cards"
# told in the card of digits-inr
TWINS = {"digits-inr-shared", "digits-inr-single"}
PLANNED = sorted(set(recipe_names()) - set(RELEASED) - TWINS)


@pytest.mark.parametrize("name", [*PLANNED, *FAMILIES])
def test_the_outlines_of_all_cards_are_up_to_date(name, tmp_path):
    shutil.copy(CARDS / f"{name}.md", tmp_path)
    assert update_outline(name, tmp_path).read_text() == (CARDS / f"{name}.md").read_text()


@pytest.mark.parametrize("name", PLANNED)
def test_what_was_trained_for_a_card_was_trained_by_the_recipe_as_it_is(name):
    shown = (CARDS / f"{name}.md").read_text().partition(BEGIN)[2].partition(END)[0]
    digest = recipe_digest(load_recipe(name).model_dump(mode="json"))
    assert f"runs of recipe `{digest}`" in shown or shown == "\nNo file of this zoo has been measured for this card yet.\n"


def test_every_published_zoo_stands_in_the_card_of_one_family():
    assert sorted(name for names in FAMILIES.values() for name in names) == list(PUBLISHED)
    for family, names in FAMILIES.items():
        text = (CARDS / f"{family}.md").read_text()
        for name in names:
            zoo = PUBLISHED[name]
            assert all(part in text for part in (f"| `{name}` |", zoo.licence, zoo.citation, zoo.home))
            assert all(file.url in text and (file.sha256 or "recorded at the first download") in text for file in zoo.files)
            assert all(f"| `{column.name}` | {column.role} | {column.description} |" in text for column in zoo.columns)


@pytest.mark.parametrize("name", [*PLANNED, *FAMILIES])
def test_the_commands_of_a_card_name_zoos_and_recipes_that_there_are(name):
    commands = re.findall(r"ngbench zoo (\w+) ([\w-]+)", (CARDS / f"{name}.md").read_text())
    shown = [(command, zoo) for command, zoo in commands if zoo != "NAME"]
    assert shown
    assert all(zoo in (recipe_names() if command == "generate" else PUBLISHED) for command, zoo in shown if command != "card")


def test_the_digest_of_a_recipe_follows_what_decides_its_networks():
    content = load_recipe("mnist-mlp").model_dump(mode="json")
    assert recipe_digest({**content, "num_runs": 3, "title": "Other"}) == recipe_digest(content)
    assert recipe_digest({**content, "seed": 3}) != recipe_digest(content)


def test_only_the_outline_is_replaced(tmp_path):
    (tmp_path / "lora-ws.md").write_text(f"by hand\n{OUTLINE[0]}\nold\n{OUTLINE[1]}\n{BEGIN}\nkept\n{END}\n")
    text = update_outline("lora-ws", tmp_path).read_text()
    assert text == f"by hand\n{OUTLINE[0]}\n{outline_of_family('lora-ws')}\n{OUTLINE[1]}\n{BEGIN}\nkept\n{END}\n"


def test_a_name_without_a_recipe_and_a_card_without_markers_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown recipe or family .* 'mnist-inx': did you mean 'mnist-inr'"):
        update_outline("mnist-inx", tmp_path)
    with pytest.raises(CardError, match=r"no data card .*mnist-inr\.md"):
        update_outline("mnist-inr", tmp_path)
    (tmp_path / "mnist-inr.md").write_text(f"{BEGIN}\n{END}\n")
    with pytest.raises(CardError, match=r"mnist-inr\.md lacks the lines '<!-- made by ngbench zoo card, outline: begin -->'"):
        update_outline("mnist-inr", tmp_path)


@pytest.mark.parametrize(
    ("distribution", "text"),
    [
        (Fixed(kind="fixed", value=0.5), "0.5"),
        (Choice(kind="choice", values=("a", "b")), "a, b"),
        (Choice(kind="choice", values=(0.0, 0.1), weights=(2, 1)), "0.0, 0.1, as 2 to 1"),
        (Uniform(kind="uniform", low=0.25, high=0.5), "uniform from 0.25 to 0.5"),
        (LogUniform(kind="log_uniform", low=0.001, high=3), "log-uniform from 0.001 to 3"),
        (LogInt(kind="log_int", low=3, high=80), "log-uniform, whole, from 3 to 80"),
        (
            ByValue(kind="by", hyperparameter="optimizer", cases={"sgd": Fixed(kind="fixed", value=7)}),
            "by `optimizer`: sgd: 7",
        ),
    ],
)
def test_distributions_are_told_in_words(distribution, text):
    assert described(distribution) == text
