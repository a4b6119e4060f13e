"""What an import of JSON Lines costs: megabytes a second on one core, and the memory of a small and a large one.

Beside it the least that Python does without any check: json.loads and json.dumps of every line.
"""

import json
import random
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.data.importers.bringing import bring

LARGE, SMALL, WORDS = 200, 1, {"1.3 KB": 60, "0.4 KB": 12}
MEASURED = """
import json, resource, sys
from pathlib import Path
from models.data.importers.bringing import bring
bring(sys.argv[1], Path(sys.argv[2]))
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""


def conversations(path: Path, megabytes: float, words: int) -> Path:
    """A file of chats of so many words a question."""
    rng, size = random.Random(1), 0
    known = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(5000)]
    with path.open("w") as file:
        while size < megabytes * 1e6:
            texts = [" ".join(rng.choices(known, k=count)) + '.\nIt is "so".' for count in (words, 2 * words)]
            messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]
            size += file.write(json.dumps({"id": size, "messages": messages}) + "\n")
    return path


def copied(source: Path, target: Path) -> None:
    with source.open() as lines, target.open("w") as out:
        for line in lines:
            out.write(json.dumps(json.loads(line), ensure_ascii=False) + "\n")


def speed(name: str, source: Path, folder: Path) -> None:
    """Megabytes a second of processor time, the better of three."""
    rates = {"ours": 0.0, "theirs": 0.0}
    for _ in range(3):
        for side, call in (("ours", lambda: bring(source, folder / "raw")), ("theirs", lambda: copied(source, folder / "copy"))):
            started = time.process_time()
            call()
            rates[side] = max(rates[side], source.stat().st_size / 1e6 / (time.process_time() - started))
    ours, theirs = rates["ours"], rates["theirs"]
    said = {"name": f"{name}: import, json.loads and json.dumps", "ours": round(ours), "theirs": round(theirs), "unit": "MB/s of one core"}
    print(json.dumps({**said, "ratio": round(ours / theirs, 2)}), flush=True)


def memory(folder: Path) -> None:
    """The most memory of a process that imports a large file, beside that of one that imports a small one."""
    used = []
    for megabytes in (LARGE, SMALL):
        source = conversations(folder / f"{megabytes}.jsonl", megabytes, WORDS["1.3 KB"])
        command = [sys.executable, "-c", MEASURED, str(source), str(folder / "raw")]
        used.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    large, small = used
    said = {"name": f"memory of an import: {LARGE} MB, {SMALL} MB", "ours": round(large, 1), "theirs": round(small, 1), "unit": "MiB"}
    print(json.dumps({**said, "ratio": round(small / large, 2)}), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as place:
        for name, words in WORDS.items():
            speed(f"JSON Lines of {name} a row", conversations(Path(place) / f"{words}.jsonl", 30, words), Path(place))
        memory(Path(place))


if __name__ == "__main__":
    main()
