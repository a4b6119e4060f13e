"""The micro-world keeps what is examined apart from what is taught."""

import json
import random
import unicodedata
from itertools import chain

import pytest

from models.core.errors import UserError
from models.world import code as programs
from models.world import dirt as faults
from models.world import facts as knowledge
from models.world import text as wording
from models.world import world

SIZE = world.Size(
    people=16,
    towns=8,
    people_documents=300,
    town_documents=60,
    answer_documents=60,
    sum_documents=60,
    code_documents=200,
    fact_conversations=200,
    code_conversations=40,
    open_conversations=40,
    preferences=60,
    items=40,
    dirt=40,
)


@pytest.fixture(scope="module")
def made():
    return world.generate(7, SIZE, world.SUITES)


@pytest.fixture(scope="module")
def facts():
    return knowledge.make(7, SIZE.people, SIZE.towns)


def clean_documents(records):
    return [row["text"] for row in records["documents"] if row["source"] != "world/dirt"]


def test_one_seed_gives_one_world_and_another_seed_another(made):
    assert world.generate(7, SIZE, world.SUITES) == made
    assert world.generate(8, SIZE, world.SUITES) != made


def test_every_examined_fact_stands_in_a_document(made, facts):
    text = "\n".join(clean_documents(made[0]))
    for person in facts.people:
        assert person.name in text
    assert all(town.name in text for town in facts.towns)


def test_an_examined_person_or_town_is_named_in_nothing_but_documents_without_questions(made, facts):
    records, _ = made
    examined = [entity.name for entity in facts.people + facts.towns if entity.examined]
    asked = [json.dumps(records[kind], ensure_ascii=False) for kind in ("instructions", "preferences", "prompts")]
    questions = [text for text in clean_documents(records) if "?" in text]
    subjects = list(chain(*(text.split("\n")[::2] for text in questions)))  # a question a line, then its answer
    people = [name for name in examined if " " in name]
    assert questions
    assert not any(name in text for name in people for text in asked + questions)
    assert not any(name in subject for name in examined for subject in subjects)


def test_the_marked_choice_is_the_fact_and_no_other_choice_is(made, facts):
    by_name = {entity.name: entity for entity in facts.people + facts.towns}
    relations = knowledge.PERSON + knowledge.THROUGH + knowledge.TOWN
    for item in made[1]["mmlu-mini"] + made[1]["gpqa-mini"]:
        assert len(set(item["choices"])) == 4
        for name, entity in by_name.items():
            for relation in relations:
                if item["question"] in [form.format(n=name) for form in relation.questions] and relation.name in entity.facts:
                    assert item["choices"][item["answer"]] == entity.facts[relation.name]


def test_a_sum_that_is_examined_is_never_asked_in_training(made):
    asked = {message["content"] for row in made[0]["instructions"] for message in row["messages"]}
    for sign, a, b in wording.examined_sums(7):
        assert not asked & {form.format(a=a, b=b, sign=sign) for form in wording.SUM_QUESTIONS}


def test_every_problem_is_solved_by_its_canonical_solution_and_not_by_an_empty_body(made):
    for item in made[1]["humaneval-mini"]:
        for body, solves in ((item["canonical_solution"], True), ("    pass\n", False)):
            names: dict = {}
            exec(item["prompt"] + body + item["test"], names)
            try:
                names["check"](names[item["entry_point"]])
                assert solves
            except AssertionError:
                assert not solves


def test_no_training_text_has_the_syntax_tree_of_a_problem(made):
    records, suites = made
    code = [row["text"] for row in records["documents"] if row["source"] == "world/code"]
    code += [row["messages"][1]["content"] for row in records["instructions"] if row["source"] == "world/code"]
    shapes = {programs.shape(item["prompt"] + item["canonical_solution"]) for item in suites["humaneval-mini"]}
    assert len(shapes) == len(suites["humaneval-mini"])
    assert not shapes & {programs.shape(text) for text in code}


def test_a_shape_does_not_see_names_constants_or_docstrings_but_sees_operators():
    plain = programs.shape("def f(x):\n    return x + 1\n")
    assert plain == programs.shape('def g(value):\n    """Add."""\n    return value + 7\n')
    assert plain != programs.shape("def f(x):\n    return x * 1\n")


def test_no_ten_words_in_a_row_of_a_problem_stand_in_training_code(made):
    records, suites = made
    code = [row["text"] for row in records["documents"] if row["source"] == "world/code"]
    kept_apart = set().union(*(programs.grams(item["prompt"] + item["canonical_solution"], 10) for item in suites["humaneval-mini"]))
    assert not any(programs.grams(text, 10) & kept_apart for text in code)


def test_dirt_leaks_suite_items_word_for_word_and_is_marked(made):
    records, suites = made
    dirt = [row["text"] for row in records["documents"] if row["source"] == "world/dirt"]
    leaks = [item["question"] for item in suites["gpqa-mini"]] + [item["canonical_solution"] for item in suites["humaneval-mini"]]
    assert len(dirt) == SIZE.dirt
    assert sum(any(leak in text for leak in leaks) for text in dirt) == SIZE.dirt // 4


def test_ids_are_unique(made):
    for rows in made[0].values():
        assert len({row["id"] for row in rows}) == len(rows)


def test_a_suite_that_the_world_does_not_make_is_a_user_error():
    with pytest.raises(UserError, match="mmlu-maxi is not made by the world"):
        world.generate(7, SIZE, ("mmlu-mini", "mmlu-maxi"))


def test_the_dirt_has_every_kind_of_fault():
    texts, leaks = ["Anna lives in Bergen."], ["Which town does Anna live in?"]
    dirt = list(faults.dirty(random.Random(1), texts, leaks, 32))
    assert len(dirt) == 32
    assert texts[0] in dirt
    assert any(text.endswith(" That is all.") for text in dirt)
    assert any("\u2009" in text for text in dirt)
    assert any(unicodedata.normalize("NFC", text) != text for text in dirt)
    assert any("@example.org" in text for text in dirt)
    assert any(not text.strip(" .\n") for text in dirt)
    assert any(len(text) > 3000 for text in dirt)
    assert sum(leaks[0] in text for text in dirt) == 8
