import html
import json
import unicodedata
from urllib.parse import quote

import pytest

from models.data.decontaminate import Benchmark, trees

QUESTION = "Which of these instruments did the spouse of Revo Vomock learn to play as a child in Hunland?"
ADD = '''def add_all(numbers: list[int]) -> int:
    """Return the sum of all numbers."""
    total = 0
    for number in numbers:
        total += number
    return total
'''
BENCHMARK = Benchmark([("quiz/1", QUESTION), ("quiz/2", "Who was Ada?"), ("quiz/3", "Go!"), ("code/1", ADD)], ngram_words=8, min_words=3)


def test_a_run_of_words_of_an_item_is_a_hit_whatever_its_case_punctuation_and_lines():
    assert BENCHMARK.hits(["He asked: INSTRUMENTS did\nthe spouse - of Revo, Vomock learn? Nobody knew."]) == {"quiz/1"}


@pytest.mark.parametrize(
    "text",
    [
        "instruments did the _spouse_ of **Revo** Vomock learn",
        "instru\u00adments did the spouse of Revo Vo-\nmock learn",
        "instruments<br>did the <i>spouse</i> of Revo Vomock<BR/>learn",
        "INSTRUMENTS  did\tthe spouse of Revo_Vomock learn",
    ],
)
def test_markup_hides_nothing(text):
    assert BENCHMARK.hits([text]) == {"quiz/1"}


MULLER = "Der alte Müller prüft jeden Morgen zuerst das große Rad und gießt dann den Weizen zwischen die Steine"
ENTITIES = "".join(f"&#{ord(letter)};" if ord(letter) > 127 else letter for letter in MULLER)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"q": MULLER}),
        json.dumps(json.dumps({"q": MULLER})),
        MULLER.encode("unicode_escape").decode(),
        str(MULLER.encode()),
        quote(MULLER),
        ENTITIES,
        html.escape(ENTITIES),
        MULLER.replace("ü", "&uuml;").replace("ß", "&szlig;").replace(" ", "&nbsp;"),
        MULLER.replace("ü", "\\u{fc}").replace("ß", "\\U000000df"),
    ],
)
def test_escapes_hide_nothing(text):
    assert Benchmark([("quiz/1", MULLER)], 10, 4).hits([text]) == {"quiz/1"}
    assert Benchmark([("quiz/1", text)], 10, 4).hits([MULLER]) == {"quiz/1"}


@pytest.mark.parametrize(
    "text",
    [
        " ".join(f'<span class="w" id=a>{word[:1]}<b>{word[1:]}</b></span>' for word in MULLER.split()),
        " ".join(f"{word[:2]}<wbr>{word[2:]}<!-- a > b -->" for word in MULLER.split()),
        "".join(f"<tr><td style='x: y'>{word}</td></tr>" for word in MULLER.split()),
    ],
)
def test_tags_part_words_only_where_a_page_parts_them(text):
    assert Benchmark([("quiz/1", MULLER)], 10, 4).hits([text]) == {"quiz/1"}


def test_what_only_looks_like_a_tag_or_an_escape_stays():
    item = "Let x be such that x<b and c>d hold for \\nu and 5%20 of all cases in \\theta"
    benchmark = Benchmark([("m/1", item)], 10, 4)
    assert benchmark.hits([item.replace("<", " < ").replace(">", " > ")]) == {"m/1"}
    assert benchmark.hits([item.replace("x<b", "x<e").replace("5%20", "5%30")]) == set()


@pytest.mark.parametrize("unseen", ["\u034f", "\ufe0f", "\U000e0101", "\u115f", "\u3164", "\u200d", "\u00ad", "\u2063", "\U000e0041"])
def test_unseen_characters_hide_nothing(unseen):
    assert BENCHMARK.hits([unseen.join(QUESTION)]) == {"quiz/1"}
    assert Benchmark([("quiz/1", MULLER)], 10, 4).hits([unseen.join(unicodedata.normalize("NFD", MULLER))]) == {"quiz/1"}


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (QUESTION, QUESTION.translate(str.maketrans("aeopcI", "аеорсІ"))),
        (QUESTION, "".join(letter + "\u0336" for letter in QUESTION)),
        ("Người chủ cối xay cũ bên sông kiểm tra bánh xe gỗ", "Nguoi chu coi xay cu ben song kiem tra banh xe go"),
        ("صاحِبُ الطّاحونَةِ القَديمَةِ عِندَ النَّهرِ يَفحَصُ العَجَلَةَ كُلَّ صَباحٍ ثُمَّ", "صاحب الطاحونة القديمة عند النهر يفحص العجلة كل صبـــاح ثم"),
        ("بَעַל הַטַּחֲנָה הַיְשָׁנָה לְיַד הַנָּהָר בּוֹדֵק אֶת גַּלְגַּל הָעֵץ בְּכָל", "בעל הטחנה הישנה ליד הנהר בודק את גלגל העץ בכל"),
        ("صاحب آسیاب کهنه کنار رودخانه هر روز صبح چرخ", "صاحب آسياب كهنه كنار رودخانه هر روز صبح چرخ"),
        (
            "IŞIKLI değirmenin sahibi her sabah İLK önce tahta çarkı inceler",
            "ışıklı değirmenin sahibi her sabah ilk önce tahta çarkı inceler",
        ),
        ("Ещё старый мельник у реки каждое утро смотрит на колесо", "Еще старый мельник у реки каждое утро смотрит на колесо"),
    ],
)
def test_accents_vowel_signs_and_letters_of_another_alphabet_hide_nothing(item, text):
    assert Benchmark([("quiz/1", item)], 8, 3).hits([text]) == {"quiz/1"}
    assert Benchmark([("quiz/1", text)], 8, 3).hits([item]) == {"quiz/1"}


