"""The program `dvc`, but for listings of folders that lead out of them, see `listing.run_dvc`.

A script: what it is started beside, a worktree of another commit, has a package `flows` of its own.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # ours, whatever PYTHONPATH names

from flows.stages import listing

if __name__ == "__main__":
    sys.exit(listing.run_dvc(sys.argv[1:]))
