"""PPO: each token of an answer is pushed up or down by how much better the answer came out than a value model had foreseen.

Schulman et al. (2017), eq. 7 and 9, with the advantages of Schulman et al. (2016), eq. 16. For language models after Ziegler et al. (2019):
the KL to the reference is taken off the reward token by token, its weight may follow a target; Stiennon et al. (2020): the value model is
one of its own and begins as the reward model; and Huang et al. (2024), "The N+ Implementation Details of RLHF with PPO": the discount is 1,
advantages are whitened in a batch, Adam's epsilon is 1e-5, no dropout, an answer that was cut may be given a reward of its own.

Where we depart from them: the rate falls by steps, not by updates, as the recipe's schedule says; rewards are not whitened; the KL may be a
term of the loss instead (Schulman, 2020, its estimator k3), as GRPO has it; one gradient norm bounds policy and value model each by itself;
an answer that was cut counts as ended, no value is foreseen beyond it.
"""

import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import TaskType, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.core.checkpoints import Checkpoints
from models.core.ranks import ALONE, Ranks
from models.core.work import Work
from models.train import generation, policy, resuming, reward_model
from models.train.parts import Parts
from models.train.recorder import Recorder
from models.train.settings import Ppo, Reinforcement
from models.train.training import pieces_of_next, precision, rate
from models.train.worth import Asked, Rewards

EPSILON = 1e-5  # Adam's
LOSSES = ("loss", "value_loss", "clipped")  # what is told of an update, a mean over its tokens
GAIN, MOST = 0.1, 0.2  # of the KL's controller: how fast its weight follows, and the largest error that it heeds


def advantages(rewards: Tensor, values: Tensor, said: Tensor, trace: float) -> tuple[Tensor, Tensor]:
    """Generalised advantages and the returns that the value model is to foresee, [answers, tokens] both, zero where nothing is said.

    rewards, values, said [answers, tokens]: the reward of saying a token, what was foreseen before it, and which tokens are an answer's.
    With discount 1: A_t = r_t + V_{t+1} - V_t + trace * A_{t+1}; nothing comes after the last token. Schulman et al. (2016), eq. 16.
    """
    found, after, value_after = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for at in reversed(range(rewards.shape[1])):
        here = said[:, at]
        gained = rewards[:, at] + value_after - values[:, at] + trace * after
        after, value_after = torch.where(here, gained, after), torch.where(here, values[:, at], value_after)
        found[:, at] = torch.where(here, gained, 0.0)
    return found, torch.where(said, found + values, 0.0)


def mean(values: Tensor, said: Tensor) -> Tensor:
    """Over the tokens that are said, all answers together."""
    return (values * said).sum() / said.sum()


def whitened(values: Tensor, said: Tensor) -> Tensor:
    """With mean 0 and variance 1 over the tokens that are said; the others are zero."""
    centred = values - mean(values, said)
    spread = (mean(centred**2, said) * said.sum() / (said.sum() - 1).clamp(min=1)).sqrt()
    return centred / (spread + 1e-8) * said


def policy_loss(now: Tensor, then: Tensor, gains: Tensor, said: Tensor, clip: float) -> Tensor:
    """The clipped loss of log-probabilities [answers, tokens] against those that the answers were drawn with. Schulman et al., eq. 7."""
    ratio = (now - then).exp()
    return mean(torch.maximum(-gains * ratio, -gains * ratio.clamp(1 - clip, 1 + clip)), said)


def value_loss(now: Tensor, then: Tensor, returns: Tensor, said: Tensor, clip: float) -> Tensor:
    """Half the squared error, of a value that is held within `clip` of what it was where that is the worse of the two."""
    held = torch.clamp(now, then - clip, then + clip)
    return 0.5 * mean(torch.maximum((now - returns) ** 2, (held - returns) ** 2), said)