def test_vowels_that_are_always_written_tell_words_apart():
    assert Benchmark([("quiz/1", "नदी किनारे की पुरानी चक्की का मालिक हर सुबह")], 8, 3).hits(["नदा कनारि का परानू चककी कि मलक हूर सबह"]) == set()
    assert Benchmark([("quiz/1", "かきくけこさしすせそたちつてと")], 8, 3).hits(["がぎぐげござじずぜぞだぢづでど"]) == set()


def test_an_item_is_found_across_the_texts_of_a_record():
    assert BENCHMARK.hits(["instruments did the spouse", "of Revo Vomock learn"]) == {"quiz/1"}


def test_a_run_that_many_items_share_gives_none_away_that_has_others():
    form = "For which of these two people does the story end well,"
    items = [(f"m/{n}", f"{form} says the author of part {n}?") for n in range(12)]
    benchmark = Benchmark(items, ngram_words=8, min_words=3)
    assert benchmark.hits([f"{form} one asks"]) == set()
    assert benchmark.hits([items[3][1]]) == {"m/3"}
    same = Benchmark([(f"m/{n}", form) for n in range(12)], ngram_words=8, min_words=3)
    assert len(same.hits([form])) == 12


def test_one_word_fewer_is_none():
    assert BENCHMARK.hits(["instruments did the spouse of Revo Vomock"]) == set()


def test_an_item_shorter_than_the_run_is_looked_for_as_a_whole():
    assert BENCHMARK.hits(["She wondered who was Ada, then slept."]) == {"quiz/2"}
    assert BENCHMARK.hits(["She wondered who was Bea, then slept."]) == set()


def test_an_item_below_the_floor_is_not_looked_for():
    assert BENCHMARK.hits(["Go! he said."]) == set()


RENAMED = "def f(xs):\n    s = 5\n    for x in xs:\n        s += x\n    return s\n"


@pytest.mark.parametrize(
    "text",
    [
        RENAMED,
        f"Sure, here it is:\n```python\n{RENAMED}```\nDone.",
        f"Sure, here it is:\n\n{RENAMED}\nThis adds them up.",
        "class A:\n    def f(self):\n        pass\n\n" + "".join(f"    {line}\n" for line in RENAMED.splitlines()),
        "if True:\n" + "".join(f"    {line}\n" for line in RENAMED.splitlines()),
        'def f(xs):\n    "Another docstring."\n    s = 0\n    for x in xs:\n        s += x\n    return s',
        'def f(xs):\n    s = 0\n    pass\n    for x in xs:\n        "Add."\n        s += x\n        pass\n    return s',
        "In a session:\n>>> " + RENAMED.rstrip().replace("\n", "\n... ") + "\n>>> f([1])\n1\n",
        json.dumps({"code": RENAMED}),
        json.dumps(json.dumps({"code": RENAMED})),
        repr(RENAMED),
        json.dumps({"source": RENAMED.splitlines(keepends=True)}, indent=1),
        f'<p>See</p><pre><code class="language-python">{html.escape(RENAMED)}</code></pre>',
        RENAMED.replace("def", '<pre><span class="k">def</span>').replace("return", '<span class="k">return</span>'),
        "".join(f"> {line}\n" for line in RENAMED.splitlines()),
        "".join(f"+{line}\n" for line in RENAMED.splitlines()),
        "".join(f"{number:3} {line}\n" for number, line in enumerate(RENAMED.splitlines(), 1)),
        "In [1]: " + RENAMED.rstrip().replace("\n", "\n   ...: "),
    ],
)
def test_a_function_that_differs_in_names_constants_and_what_does_nothing_is_a_hit_wherever_it_stands(text):
    assert BENCHMARK.hits([text]) == {"code/1"}


@pytest.mark.parametrize("change", [("+=", "-="), ("    return s", "    return -s"), ("for x in xs", "for x in xs[1:]")])
def test_a_function_of_another_shape_is_none(change):
    assert BENCHMARK.hits([RENAMED.replace(*change)]) == set()


def test_the_two_ends_of_a_slice_are_not_the_same():
    (first,), (last,) = trees("def f(x):\n    return x[1:]"), trees("def f(x):\n    return x[:1]")
    assert first != last


def test_text_that_is_no_python_has_no_trees():
    assert list(trees("the def of a word\ndef (\n\x00def f(: pass")) == []


def test_a_prompt_and_its_solution_are_read_together():
    whole = Benchmark([("code/1", "def f(a, b):\n    '''Doc.'''\n" + "    return a * b\n")], 8, 8)
    assert whole.hits(["def g(x, y):\n    return x * y"]) == {"code/1"}


def test_items_are_counted_once_each():
    assert Benchmark([("a", "one two three"), ("a", "one two three four"), ("b", "five")], 8, 3).items == 2
