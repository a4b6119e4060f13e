"""Duplicates: equal texts, and texts that differ in a few words of many. The first in the file's order stays."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data.cleaning import is_code, without_spacing
from models.data.words import Words, mixed, one_form, weighed

PERMUTATIONS = 128
SEED = 1
RECALL = 0.99
SLACK = 0.12
"""What a signature's estimate may fall below the threshold before the pair is left unverified: 4.5 standard errors at 0.9."""
PROSE = re.compile(r"\w+|[^\w\s.,;:!?'\"()-]")
CODE = re.compile(r"\w+|[^\w\s]")
MIXED_PROSE = mixed(r"\w", r"[^\w\s\p{P}]|[#%\&*/@\\\[\]{}]")
MIXED_CODE = mixed(r"\w", r"[^\w\s]")
NUMBER = re.compile(r"\d+(?:\.\d+)?")

Fields = Sequence[tuple[str, str]]
"""A record's (field, text), as models.data.kinds.texts yields them."""


@dataclass(frozen=True)
class Nearness:
    """What counts as nearly the same: Jaccard similarity of word shingles, of texts that are long enough for it to mean something."""

    shingle_words: int
    min_words: int
    threshold: float


def first_equal(records: Sequence[Fields]) -> dict[int, int]:
    """Map the place of every record that equals an earlier one, field by field and but for spacing, to that one's place."""
    first: dict[bytes, int] = {}
    equal = {}
    for place, fields in enumerate(records):
        digest = hashlib.sha256(
            "\0".join(f"{field}\1{without_spacing(text)}" for field, text in fields).encode("utf-8", "surrogatepass")
        ).digest()
        if first.setdefault(digest, place) != place:
            equal[place] = first[digest]
    return equal


def first_near(records: Sequence[Fields], nearness: Nearness) -> dict[int, int]:
    """Map the place of every record that is nearly an earlier kept one to that one's place.

    Candidates come from MinHash signatures in bands (Broder 1997; Leskovec, Rajaraman & Ullman, ch. 3), found with
    probability RECALL or more at the threshold; each is verified by the true Jaccard similarity, and must hold the same
    numbers: two sums or two ages in the same words are two facts. Case and punctuation do not count, but in code they do.
    """
    from rensa import RMinHash

    shingles = [_shingles(fields, nearness) for fields in records]
    places = [place for place, found in enumerate(shingles) if found]
    if not places:
        return {}
    hashes = RMinHash.hash_token_sets([shingles[place] for place in places])
    rows = RMinHash.digest_matrix_from_token_hash_sets(hashes, PERMUTATIONS, SEED).to_rows()
    signatures = np.array(rows, dtype=np.uint32)
    numbers = [_numbers(records[place]) for place in places]
    near = _near(signatures, [frozenset(one) for one in hashes], numbers, nearness.threshold)
    return {places[later]: places[earlier] for later, earlier in near.items()}


def jaccard(one: Set[int], other: Set[int]) -> float:
    """Return the share of common members; 0 for two empty sets."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0


def _near(signatures: NDArray[np.uint32], shingles: Sequence[Set[int]], numbers: Sequence[bytes], threshold: float) -> dict[int, int]:
    """Map each row that is near an earlier kept row to it. `signatures`: [rows, PERMUTATIONS]; rows of unlike numbers never meet."""
    width = signatures.itemsize * _band_width(threshold)
    starts = range(0, signatures.itemsize * PERMUTATIONS - width + 1, width)
    buckets: list[defaultdict[bytes, list[int]]] = [defaultdict(list) for _ in starts]
    near: dict[int, int] = {}
    for row, signature in enumerate(map(bytes, np.ascontiguousarray(signatures))):
        found = [bucket[signature[start : start + width] + numbers[row]] for bucket, start in zip(buckets, starts, strict=True)]
        met = {other for members in found for other in members}
        for other in _alike(row, sorted(met), signatures, threshold - SLACK):
            if jaccard(shingles[row], shingles[other]) >= threshold:
                near[row] = other
                break
        else:
            for members in found:
                members.append(row)
    return near


def _alike(row: int, others: list[int], signatures: NDArray[np.uint32], least: float) -> list[int]:
    """The candidates whose signatures agree in at least that share, so that few pairs are compared in full."""
    if not others:
        return []
    agree = (signatures[others] == signatures[row]).mean(axis=1)
    return [other for other, share in zip(others, agree, strict=True) if share >= least]


def _band_width(threshold: float) -> int:
    """The widest band, in signature values, that still finds a pair at the threshold with probability RECALL."""
    fits = [width for width in range(1, PERMUTATIONS + 1) if 1 - (1 - threshold**width) ** (PERMUTATIONS // width) >= RECALL]
    return max(fits)


def _shingles(fields: Fields, nearness: Nearness) -> list[str]:
    """Runs of words, each marked by its field, so that a pair of answers and its reverse differ; none where the text is short."""
    found: list[str] = []
    count = 0
    for field, text in fields:
        words = _words(text)
        count += words.count
        found += [f"{field} {run}" for run in list(words.runs(nearness.shingle_words)) or [" ".join(words.tokens)]]
    return found if count >= nearness.min_words else []


def _words(text: str) -> Words:
    """The words and symbols of code; of prose those that are more than case and punctuation."""
    code = is_code(text)
    if not code:
        text = one_form(text)
    if text.isascii():
        return Words((CODE if code else PROSE).findall(text))
    return weighed(text, MIXED_CODE if code else MIXED_PROSE)


def _numbers(fields: Fields) -> bytes:
    """What is equal for records with the same numbers: a digest of them all, in order of their digits; nothing where there are none."""
    found = sorted(number for _, text in fields for number in NUMBER.findall(text))
    return hashlib.sha256(" ".join(found).encode()).digest()[:16] if found else b""