def kl_terms(now: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(policy || reference) at each token that was drawn, never negative: k3 of Schulman (2020)."""
    apart = reference - now
    return apart.exp() - apart - 1


def followed(weight: float, kl: float, target: float | None) -> float:
    """The KL's weight for the next step, which moves towards the target in nats an answer. Ziegler et al. (2019), section 2.2."""
    return weight if target is None else weight * (1 + GAIN * float(np.clip(kl / target - 1, -MOST, MOST)))


class Answered(NamedTuple):
    """Answers with what was known of them as they were drawn; all [answers, tokens], a token's numbers where the one before it stands."""

    ids: Tensor
    attention: Tensor
    said: Tensor
    drawn: Tensor  # log-probability under the policy
    reference: Tensor  # the same under the reference
    values: Tensor
    gains: Tensor
    returns: Tensor

    def part(self, rows: Tensor | slice) -> "Answered":
        return Answered(*(one[rows] for one in self))


@dataclass
class Training:
    """The models with all that changes while they are trained.

    reference: the model that the KL is to; None where it is the policy without its adapter.
    """

    model: Any
    value: Any
    reference: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    plan: Reinforcement
    ranks: Ranks = ALONE
    method: Ppo = field(init=False)
    weight: float = field(init=False)  # of the KL
    step: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        assert isinstance(self.plan.method, Ppo)
        self.method, self.weight, self.models = self.plan.method, self.plan.beta, (self.model, self.value)
        weights = [[*policy.trained(model).values()] for model in self.models]
        self.room = Parts(self.plan.micro_batch, self.ranks, chain.from_iterable(weights))
        for model in self.models:
            policy.remove_dropout(model)  # what answers were drawn with and what is compared with it must be one model
            if self.plan.gradient_checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
        adam = partial(torch.optim.AdamW, lr=self.plan.learning_rate, eps=EPSILON, weight_decay=0.0, fused=True)
        self.optimizers = [adam(some) for some in weights]
        share = partial(rate, steps=self.plan.steps, warmup_share=self.plan.warmup_share, schedule=self.plan.schedule)
        self.schedules = [LambdaLR(optimizer, share) for optimizer in self.optimizers]

    def one_step(self, asked: Asked, rewards: Rewards) -> dict[str, float]:
        """Draw answers, and learn from them; what is to be told of it."""
        for model in self.models:
            model.eval()
        answers, told = self._answered(asked, rewards)
        size = -(-len(answers.ids) // self.method.minibatches)
        parts = (rows for _ in range(self.method.passes) for rows in torch.randperm(len(answers.ids)).split(size))
        learned = [self._learn(answers.part(rows)) for rows in parts]
        rated = {"learning_rate": float(self.schedules[0].get_last_lr()[0]), "kl_weight": self.weight}
        for schedule in self.schedules:
            schedule.step()
        self.weight = followed(self.weight, told["kl_per_token"] * told["answer_tokens"], self.method.target_kl)
        self.step += 1
        return told | rated | {name: float(np.mean([one[name] for one in learned])) for name in learned[0]}

    @torch.no_grad()
    def _answered(self, asked: Asked, rewards: Rewards) -> tuple[Answered, dict[str, float]]:
        plan, device = self.plan, self.model.device
        prompts = [record["prompt"] for record in asked]
        how = len(asked), plan.max_new_tokens, plan.temperature, plan.precision
        [made] = generation.batches(self.model, self.tokenizer, prompts, *how, self.ranks)
        ids, attention, said = _from_the_left(made, self.tokenizer.pad_token_id)
        drawn, entropy, reference, values = self._known(ids, attention)
        parts = rewards.parts(asked, made.texts)
        scores = torch.as_tensor(rewards.total(parts), dtype=torch.float32, device=device)
        if self.method.cut_reward is not None:
            scores = torch.where(made.ended, scores, self.method.cut_reward)
        by_token = _at_the_end(scores, said)
        if self.method.kl == "reward":
            by_token = by_token - self.weight * (drawn - reference) * said
        gains, returns = advantages(by_token, values, said, self.method.trace)
        told = {
            "mean_reward": float(scores.mean()),
            "kl_per_token": float(mean(drawn - reference, said)),
            "entropy_per_token": float(mean(entropy, said)),
            "answer_tokens": float(said.sum(1).float().mean()),
            "answers_cut": float((~made.ended).float().mean()),
            "value_error": (error := float(mean((values - returns) ** 2, said))),
            "value_explained": 1 - error / max(float(mean((returns - mean(returns, said)) ** 2, said)), 1e-8),
        }
        if len(parts) > 1:
            told |= {f"reward_{name}": float(values.mean()) for name, values in parts.items()}
        return Answered(ids, attention, said, drawn, reference, values, whitened(gains, said), returns), told

    def _known(self, ids: Tensor, attention: Tensor) -> list[Tensor]:
        """Log-probability and entropy under the policy, the former under the reference too, and what the value model foresees, all
        [answers, tokens - 1]; each rank computes its own rows."""
        mine = self.ranks.share(len(ids))
        found = [torch.zeros(len(ids), ids.shape[1] - 1, device=ids.device) for _ in range(4)]
        if own := range(len(ids))[mine]:
            some = ids[mine], attention[mine]
            known = [*self._likelihoods(self.model, *some)]
            with self.model.disable_adapter() if self.reference is None else nullcontext():
                known.append(self._likelihoods(self.reference or self.model, *some)[0])
            for whole, part in zip(found, [*known, self._foreseen(*some)], strict=True):
                whole[own.start : own.stop] = part
        self.ranks.total(found)
        return found

    def _learn(self, answers: Answered) -> dict[str, float]:
        """One update of policy and value model on some of the answers."""
        found = list[dict[str, Tensor]]()

        def one(part: slice) -> None:
            found.append(self._losses(answers.part(part), answers.said[part].sum() / answers.said.sum()))

        def clear() -> None:
            found.clear()
            for optimizer in self.optimizers:
                optimizer.zero_grad()

        for model in self.models:
            model.train()  # for gradient checkpointing; it has no dropout
        self.room.step(len(answers.ids), one, clear)
        norms = [self.room.shards.clip(model.parameters(), 1.0) for model in self.models]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.room.shards.spread()
        sums = {name: self.room.sum([one[name] for one in found], answers.ids.device).item() for name in LOSSES}
        return sums | {"gradient_norm": norms[0].item()}

    def _losses(self, answers: Answered, share: Tensor) -> dict[str, Tensor]:
        """Add the gradients of some answers, which are a share of the tokens of an update; what they add to its losses."""
        method = self.method
        with precision(self.plan.precision, answers.ids.device.type):
            logits = self.model(input_ids=answers.ids, attention_mask=answers.attention, use_cache=False).logits[:, :-1]
            now = _of_next(logits.float() / self.plan.temperature, answers.ids)
            values = self._values(answers.ids, answers.attention)
        loss = policy_loss(now, answers.drawn, answers.gains, answers.said, method.clip)
        if method.kl == "loss":
            loss = loss + self.weight * mean(kl_terms(now, answers.reference), answers.said)
        foreseen = method.value_weight * value_loss(values, answers.values, answers.returns, answers.said, method.value_clip)
        ((loss + foreseen) * share).backward()
        beyond = ((now.detach() - answers.drawn).exp() - 1).abs() > method.clip
        parts = (loss.detach(), foreseen.detach(), mean(beyond.float(), answers.said))
        return {name: value * share for name, value in zip(LOSSES, parts, strict=True)}

    def _likelihoods(self, model: Any, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy at each token but the first of `ids` [answers, tokens], in nats, at the temperature of sampling."""
        found = list[tuple[Tensor, Tensor]]()
        with precision(self.plan.precision, ids.device.type):
            for logits, targets in pieces_of_next(model, ids, attention):
                logs = (logits.float() / self.plan.temperature).log_softmax(-1)
                found.append((logs.gather(1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1)))
        chosen, entropy = (torch.cat(part).view(ids.shape)[:, :-1] for part in zip(*found, strict=True))
        return chosen, entropy

    def _foreseen(self, ids: Tensor, attention: Tensor) -> Tensor:
        size = self.plan.answers_per_batch
        with precision(self.plan.precision, ids.device.type):
            return torch.cat([self._values(*both) for both in zip(ids.split(size), attention.split(size), strict=True)])

    def _values(self, ids: Tensor, attention: Tensor) -> Tensor:
        """What the value model foresees before each token but the first [answers, tokens - 1]."""
        return reward_model.at_tokens(self.value, ids, attention)[:, :-1].float()

    def save(self, folder: Path) -> None:
        self.room.shards.save(self.optimizers, folder)
        if not self.ranks.leads:
            return
        kept = {
            "models": [policy.trained(model) for model in self.models],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "weight": self.weight,
            "room": self.room.size,
            "random": resuming.random_states(),
        }
        resuming.save(kept, folder / resuming.FILE)

    @torch.no_grad()
    def resume(self, kept: Path) -> None:
        """Put everything where a checkpoint has it."""
        states = resuming.load(kept / resuming.FILE)  # on the CPU, where the states of generators must be
        for model, weights in zip(self.models, states["models"], strict=True):
            for name, weight in policy.trained(model).items():
                weight.copy_(weights[name])
        self.room.shards.load(self.optimizers, kept)
        for schedule, state in zip(self.schedules, states["schedules"], strict=True):
            schedule.load_state_dict(state)
        self.weight, self.room.size, self.step = states["weight"], states["room"], int(kept.name)
        resuming.set_random_states(states["random"])


def fit(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    value: PreTrainedModel,
    rewards: Rewards,
    tokenizer: PreTrainedTokenizerBase,
    asked: Asked,
    plan: Reinforcement,
    seed: int,
    work: Work,
    recorder: Recorder,
) -> PreTrainedModel:
    """The trained policy, adapters merged.

    reference: the policy as it comes, which is left as it is; value: a model with a head of one output, trained with the policy.
    """
    for one in (model, value):
        policy.freeze(one, plan.weights)
    adapters = policy.adapter(plan.weights, model), policy.adapter(plan.weights, value, TaskType.SEQ_CLS)
    both = [one if shape is None else get_peft_model(one, shape) for one, shape in zip((model, value), adapters, strict=True)]
    training = Training(both[0], both[1], None if adapters[0] else reference, tokenizer, plan, work.ranks)
    rewards, work = recorder.watched(rewards), recorder.watching(work)
    checkpoints = work.checkpoints or Checkpoints()
    if kept := checkpoints.latest():
        training.resume(kept)
    with checkpoints.training():
        for some in islice(_batches(asked, plan, seed), training.step, None):
            told = training.one_step(some, rewards)
            work.progress(training.step, plan.steps, told)
            resuming.require_number(told, training.step)
            recorder.stepped(training.step, training.model)
            if checkpoints.due():
                checkpoints.save(training.step, training.save)
    recorder.restored(training.model)
    return policy.merged(training.model, plan.precision)


def _batches(asked: Asked, plan: Reinforcement, seed: int) -> Iterator[Asked]:
    """The records of each step, one as often as it is to be answered; in an order of its own every time that all have been asked."""
    source, order = random.Random(seed), list[int]()
    for _ in range(plan.steps):
        while len(order) < plan.prompts_per_step:
            order = source.sample(range(len(asked)), len(asked)) + order
        yield [asked[place] for place in [order.pop() for _ in range(plan.prompts_per_step)] for _ in range(plan.answers_per_prompt)]


def _from_the_left(made: generation.Batch, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """The answers with their prompts, padding behind them, so that every model counts their tokens from 0.

    Ids and which of them count [answers, tokens]; which tokens but the first are the answer's own [answers, tokens - 1].
    """
    counted = made.attention.bool()
    ids, said = ([row[kept] for row, kept in zip(whole, counted, strict=True)] for whole in (made.ids, made.said))
    attention = pad_sequence([torch.ones_like(row) for row in ids], True)
    return pad_sequence(ids, True, float(pad)), attention, pad_sequence(said, True)[:, 1:]


def _of_next(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities [answers, tokens - 1] of all tokens but the first, of logits [answers, tokens - 1, vocabulary]."""
    return -cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(logits.shape[:2])


def _at_the_end(scores: Tensor, said: Tensor) -> Tensor:
    """Each answer's score at its last token [answers, tokens], nothing elsewhere."""
    last = said.int() * torch.arange(said.shape[1], device=said.device)
    return torch.zeros(said.shape, device=said.device).scatter(1, last.argmax(1, keepdim=True), scores[:, None])
