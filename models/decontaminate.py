"""Whether a training text holds a benchmark item: by word n-grams, and for programs by their normalised syntax trees."""

import ast
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from models import suites

WORD = re.compile(r"[^\W_]+")  # an underscore emphasises, or marks a blank
LAYOUT = re.compile(r"\u00ad|(?<=\w)-\n|</?[a-z][a-z0-9]*\s*/?>", re.IGNORECASE)  # hyphens that end lines, tags of HTML
COMMON = 10  # items
FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where a statement holds other statements."""
FUNCTION = re.compile(r"^[ \t]*(?:async )?def ", re.MULTILINE)
PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.) ?", re.MULTILINE)  # of an interactive session
TYPED, ESCAPED = re.compile(r"^[ \t]*>>> ?(?:async )?def ", re.MULTILINE), re.compile(r"\bdef [^\n]*:\s*\\n")
QUOTED = re.compile(r'"(?=(?:async )?def )')  # where a program begins in a string


class Benchmark:
    """The items to keep out of the training text.

    An item is hit by any run of `ngram_words` words that it shares with a text; case, punctuation, markup and line ends do not count,
    nor where one text of a record ends and the next begins. Runs that more than COMMON items share are the form of the suite and give
    away none that has others. An item with fewer words is hit by all of them in a row, one with fewer than `min_words` by its syntax tree
    only. A program is also hit by a function whose tree is that of one of its own functions, annotations and what does nothing left out,
    names and constants replaced. After Brown et al. (2020), appendix C, who use 13-grams and drop those that come often.
    """

    def __init__(self, items: Iterable[tuple[str, str]], ngram_words: int, min_words: int) -> None:
        self._size, self._least = ngram_words, min(min_words, ngram_words)
        self._grams: defaultdict[str, set[str]] = defaultdict(set)
        self._short: defaultdict[str, set[str]] = defaultdict(set)
        self._sizes: defaultdict[str, set[int]] = defaultdict(set)  # of the short items that begin with these words
        self._trees: defaultdict[str, set[str]] = defaultdict(set)
        names = set()
        for name, text in items:
            names.add(name)
            self._add(name, text)
        self._forget_common_runs()
        self.items = len(names)

    def _add(self, name: str, text: str) -> None:
        words = _words(text)
        for run in _runs(words, self._size):
            self._grams[run].add(name)
        if self._least <= len(words) < self._size:
            self._short[" ".join(words)].add(name)
            self._sizes[" ".join(words[: self._least])].add(len(words))
        for tree in trees(text):
            self._trees[tree].add(name)

    def _forget_common_runs(self) -> None:
        common = {run for run, names in self._grams.items() if len(names) > COMMON}
        told_apart = set().union(*(names for run, names in self._grams.items() if run not in common))
        for run in common:
            self._grams[run] -= told_apart
            if not self._grams[run]:
                del self._grams[run]

    def hits(self, texts: Sequence[str]) -> set[str]:
        """Return the names of all items that the texts of one record hold, one after the other; a head's indented body may be the next."""
        bodies = (f"{head}\n{body}" for head, body in pairwise(texts) if body[:1].isspace())
        return self._word_hits(_words("\n".join(texts))).union(*map(self._tree_hits, chain(texts, bodies)))

    def _word_hits(self, words: list[str]) -> set[str]:
        found: set[str] = set()
        if not self._grams.keys().isdisjoint(_runs(words, self._size)):  # seldom
            found.update(*(self._grams[run] for run in _runs(words, self._size) if run in self._grams))
        if not self._sizes.keys().isdisjoint(_runs(words, self._least)):
            for start, run in enumerate(_runs(words, self._least)):
                wholes = (" ".join(words[start : start + size]) for size in self._sizes.get(run, ()))
                found.update(*(self._short[whole] for whole in wholes if whole in self._short))
        return found

    def _tree_hits(self, text: str) -> set[str]:
        return set().union(*(self._trees[tree] for tree in trees(text) if tree in self._trees))


def suite_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (suite/item id, text) for every item of every suite in a folder."""
    for suite in suites.folders(folder):
        for item_id, text in suites.texts(suite):
            yield f"{suite.name}/{item_id}", text


def _runs(words: list[str], size: int) -> Iterator[str]:
    """All runs of `size` words; none where there are fewer."""
    return map(" ".join, zip(*(words[start:] for start in range(size)), strict=False))


def _words(text: str) -> list[str]:
    return WORD.findall(LAYOUT.sub(lambda found: " " if found[0][0] == "<" else "", text).casefold())


def trees(text: str) -> Iterator[str]:
    """Yield the normalised syntax tree of every function in the text: also in fences, in prose, at a prompt, or escaped as in JSON."""
    if TYPED.search(text):
        yield from trees(PROMPT.sub("", text))
    if ESCAPED.search(text):
        lines = text.replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"').replace("\\\\", "\\")
        yield from trees(QUOTED.sub('"\n', lines))
    if FUNCTION.search(text) is None:
        return
    for program in _programs(text):
        for function in _functions(program):
            yield normal_form(function)


def _functions(node: ast.AST) -> Iterator[ast.AST]:
    """All functions below a node, those inside functions, classes and branches included."""
    for block in BLOCKS:
        for part in getattr(node, block, ()):
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                yield part
            yield from _functions(part)


def _programs(text: str) -> list[ast.Module]:
    """The text as a program; where it is none, its fenced blocks and the parts that begin with def."""
    whole = _parsed(text)
    if whole is not None:
        return [whole]
    parts = (part for source in (*FENCE.findall(text), *_definitions(text)) if (part := _parsed(source)) is not None)
    return list(parts)


def _definitions(text: str) -> Iterator[str]:
    """Each line that begins a function, with the deeper or empty lines below it, moved to the margin."""
    lines = text.split("\n")
    for start, line in enumerate(lines):
        if FUNCTION.match(line):
            margin = len(line) - len(line.lstrip())
            end = start + 1
            while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > margin):
                end += 1
            yield "\n".join(line[margin:] for line in lines[start:end])


def _parsed(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in other people's code
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def normal_form(function: ast.AST) -> str:
    """Return the function's tree without annotations and what does nothing, every name and every constant replaced by one placeholder.

    Two functions that differ in names and constants only have one form.
    """
    out: list[str] = []
    _write(function, out)
    return "".join(out)


IGNORED = frozenset(("returns", "annotation", "type_comment", "type_params", "decorator_list", "ctx"))


def _parts(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields of a node that shape a program; none for names and constants, which all look alike."""
    return () if kind in (ast.Name, ast.Constant) else tuple(field for field in kind._fields if field not in IGNORED)


def _write(node: ast.AST, out: list[str]) -> None:
    """Append the form of a node: its kind, then its parts in brackets, each after its field: x[1:] and x[:1] differ by that."""
    kind = type(node)
    out.append(kind.__name__)
    for field in _parts(kind):
        value = getattr(node, field, None)
        if isinstance(value, ast.AST):
            out.append(f"({field} ")
            _write(value, out)
            out.append(")")
        elif isinstance(value, list):
            out.append(f"({field}")
            for part in value:
                if _is_idle(part):
                    continue
                out.append(" ")
                _write(part, out) if isinstance(part, ast.AST) else out.append("_")
            out.append(")")


def _is_idle(node: Any) -> bool:
    """Whether a statement does nothing: pass, or a constant by itself, as docstrings are."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
