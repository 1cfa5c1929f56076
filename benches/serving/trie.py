"""The fewest prompt tokens that a server could have computed."""

from typing import Dict, List


class Trie:
    """All token sequences that were ever seen, by their beginnings."""

    def __init__(self) -> None:
        self._root: Dict[int, dict] = {}

    def add(self, tokens: List[int]) -> int:
        """Takes in a sequence and returns how many tokens at its start had been seen before."""
        node, seen, is_old = self._root, 0, True
        for token in tokens:
            child = node.get(token)
            if child is None:
                is_old = False
                child = node[token] = {}
            seen += is_old
            node = child
        return seen


class Ideal:
    """Counts, request by request, the tokens that nobody had seen before.

    A prompt counts as seen from the moment it is submitted: of two requests that arrive together, one could wait for the other's
    work. The last token of a reply was sampled but never evaluated, so it is new when the reply comes back in a prompt. The last
    token of a prompt has to be evaluated even when all is known, or there would be nothing to sample from: at least one a request.
    """

    def __init__(self) -> None:
        self._tries: Dict[str, Trie] = {}

    def submit(self, model: str, prompt: List[int]) -> int:
        seen = self._tries.setdefault(model, Trie()).add(prompt)
        return max(1, len(prompt) - seen)

    def finish(self, model: str, prompt_and_reply: List[int]) -> None:
        self._tries.setdefault(model, Trie()).add(prompt_and_reply[:-1])
