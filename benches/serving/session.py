"""One workload on one server: conversations that grow, requests that are recorded, tokens that are counted afterwards."""

import threading
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Union

import client
from gguf import Facts
from servers import Server
from text import Pieces, Words, tokenized_corpus
from trie import Ideal

Piece = Union[str, List[int]]

# Models with a vocabulary this small are made for tests: their text cannot be tokenized back, so token ids go in and out.
_SMALL_VOCABULARY = 4096


def uses_token_ids(model: Facts) -> bool:
    return not model.has_chat_template or len(model.tokens) <= _SMALL_VOCABULARY


class Talk:
    """A conversation: messages where the model has a chat template, else one growing list of token ids."""

    def __init__(self, model: Facts, system: Piece) -> None:
        self.model = model
        self.is_chat = isinstance(system, str)
        self.messages: List[Dict[str, str]] = [{"role": "system", "content": system}] if self.is_chat else []
        self.tokens: List[int] = [] if self.is_chat else list(system)

    def say(self, piece: Piece) -> None:
        if self.is_chat:
            self.messages.append({"role": "user", "content": piece})
        else:
            self.tokens += piece

    def hear(self, request: "Request") -> None:
        if self.is_chat:
            self.messages.append({"role": "assistant", "content": request.reply.text})
        else:
            self.tokens += request.reply_tokens


@dataclass
class Request:
    """One request and what became of it. `group` names it in the report: `turn`, `title`, `after restart` and so on."""

    model: Facts
    group: str
    path: str
    prompt: Dict[str, Any]
    reply: client.Reply
    is_cancelled: bool = False
    reply_tokens: List[int] = field(default_factory=list)
    ideal_tokens: int = 0
    counted_prompt_tokens: int = 0

    @property
    def computed_tokens(self) -> int:
        return self.reply.prompt_tokens - self.reply.cached_tokens


class Session:
    """`server` has been started; `seed` decides all text."""

    def __init__(self, server: Server, seed: str) -> None:
        self.server, self.seed = server, seed
        self.requests: List[Request] = []
        self.peak_memory_bytes = 0
        self.stored_bytes = 0
        self._lock = threading.Lock()
        self._corpus: Dict[str, List[int]] = {}
        self._texts: Dict[str, Dict[str, int]] = {}

    def pieces(self, model: Facts, stream: str) -> Union[Pieces, Words]:
        """Where a conversation takes its text from; another `stream` starts elsewhere."""
        seed = f"{self.seed}/{stream}"
        if uses_token_ids(model):
            return Words(len(model.tokens), seed)
        if model.path not in self._corpus:
            self._corpus[model.path] = tokenized_corpus(lambda text: self.server.tokenize(model, text, False))
        return Pieces(self._corpus[model.path], lambda tokens: self.server.detokenize(model, tokens), seed)

    def ask(
        self,
        talk: Talk,
        reply_tokens: int,
        group: str = "turn",
        on_piece: Optional[threading.Event] = None,
        piece_count: int = 1,
        cancel: Optional[threading.Event] = None,
    ) -> Request:
        """Sends the conversation as it stands and waits for the reply, which the caller may add to it."""
        model = talk.model
        prompt: Dict[str, Any] = {"messages": list(talk.messages)} if talk.is_chat else {"prompt": list(talk.tokens)}
        path = "/v1/chat/completions" if talk.is_chat else "/v1/completions"
        body = {
            **prompt,
            **self.server.extra(),
            "model": self.server.model_id(model),
            "max_tokens": reply_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if not talk.is_chat:
            # The only way to learn which tokens were generated.
            body["logprobs"] = 1
        reply = client.stream(self.server.port, path, body, on_piece, piece_count, cancel)
        request = Request(model, group, path, prompt, reply, is_cancelled=not reply.is_complete)
        if not talk.is_chat:
            request.reply_tokens = self._ids_of(model, reply)
        with self._lock:
            self.requests.append(request)
        return request

    def _ids_of(self, model: Facts, reply: client.Reply) -> List[int]:
        """Token ids of a reply, where the server tells ids or at least the text of each token."""
        if reply.token_ids:
            return reply.token_ids
        if len(model.tokens) > _SMALL_VOCABULARY:
            return self.server.tokenize(model, reply.text, False)
        with self._lock:
            if model.path not in self._texts:
                texts = [self.server.detokenize(model, [token]) for token in range(len(model.tokens))]
                self._texts[model.path] = {text: token for token, text in enumerate(texts)}
        known = self._texts[model.path]
        return [known[text] for text in reply.token_texts if text in known]

    def count(self) -> None:
        """Finds the ideal number of prompt tokens of each request, after all of them: that asks the server's tokenizer too."""
        ideal = Ideal()
        moments: List[Tuple[str, float, int, Request]] = []
        for request in self.requests:
            # Model by model: a server with room for one would swap them at every call.
            moments.append((request.model.path, request.reply.submitted_at, 1, request))
            moments.append((request.model.path, request.reply.ended_at, 0, request))
        replied: Dict[int, List[int]] = {}
        for model, _, is_submitted, request in sorted(moments, key=lambda moment: moment[:3]):
            if is_submitted:
                prompt, replied[id(request)] = self._tokens(request)
                request.counted_prompt_tokens = len(prompt)
                request.ideal_tokens = ideal.submit(model, prompt)
            else:
                ideal.finish(model, replied.pop(id(request)))

    def _tokens(self, request: Request) -> Tuple[List[int], List[int]]:
        """Tokens of the prompt, and of the prompt with its reply."""
        if "prompt" in request.prompt:
            prompt = request.prompt["prompt"]
            return prompt, prompt + request.reply_tokens
        model = request.model
        text = self.server.render(model, request.prompt["messages"])
        whole = self.server.tokenize(model, text + request.reply.text, True)
        return self.server.tokenize(model, text, True), whole
