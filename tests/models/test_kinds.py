import pytest

from models.data import kinds


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    "messages",
    [
        [user("a"), assistant("b")],
        [{"role": "system", "content": "s"}, user("a"), assistant("b"), user("c"), assistant("d")],
    ],
)
def test_an_alternating_conversation_is_whole(messages):
    assert not kinds.is_broken("instructions", {"id": "x", "messages": messages, "source": "s"})


@pytest.mark.parametrize(
    "messages",
    [
        [assistant("b")],
        [user("a")],
        [user("a"), user("b"), assistant("c")],
        [user("a"), {"role": "tool", "content": "b"}],
        [user("a"), {"role": "assistant"}],
        [user("a"), {"role": "assistant", "content": None}],
        "user: a",
        None,
        [],
    ],
)
def test_a_conversation_out_of_order_or_of_another_shape_is_broken(messages):
    assert kinds.is_broken("instructions", {"id": "x", "messages": messages, "source": "s"})


@pytest.mark.parametrize(
    "record", [{"text": "a", "source": "s"}, {"id": "", "text": "a", "source": "s"}, {"id": 3, "text": "a", "source": "s"}]
)
def test_a_record_without_a_usable_id_is_broken_and_is_named_by_its_number(record):
    assert kinds.is_broken("documents", record)
    assert kinds.name_of(record, 7) == "record 7"


def test_every_text_of_a_preference_is_read_and_rewritten():
    pair = {"id": "x", "prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")], "source": "s"}
    assert list(kinds.texts("preferences", pair)) == [("prompt", "p"), ("chosen", "c"), ("rejected", "r")]
    assert list(kinds.texts("preferences", kinds.rewritten("preferences", pair, str.upper))) == [
        ("prompt", "P"),
        ("chosen", "C"),
        ("rejected", "R"),
    ]
    assert pair["prompt"] == [user("p")]
