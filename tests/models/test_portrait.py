"""What a set of records looks like: counts that add up, no personal data, and no text of a suite."""

from models.data import portrait


def row(text, source="s"):
    return {"id": text[:5], "text": text, "source": source}


def test_sources_and_lengths_add_up_by_split():
    splits = {"train": [row("one two"), row("a " * 30, "t")], "held_out": [row("one")]}
    found = portrait.of_kind("documents", splits)
    assert found["by_source"] == {"train": {"s": 1, "t": 1}, "held_out": {"s": 1}}
    assert found["words"] == {"train": {"1": 1, "20": 1}, "held_out": {"1": 1}}


def test_languages_are_told_where_they_can_be():
    texts = [
        "Wie ist das Wetter heute in den Bergen?",
        "Où est la gare, et quand part le train ?",
        "How far is it to the next town?",
        "x = 1",
    ]
    assert portrait.languages(texts) == {"de": 1, "fr": 1, "en": 1, "?": 1}


def test_of_many_texts_some_are_looked_at_evenly():
    texts = ["How far is it to the next town?"] * 5 * portrait.LOOKED_AT
    assert portrait.languages(texts) == {"en": portrait.LOOKED_AT}


def test_examples_are_hidden_short_and_few():
    examples = portrait.Examples(lambda text: text.replace("Ann", "[name]"))
    for number in range(30):
        examples.add("documents", {"id": f"d{number}", "reason": "too-long"}, row(f"Ann has {number} words. " * 50))
    examples.add("documents", {"id": "leak", "reason": "contaminated", "by": "item 3"}, row("The item itself."))
    examples.add("documents", {"id": "odd", "reason": "broken"}, {"id": "odd", "txt": "Ann"})
    found = examples.found["documents"]
    assert len(found["too-long"]) == portrait.EXAMPLES
    assert all("Ann" not in one["text"] and len(one["text"]) <= portrait.EXAMPLE_CHARACTERS + 1 for one in found["too-long"])
    assert found["contaminated"] == [{"id": "leak", "by": "item 3", "text": ""}]
    assert "[name]" in found["broken"][0]["text"]
