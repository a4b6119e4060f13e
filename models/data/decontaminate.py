"""Whether a training text holds a benchmark item: by word n-grams, and for programs by their normalised syntax trees."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

from models.data.markup import readings, without_tags
from models.data.trees import trees
from models.data.words import Words, skeleton, words
from models.score import items
from models.score.suite import folders

LINE_END_HYPHEN = re.compile(r"(?<=\w)[-\u2010]\n")
COMMON = 10  # items


class Benchmark:
    """The items to keep out of the training text.

    An item is hit by any run of `ngram_words` words (models.data.words says what counts as one) that it shares with a text; case,
    punctuation, markup and line ends do not count, nor where one text of a record ends and the next begins. Runs that more than COMMON
    items share are the form of the suite and give away none that has others. An item with fewer words is hit by all of them in a row, one
    with fewer than `min_words` by its syntax tree only. A program is also hit by a function whose tree is that of one of its own functions,
    annotations and what does nothing left out, names and constants replaced. After Brown et al. (2020), appendix C, who use 13-grams and
    drop those that come often.
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
        for found in map(_words, readings(text)):
            for run in found.runs(self._size):
                self._grams[run].add(name)
            if self._least <= found.count < self._size:
                self._short[" ".join(found.tokens)].add(name)
                self._sizes[next(found.runs(self._least))].add(len(found.tokens))
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
        wordings = map(_words, readings("\n".join(texts)))
        return set().union(*map(self._word_hits, wordings), *map(self._tree_hits, chain(texts, bodies)))

    def _word_hits(self, text: Words) -> set[str]:
        found: set[str] = set()
        if not self._grams.keys().isdisjoint(text.runs(self._size)):  # seldom
            found.update(*(self._grams[run] for run in text.runs(self._size) if run in self._grams))
        if not self._sizes.keys().isdisjoint(text.runs(self._least)):
            for start, run in enumerate(text.runs(self._least)):
                wholes = (" ".join(text.tokens[start : start + size]) for size in self._sizes.get(run, ()))
                found.update(*(self._short[whole] for whole in wholes if whole in self._short))
        return found

    def _tree_hits(self, text: str) -> set[str]:
        return set().union(*(self._trees[tree] for tree in trees(text) if tree in self._trees))


def suite_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (suite/item id, text) for every item of every suite in a folder."""
    for suite in folders(folder):
        for item_id, text in items.texts(suite):
            yield f"{suite.name}/{item_id}", text


def _words(text: str) -> Words:
    return words(skeleton(LINE_END_HYPHEN.sub("", without_tags(text.replace("\u00ad", "")))))
