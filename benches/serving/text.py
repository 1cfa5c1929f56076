"""Text of a wanted number of tokens, cut from the repository's own files; the same for the same seed and checkout."""

import functools
import hashlib
import random
import re
from pathlib import Path
from typing import Callable, List, Sequence

_REPOSITORY = Path(__file__).resolve().parents[2]
_CHARACTERS_MAX = 600_000
_CHARACTERS_PER_CALL = 50_000
# A line with marks of chat templates would become another kind of token than text.
_MARKS = re.compile(r"<\||<s>|</s>|\[INST|_of_turn>|<think|</think|<tool|\[TOOL")


@functools.lru_cache(maxsize=None)
def corpus() -> str:
    """Documents and sources in the order of their paths. ASCII, so that every cut between tokens is one between characters.

    Read once: servers that are compared get the same text even where somebody edits these files meanwhile.
    """
    files = sorted(_REPOSITORY.glob("*.md")) + sorted(_REPOSITORY.glob("crates/**/*.rs"))
    lines: List[str] = []
    total = 0
    for file in files:
        for line in file.read_text("utf-8").splitlines(keepends=True):
            if line.isascii() and not _MARKS.search(line):
                lines.append(line)
                total += len(line)
        if total >= _CHARACTERS_MAX:
            break
    return "".join(lines)[:_CHARACTERS_MAX]


class Pieces:
    """Deals out pieces of text, none twice before all was dealt."""

    def __init__(self, tokens: Sequence[int], detokenize: Callable[[List[int]], str], seed: str) -> None:
        self._tokens = tokens
        self._detokenize = detokenize
        self._at = random.Random(seed).randrange(len(tokens))

    def take(self, count: int) -> str:
        """Text of `count` tokens, give or take one at each end."""
        doubled = self._at + count
        piece = list(self._tokens[self._at : doubled])
        while len(piece) < count:
            piece += self._tokens[: count - len(piece)]
        self._at = doubled % len(self._tokens)
        return self._detokenize(piece)


class Words:
    """The same for models without a vocabulary of words: random token ids."""

    def __init__(self, vocabulary: int, seed: str) -> None:
        self._random = random.Random(seed)
        self._vocabulary = vocabulary

    def take(self, count: int) -> List[int]:
        # The lowest ids tend to be control tokens.
        return [self._random.randrange(3, self._vocabulary) for _ in range(count)]


def tokenized_corpus(tokenize: Callable[[str], List[int]]) -> List[int]:
    text = corpus()
    starts = range(0, len(text), _CHARACTERS_PER_CALL)
    return [token for start in starts for token in tokenize(text[start : start + _CHARACTERS_PER_CALL])]


def corpus_digest() -> str:
    """Names the text in the results: counts of two checkouts differ where this does."""
    return hashlib.sha256(corpus().encode()).hexdigest()[:16]
