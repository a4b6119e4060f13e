"""The soup stage on models that were trained with other seeds."""

import pytest
import torch

from models.core.errors import StageError, UserError
from models.core.work import Work
from models.train import policy
from tasks.sft import SftInputs, SftOutputs, SftParams, sft
from tasks.soup import SoupInputs, SoupOutputs, SoupParams, soup
from tests.trainings import PRETRAINING, Pipeline, finetuning, write_records

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """(stages, losses): sft of three seeds."""
    stages = Pipeline(write_records(tmp_path_factory.mktemp("records")), tmp_path_factory.mktemp("stages"))
    stages.tokenizer(), stages.base()
    inputs = SftInputs(base=stages.target / "base", instructions=stages.records / "instructions")
    found = [
        sft(
            SftParams(seed=seed, neftune=0.0, packing=False, **dict(finetuning())),
            inputs,
            SftOutputs(sft=stages.target / f"sft-{seed}"),
            stages.work,
        )
        for seed in (1, 2, 3)
    ]
    return stages, [metrics.held_out_loss for metrics in found]


def cook(stages, folder, mix, names=("sft-1", "sft-2", "sft-3")):
    given = dict(zip(("first", "second", "third"), (stages.target / name for name in names), strict=False))
    params = SoupParams(mix=mix, max_tokens=256, batch_size=8)
    inputs = SoupInputs(**given, instructions=stages.records / "instructions")
    return soup(params, inputs, SoupOutputs(soup=folder / "soup"), Work(folder, folder)), folder / "soup"


@pytest.mark.parametrize("how", ["uniform", "greedy", "best"])
def test_one_model_is_made_of_three(three, tmp_path, how):
    stages, losses = three
    metrics, made = cook(stages, tmp_path, {"how": how})
    assert list(metrics.held_out_losses.values()) == pytest.approx(losses)
    weights = [policy.load(stages.target / f"sft-{seed}").state_dict() for seed in (1, 2, 3)]
    taken = [weights[("first", "second", "third").index(name)] for name in metrics.taken]
    for name, weight in policy.load(made).state_dict().items():
        torch.testing.assert_close(weight, torch.stack([one[name] for one in taken]).mean(0))
    if how != "uniform":
        assert metrics.held_out_loss <= min(losses) + 1e-6
    assert len(metrics.taken) == {"uniform": 3, "best": 1}.get(how, len(metrics.taken))


def test_a_way_between_two_has_two_ends(three, tmp_path):
    stages, losses = three
    metrics, _ = cook(stages, tmp_path / "all", {"how": "slerp", "share": 1.0}, ("sft-1", "sft-2"))
    assert metrics.held_out_loss == pytest.approx(losses[1])
    with pytest.raises(UserError, match=r"soup.mix is slerp, and dvc.yaml gives 3 models, must be two"):
        cook(stages, tmp_path, {"how": "slerp", "share": 0.5})


def test_a_model_of_another_kind_is_refused(three, tmp_path):
    stages, _ = three
    stages.base("small", plan={**PRETRAINING, "start": {**PRETRAINING["start"], "hidden_size": 16}})
    with pytest.raises(StageError, match=r"second has .* must be models of one kind, trained from one base"):
        cook(stages, tmp_path, {"how": "uniform"}, ("sft-1", "small"))
    assert not (tmp_path / "soup").exists()
