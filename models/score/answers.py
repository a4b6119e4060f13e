"""Whether the answer that a text ends in is the right one: symbolic equivalence by math-verify, of what stands in the last box.

A model's text can ask for 10^(10^10). So the comparison runs in a process of its own that may use so much memory, and that the system's
timer ends whatever it computes; the next one goes on behind that answer. Processor time is counted: a verdict must not depend on what else
the machine does.
"""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal

from models.core.errors import StageError

Verdict = Literal["right", "wrong", "unreadable", "too long"]
SECONDS, MEMORY_MIB = 5, 2048  # processor time of one comparison, memory of the process


def judge(pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Return a verdict for each (right answer in LaTeX, text whose last box or formula is the answer).

    `unreadable` is a text without any formula, `too long` one whose comparison does not end. Raises StageError where nothing can be
    compared.
    """
    verdicts: list[Verdict] = []
    while len(verdicts) < len(pairs):
        lines = "".join(json.dumps(pair) + "\n" for pair in pairs[len(verdicts) :])
        done = subprocess.run([sys.executable, "-m", "models.score.answers"], input=lines, capture_output=True, text=True, check=False)
        verdicts += json.loads(f"[{','.join(done.stdout.split())}]")
        if done.returncode == -signal.SIGPROF:
            verdicts.append("too long")
        elif done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise StageError(f"answers cannot be compared ({last}): math-verify must work here; run 'make setup'")
    return verdicts


def _verdict(gold: str, text: str) -> Verdict:
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig(boxed_match_priority=0)]  # never plain expressions: those are read by eval
    try:
        last = text[max(text.rfind(r"\boxed"), 0) :]
        right, found = (parse(part, latex, parsing_timeout=None) for part in (f"${gold}$", last))
        if not found:
            return "unreadable"
        return "right" if verify(right, found, timeout_seconds=None) else "wrong"
    except (Exception, RecursionError, MemoryError):  # of whatever a text makes sympy do
        return "wrong"


def _serve() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MIB << 20, MEMORY_MIB << 20))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # no handler: the system ends the process
        print(json.dumps(_verdict(*json.loads(line))), flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    _serve()
