"""The published model that training begins from: brought into data/pretrained as links, where DVC hashes its content as any other data.

Which one is params.yaml's key `pretrained`: a folder or a .gguf file, gguf:PACKAGE, a hub's owner/name@revision, or models:/NAME@ALIAS and
models:/NAME/VERSION of the registry. Beside the links lies what `pretrained` said and, where that is a name, what it stood for.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flows.host.workspace import Workspace
from flows.stages.pipeline import Pipeline, read_metrics
from models.core.content import folder_md5
from models.core.errors import Unavailable, UserError
from models.core.files import read_json, write_json
from models.train import weights

PLACE = "data/pretrained"  # holds NOTE, and in LINKS a link to each of the model's files
NOTE, LINKS, KEPT = "source.json", "model", ".gitkeep"
HUB = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
REGISTERED = re.compile(r"models:/([^/@:]+)(?:@([^/@]+)|/(\d+))")
FORMS = "owner/name@REVISION of a hub, a folder, a .gguf file, gguf:PACKAGE, models:/NAME@ALIAS or models:/NAME/VERSION"
HUB_S = 10.0  # to ask a hub for a commit's name


class Models(Protocol):
    """What is asked of the model registry: flows/registry/versions.py."""

    def named(self, name: str, which: str) -> Any:
        """That version, by number or alias."""

    def content_md5(self, version: Any) -> str | None:
        """The md5 of the version's model, by the record; None where Sluice did not register it."""

    def model_folder(self, version: Any, into: Path) -> Path:
        """Fetch a version's model folder."""


RegistryOf = Callable[[Workspace, Mapping[str, Any]], Models]  # by the workspace and its params


@dataclass(frozen=True)
class Base:
    """A published model at hand: what is noted of it, and its files by name; none where they are still to be fetched."""

    note: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    def stands_for(self, source: str) -> bool:
        """Whether this is what `source` once was, and is still there."""
        return self.note.get("source") == source and bool(self.files) and all(path.exists() for path in self.files.values())


def bring(workspace: Workspace, params: Mapping[str, Any], registry_of: RegistryOf, fetch: bool = True, ask: bool = True) -> None:
    """Have data/pretrained hold what params.yaml's `pretrained` names, whole and as it is now; nothing where it names none.

    `fetch` says whether what is not on this machine may be fetched, `ask` whether an alias is looked up again. Raises UserError where the
    source cannot be that or its files are broken, Unavailable where a hub or a server does not answer.
    """
    source, place = params.get("pretrained"), workspace.root / PLACE
    if not place.is_dir():  # a dep of stages: DVC wants it there, empty as git keeps it
        place.mkdir(parents=True)
        (place / KEPT).touch()
    here = _here(place)
    if source is None:
        wanted = Base()
    elif not (name := _name(workspace.root, source)):
        wanted = _local(workspace.root, source)
    elif here.stands_for(source) and not (ask and name.re is REGISTERED and name[2]):
        return
    elif name.re is REGISTERED:
        wanted = _of_registry(registry_of(workspace, params), name, workspace.state / "pretrained", fetch)
    else:
        wanted = _of_hub(name, fetch)
    if wanted != here:
        _put(place, wanted)


def _name(root: Path, source: str) -> re.Match[str] | None:
    """The parts of a name of the registry or a hub; None for a path, or gguf:PACKAGE. Raises UserError for what is neither."""
    if source.startswith("gguf:") or source.endswith(".gguf") or (root / Path(source).expanduser()).exists():
        return None
    name = REGISTERED.fullmatch(source) or HUB.fullmatch(source)
    if name is None and (":" in source or not re.search("[/.~]", source)):
        raise UserError(f"pretrained: '{source}' is neither a folder nor a name: must be {FORMS}")
    return name


def _here(place: Path) -> Base:
    """What data/pretrained holds. Raises UserError where somebody put files there: they would be taken for links and deleted."""
    beside = [path.name for path in place.glob("[!.]*") if path.name not in (NOTE, LINKS)]
    links = sorted((place / LINKS).glob("*"))
    if own := beside + [path.name for path in links if not path.is_symlink()]:
        raise UserError(
            f"{PLACE} holds {weights.listed(own)}, must hold what Sluice puts there only: keep a model elsewhere, name its folder"
        )
    return Base(read_json(place / NOTE, {}), {path.name: path.readlink() for path in links})


def _put(place: Path, wanted: Base) -> None:
    """The note comes last: without it, what a killed process left is made anew."""
    (place / NOTE).unlink(missing_ok=True)
    shutil.rmtree(place / LINKS, ignore_errors=True)
    for name, path in wanted.files.items():
        (place / LINKS).mkdir(parents=True, exist_ok=True)
        (place / LINKS / name).symlink_to(path)
    if wanted.note:
        write_json(place / NOTE, wanted.note)


