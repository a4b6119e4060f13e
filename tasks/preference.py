"""Preference stage: sft learns from (chosen, rejected) pairs, without a reward model. Benchmark and gate read it next."""

from pathlib import Path

from pydantic import Field

from models.train.settings import Orpo, Preference
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed, Work


class PreferenceParams(Preference, Params):
    seed: Seed = Field(description="of the order of the pairs")


class PreferenceInputs(Inputs):
    sft: Path
    preferences: Path


class PreferenceOutputs(Outputs):
    preference: Path


class PreferenceMetrics(Metrics):
    accuracy: float = Field(description="held-out pairs ranked as the annotator did by the implicit reward, 0-1; a tie counts half")
    accuracy_stderr: float = Field(description="its standard error, over pairs")
    margin: float = Field(description="mean implicit reward of chosen - rejected on held-out pairs, nats: beta times the log-ratios to sft")
    held_out_loss: float = Field(description="a pair; of dpo's sigmoid form in nats, log 2 before training")
    chosen_change: float = Field(
        description="log-likelihood of the chosen answers, after - before, nats an answer: where it falls, both do"
    )
    rejected_change: float = Field(description="the same of the rejected ones")
    held_out_pairs: int
    train_loss: float = Field(description="a pair, mean over training")
    pairs: int = Field(description="trained on")
    too_long: int = Field(description="left out because longer than max_tokens, held-out ones included")


def preference(params: PreferenceParams, inputs: PreferenceInputs, outputs: PreferenceOutputs, work: Work) -> PreferenceMetrics:
    from models.train import pairs, policy, training, vocabulary
    from models.train.methods import dpo, kto, orpo

    method = {"dpo": dpo, "kto": kto, "orpo": orpo}[params.method.algorithm]
    training.make_repeatable(params.seed)
    tokenizer = vocabulary.load(inputs.sft)
    reference = policy.load(inputs.sft, params.precision).to(work.device)
    policy.require_positions(reference, params.max_tokens, "preference.max_tokens")
    train_pairs, held_out_pairs, too_long = pairs.splits(inputs.preferences, tokenizer, params.max_tokens)
    train, held_out = (pairs.coded(found, tokenizer) for found in (train_pairs, held_out_pairs))
    before = method.measured(reference, held_out, params.batch_size)
    model = policy.opened(inputs.sft, params, work.device)
    model, train_loss = method.fit(model, reference, tokenizer, train, params, params.seed, work)
    policy.save(model, tokenizer, outputs.preference)
    after = method.measured(model, held_out, params.batch_size)
    changes, scale = (after - before)[:, :2], 1.0 if isinstance(params.method, Orpo) else params.method.beta
    accuracy, margin = pairs.ranked(*(scale * changes).T)
    return PreferenceMetrics(
        accuracy=accuracy,
        accuracy_stderr=pairs.standard_error(accuracy, len(held_out)),
        margin=margin,
        held_out_loss=float(method.losses(before, after, pairs.lengths(held_out), params).mean()),
        chosen_change=float(changes[:, 0].mean()),
        rejected_change=float(changes[:, 1].mean()),
        held_out_pairs=len(held_out),
        train_loss=train_loss,
        pairs=len(train),
        too_long=too_long,
    )
