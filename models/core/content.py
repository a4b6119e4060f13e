"""What identifies a model, or any folder: its content, not its name."""

import hashlib
from pathlib import Path


def folder_md5(folder: Path) -> str:
    """The md5 of a folder's content: of the sorted lines "md5 of the file, relative path"."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'md5').hexdigest()} {path.relative_to(folder).as_posix()}\n")
    return hashlib.md5("".join(lines).encode(), usedforsecurity=False).hexdigest()