def _local(root: Path, source: str) -> Base:
    with _under_its_key():
        found = weights.locate(source, root)
    for made in ("artifacts", PLACE):
        if Path(os.path.realpath(found)).is_relative_to(os.path.realpath(root / made)):
            raise UserError(
                f"pretrained: {source} is made by the pipeline itself: must lie outside {made}; copy it, or name models:/NAME/VERSION"
            )
    return Base({"source": source}, _links(found))


def _links(place: Path) -> dict[str, Path]:
    with _under_its_key():
        return {name: path.absolute() for name, path in weights.files(place).items()}


@contextlib.contextmanager
def _under_its_key() -> Iterator[None]:
    """Say in what is raised which key of params.yaml it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"pretrained: {error}") from None


def _of_hub(said: re.Match[str], fetch: bool) -> Base:
    """A snapshot of the hub's, by commit. A branch or a tag is looked up once: the commit that it was is noted."""
    from huggingface_hub import errors, snapshot_download

    source, name, revision = said[0], said[1], said[2]
    if revision is None:
        raise UserError(f"pretrained: {name} is no folder here, and as a hub id must name its revision, {name}@REVISION: {_today(name)}")
    read = [*weights.READ, "*.safetensors"]
    try:
        snapshot = snapshot_download(name, revision=revision, local_files_only=not fetch, allow_patterns=read, ignore_patterns=["*/*"])
    except errors.LocalEntryNotFoundError as error:
        if not fetch:
            return Base({"source": source})
        raise _unanswered(source, error) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        kind = "revision" if isinstance(error, errors.RevisionNotFoundError) else "model, or none that you may see ('hf auth login')"
        raise UserError(f"pretrained: {source}: the hub has no such {kind}; correct the key 'pretrained'") from None
    except OSError as error:
        raise _unanswered(source, error) from None
    return Base({"source": source, "resolved": f"{name}@{Path(snapshot).name}"}, _links(Path(snapshot)))


def _unanswered(source: str, error: Exception) -> Unavailable:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return Unavailable(f"pretrained: {source} cannot be fetched ({reason}): is the network there? A folder that holds it needs none")


def _today(name: str) -> str:
    """What to write for the revision: the commit that the hub names today, or where to find it."""
    from huggingface_hub import HfApi

    try:
        return f"today that is {name}@{HfApi().model_info(name, timeout=HUB_S).sha}"
    except Exception:  # no network, no such model, no permission: the person looks
        return f"the hub did not say which is today's; its page lists them under 'Files', 'History': https://huggingface.co/{name}/commits/main"


def _of_registry(registry: Models, said: re.Match[str], store: Path, fetch: bool) -> Base:
    """A version of the registry's, kept in the folder `store` by its content; the one before it goes."""
    version = registry.named(said[1], said[2] or said[3])
    model_md5 = registry.content_md5(version)
    note = {"source": said[0], "resolved": f"models:/{said[1]}/{version.version}"}
    if model_md5 is None:
        raise UserError(
            f"pretrained: {said[0]} was not registered by Sluice, nothing is known of its content: fetch it, and name its folder"
        )
    kept = store / model_md5
    if not kept.is_dir():
        if not fetch:
            return Base(note)
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store) as draft:
            registry.model_folder(version, Path(draft)).rename(kept)
        for other in store.iterdir():
            if other != kept:
                shutil.rmtree(other)
    return Base(note, _links(kept))


def recorded(pipeline: Pipeline) -> dict[str, str]:
    """What training began from, for a version's record: source, what it stood for, and the md5 of what was read; empty from scratch."""
    note = read_json(pipeline.workspace.root / PLACE / NOTE, {})
    measured = (
        read_metrics(pipeline.workspace.root, stage).get("pretrained_md5") for stage in pipeline.stages.values() if PLACE in stage.deps
    )
    md5 = next(filter(None, measured), None)
    return {**note, "md5": md5} if md5 else {}


def restore(registry: Models, root: Path, source: str, resolved: str | None, tree: Path) -> str:
    """Link into the checkout `tree` what `source`, a name in the workspace `root`, was when it was `resolved`; return its md5 of today."""
    name = None if resolved is None else REGISTERED.fullmatch(resolved) or HUB.fullmatch(resolved)
    if name is None:
        found = _local(root, source)
    elif name.re is REGISTERED:
        found = _of_registry(registry, name, tree / ".sluice" / "pretrained", fetch=True)
    else:
        found = _of_hub(name, fetch=True)
    note = {"source": source, **({"resolved": resolved} if resolved else {})}
    _put(tree / PLACE, Base(note, found.files))
    return folder_md5(tree / PLACE / LINKS)
