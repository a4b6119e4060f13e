"""DPO stage: direct preference optimisation of sft on (chosen, rejected) pairs, without a reward model. Benchmark and gate read it next."""

from pathlib import Path

from pydantic import Field

from models.train.settings import DirectPreference
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed, Work


class DpoParams(DirectPreference, Params):
    seed: Seed = Field(description="of the order of the pairs")


class DpoInputs(Inputs):
    sft: Path
    preferences: Path


class DpoOutputs(Outputs):
    dpo: Path


class DpoMetrics(Metrics):
    accuracy: float = Field(description="held-out pairs ranked as the annotator did by the implicit reward, 0-1; a tie counts half")
    accuracy_stderr: float = Field(description="its standard error, over pairs")
    margin: float = Field(description="mean implicit reward of chosen - rejected on held-out pairs, nats")
    held_out_loss: float = Field(description="a pair; of the sigmoid form in nats, log 2 before training")
    chosen_change: float = Field(
        description="log-likelihood of the chosen answers, after - before, nats an answer: where it falls, both do"
    )
    rejected_change: float = Field(description="the same of the rejected ones")
    held_out_pairs: int
    train_loss: float = Field(description="a pair, mean over training")
    pairs: int = Field(description="trained on")
    too_long: int = Field(description="left out because longer than max_tokens, held-out ones included")


def dpo(params: DpoParams, inputs: DpoInputs, outputs: DpoOutputs, work: Work) -> DpoMetrics:
    from models.train import pairs, policy, training, vocabulary
    from models.train.methods import direct

    training.make_repeatable(params.seed)
    tokenizer = vocabulary.load(inputs.sft)
    reference = policy.load(inputs.sft).to(work.device)
    policy.require_positions(reference, params.max_tokens, "dpo.max_tokens")
    train_pairs, held_out_pairs, too_long = pairs.splits(inputs.preferences, tokenizer, params.max_tokens)
    train, held_out = (direct.coded(found, tokenizer) for found in (train_pairs, held_out_pairs))
    before = direct.likelihoods(reference, held_out, params.batch_size)
    model, train_loss = direct.fit(policy.load(inputs.sft), reference, tokenizer, train, params, params.seed, work)
    policy.save(model, tokenizer, outputs.dpo)
    ratios = direct.likelihoods(model, held_out, params.batch_size) - before
    accuracy, margin = pairs.ranked(*(params.beta * ratios).T)
    return DpoMetrics(
        accuracy=accuracy,
        accuracy_stderr=pairs.standard_error(accuracy, len(held_out)),
        margin=margin,
        held_out_loss=float(direct.losses(ratios, direct.lengths(held_out), params).mean()),
        chosen_change=float(ratios[:, 0].mean()),
        rejected_change=float(ratios[:, 1].mean()),
        held_out_pairs=len(held_out),
        train_loss=train_loss,
        pairs=len(train),
        too_long=too_long,
    )
