"""The numbers of a report in sentences: the verdict, what to do next, what a training's curve shows."""

from collections.abc import Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]
SENTENCES = {
    "promote": "Version {version} is champion now: it passed on every suite.",
    "refuse": "Version {version} was refused: {failed}.",
    "undecided": "The gate cannot tell whether version {version} is as good as the champion: {failed}.",
    "invalid": "An evaluation of version {version} is broken, so nothing is decided: {failed}.",
    "unchanged": "Nothing is new: version {version} is this very model, and champion already.",
    "failed": "The run failed before there was anything to decide: {reason}",
}
NAMES = {
    "loss": "loss that is trained on",
    "held_out_loss": "held-out loss, nats a token",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
    "mean_reward": "reward, nats",
    "kl_per_token": "KL to sft, nats a token",
    "entropy_per_token": "entropy, nats a token",
    "answer_tokens": "answer length, tokens",
    "answers_cut": "share of answers cut",
    "value_loss": "value model's loss, nats squared",
    "value_error": "error of what was foreseen, nats squared",
    "value_explained": "share of the returns' spread that was foreseen",
    "kl_weight": "weight of the KL term",
    "length_correlation": "correlation of reward with length",
    "groups_alike": "share of prompts whose answers are worth the same",
    "clipped": "share of tokens beyond the clip",
    "accuracy": "accuracy",
}
"""What a column of a curve is, with its unit."""


def sentence(found: Facts) -> str:
    """The verdict."""
    verdict = found["verdict"]
    failed = [f"{suite} is {one['verdict']}" for suite, one in found["gate"].items() if not one["passed"]]
    said: str = SENTENCES.get(verdict["decision"], "Version {version}: " + verdict["decision"] + ".")
    return said.format(version=verdict["version"], failed=", ".join(failed) or verdict["reason"], reason=verdict["reason"])


def next_steps(found: Facts) -> list[str]:
    """What a person should do about it, most urgent first."""
    verdict, gate = found["verdict"], found["gate"]
    match verdict["decision"]:
        case "promote":
            whose = "beside the champion's" if verdict["champion"] else "beside those of the other models"
            steps = [f"Read the answers below {whose}: no test of a suite sees what they would tell you."]
            if verdict["champion"]:
                steps.append(f"If they are worse, 'sluice rollback --reason WHY' makes version {verdict['champion']} champion again.")
            return steps
        case "undecided":
            return [
                "The champion stays. Add items to the suites that are underpowered, or accept a wider margin in gate.suites; run again.",
                *(f"{suite}: {one['reason']}" for suite, one in gate.items() if one["verdict"] == "underpowered"),
            ]
        case "invalid":
            return [
                "The champion stays. Mend the evaluation before you judge the model: the raw answers are under Health.",
                *(f"{suite}: {one['reason']}" for suite, one in gate.items() if one["verdict"] == "invalid"),
            ]
        case "refuse":
            worst = [f"{suite}: {one['reason']}" for suite, one in gate.items() if not one["passed"]]
            return ["The champion stays. Look at what was lost, then at the data and the curves.", *worst]
        case "failed":
            return ["Mend what the sentence above names, then 'sluice run': what is done is kept."]
    return ["There is nothing to do."]


def learning(stage: str, columns: Mapping[str, Sequence[float | None]], metrics: Mapping[str, Any]) -> list[str]:
    """What a training's numbers show, a line each."""
    said = []
    before, after = metrics.get("held_out_loss_before"), metrics.get("held_out_loss")
    if after is not None and before is not None:
        verb = "fell" if after < before else "rose"
        said.append(f"held-out loss {verb} from {before:.3f} to {after:.3f}")
        if after > before:
            said.append("what was learned does not carry over to held-out records")
    elif after is not None:
        said.append(f"held-out loss ended at {after:.3f}")
    if change := _change(columns.get("loss")):
        said.append(
            f"training loss went from {change[0]:.3f} to {change[1]:.3f}" + (", and was still falling" if _falls(columns["loss"]) else "")
        )
    if "reward_gain" in metrics:
        error = metrics["reward_gain_stderr"]
        sure = abs(metrics["reward_gain"]) > 2 * error
        said.append(
            f"reward on held-out prompts changed by {metrics['reward_gain']:+.3f} ± {error:.3f}"
            + ("" if sure else ", which is within the error")
        )
        said.append(f"the policy moved {metrics['kl']:.2f} nats an answer away from sft")
        if metrics["tokens_after"] > 1.5 * metrics["tokens_before"]:
            said.append(f"answers grew from {metrics['tokens_before']:.0f} to {metrics['tokens_after']:.0f} tokens")
    elif (accuracy := metrics.get("accuracy")) is not None:
        error = metrics.get("accuracy_stderr")
        said.append(f"{accuracy:.3f}" + ("" if error is None else f" ± {error:.3f}") + " of held-out pairs are ranked as people did")
        if (pays := metrics.get("length_correlation")) is not None:
            said.append(f"its rewards go with the length of the answers at a correlation of {pays:+.2f}")
    return said or [f"{stage} left no number that tells how it went"]


def _change(values: Sequence[float | None] | None) -> tuple[float, float] | None:
    known = [value for value in values or () if value is not None]
    return (known[0], known[-1]) if len(known) > 1 else None


def _falls(values: Sequence[float | None]) -> bool:
    """Whether the last fifth lies a twentieth of all that was gained below the fifth before it."""
    known = [value for value in values if value is not None]
    part = len(known) // 5
    if part < 3:
        return False
    last, before = sum(known[-part:]) / part, sum(known[-2 * part : -part]) / part
    return before - last > 0.05 * (known[0] - last)
