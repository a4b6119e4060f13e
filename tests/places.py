"""A place without a process: every attempt at a stage goes as a test says."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flows.stages.pipeline import Stage
from flows.stages.place import Outcome

DONE = Outcome(0, {"exit_code": 0, "reason": "", "passing": False, "seconds": 1.5}, {"loss": 0.25})
AWAY = Outcome(255, {"exit_code": 1, "reason": "the server is away", "passing": True, "seconds": 0.5})
ASTRAY = Outcome(255, {"exit_code": 1, "reason": "loss is no number", "passing": False, "seconds": 0.5})
REFUSED = Outcome(255, {"exit_code": 2, "reason": "params.yaml: seed must be a number", "passing": False, "seconds": 0.0})
LATE = Outcome(None)


@dataclass(frozen=True)
class Scripted:
    """Attempts at a stage end as `outcomes` says of its name, in that order, those at others well; each prints `lines` first."""

    outcomes: Mapping[str, Sequence[Outcome]] = field(default_factory=dict)
    lines: Sequence[str] = ()
    attempted: list[str] = field(default_factory=list)
    envs: list[Mapping[str, str]] = field(default_factory=list)
    together: threading.Barrier | None = None  # how many stages must be at work at once before any of them ends

    def run(self, stage: Stage, env: Mapping[str, str], on_line: Callable[[str], object]) -> Outcome:
        number = self.attempted.count(stage.name)
        self.attempted.append(stage.name)
        self.envs.append(env)
        for line in self.lines:
            on_line(line)
        if self.together is not None:
            self.together.wait(30)
        return self.outcomes[stage.name][number] if stage.name in self.outcomes else DONE


def stage_named(name: str, timeout_s: float = 60.0) -> Stage:
    """A stage of which nothing matters but its name and its limit."""
    return Stage(name, "true", (), (), "metrics.json", (), "cpu", timeout_s, 0, ())
