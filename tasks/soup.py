"""Soup stage: one model of several that were fine-tuned from one base, as with other seeds. Benchmark and gate read it next."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from models.core.errors import UserError
from tasks.stage import Inputs, Metrics, Outputs, Params, Record, Work


class Uniform(Record):
    """The mean of all (Wortsman et al. 2022)."""

    how: Literal["uniform"]


class Greedy(Record):
    """The mean of those that lower the held-out loss, tried from the best on (Wortsman et al. 2022, algorithm 1)."""

    how: Literal["greedy"]


class Best(Record):
    """The one with the least held-out loss."""

    how: Literal["best"]


class Slerp(Record):
    """A point on the arc between two (Shoemake 1985)."""

    how: Literal["slerp"]
    share: float = Field(ge=0, le=1, description="of the way from the first to the second")


class SoupParams(Params):
    mix: Uniform | Greedy | Best | Slerp = Field(discriminator="how", description="how one is made of several")
    max_tokens: int = Field(ge=16, description="longer held-out conversations are left out")
    batch_size: int = Field(ge=1, description="conversations at once")


class SoupInputs(Inputs):
    first: Path
    second: Path
    third: Path | None = None
    fourth: Path | None = None
    fifth: Path | None = None
    instructions: Path


class SoupOutputs(Outputs):
    soup: Path


class SoupMetrics(Metrics):
    held_out_loss: float = Field(description="nats a token of the assistant's, on held-out conversations")
    held_out_losses: dict[str, float] = Field(description="the same of each model that was given")
    taken: list[str] = Field(description="those that are in it")


def soup(params: SoupParams, inputs: SoupInputs, outputs: SoupOutputs, work: Work) -> SoupMetrics:
    from models.train import averaging, policy, training, vocabulary
    from models.train.methods import finetune

    training.make_repeatable(0)  # nothing is drawn
    given = {field: path for field, path in inputs if field != "instructions" and path is not None}
    if isinstance(params.mix, Slerp) and len(given) != 2:
        raise UserError(f"soup.mix is slerp, and dvc.yaml gives {len(given)} models, must be two: take one of uniform, greedy, best")
    tokenizer, model = vocabulary.load(inputs.first), policy.load(inputs.first).to(work.device)
    for name, path in given.items():
        if vocabulary.load(path).get_vocab() != tokenizer.get_vocab():
            raise UserError(f"{name} ({path.name}) has another vocabulary than first ({inputs.first.name}): must be trained from one base")
    states = [policy.load(path).state_dict() for path in given.values()]
    averaging.require_alike(states, list(given))
    held_out, _ = finetune.conversations(inputs.instructions / "held_out.jsonl", tokenizer, params.max_tokens)

    def loss(state: averaging.State) -> float:
        model.load_state_dict(state)
        return finetune.loss(model, held_out, params.batch_size)

    losses, everyone = [loss(state) for state in states], list(range(len(states)))
    match params.mix:
        case Uniform():
            mixed, taken = averaging.mean(states), everyone
        case Greedy():
            mixed, taken = averaging.greedy(states, losses, loss)
        case Best():
            place = min(everyone, key=losses.__getitem__)
            mixed, taken = states[place], [place]
        case Slerp(share=share):
            mixed, taken = averaging.slerp(states[0], states[1], share), everyone
    held_out_loss = loss(mixed)
    policy.save(model, tokenizer, outputs.soup)
    names = list(given)
    return SoupMetrics(
        held_out_loss=held_out_loss,
        held_out_losses=dict(zip(names, losses, strict=True)),
        taken=[names[place] for place in taken],
    )
