"""What the harness needs to know of a model file: the few facts in a GGUF header."""

import os
import shutil
import struct
from typing import Any, BinaryIO, Dict, List, NamedTuple, Optional

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _UINT32 = 8, 9, 4


class Facts(NamedTuple):
    """`context_at` is where the trained context stands in the file, as a u32; None when it is written in another way."""

    path: str
    architecture: str
    context_train: int
    context_at: Optional[int]
    tokens: List[str]
    has_chat_template: bool
    tokenizer: str
    is_full_attention: bool

    @property
    def name(self) -> str:
        return os.path.splitext(os.path.basename(self.path))[0]


def _scalar(file: BinaryIO, form: str) -> Any:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(file, _SCALARS[kind])
    element, count = _scalar(file, "I"), _scalar(file, "Q")
    if element in _SCALARS:
        form = f"<{count}{_SCALARS[element]}"
        return struct.unpack(form, file.read(struct.calcsize(form)))
    return [_value(file, element) for _ in range(count)]


# Keys of memories that cannot be cut at any token: a sliding window, a recurrent state, a short convolution.
_NOT_FULL = ("attention.sliding_window", "ssm.state_size", "ssm.conv_kernel", "shortconv.l_cache", "wkv.head_size")


def read(path: str) -> Facts:
    fields: Dict[str, Any] = {}
    places: Dict[str, int] = {}
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise SystemExit(f"{path} is not a GGUF file")
        _scalar(file, "I")  # version
        _scalar(file, "Q")  # tensors
        for _ in range(_scalar(file, "Q")):
            key, kind = _string(file), _scalar(file, "I")
            if kind == _UINT32:
                places[key] = file.tell()
            fields[key] = _value(file, kind)
    architecture = fields.get("general.architecture", "")
    context = f"{architecture}.context_length"

    def is_used(suffix: str) -> bool:
        value = fields.get(f"{architecture}.{suffix}", 0)
        return any(value) if isinstance(value, (list, tuple)) else bool(value)

    return Facts(
        path=os.path.abspath(path),
        architecture=architecture,
        context_train=int(fields.get(context, 0)),
        context_at=places.get(context),
        tokens=list(fields.get("tokenizer.ggml.tokens", [])),
        has_chat_template="tokenizer.chat_template" in fields,
        tokenizer=fields.get("tokenizer.ggml.model", ""),
        is_full_attention=not any(map(is_used, _NOT_FULL)),
    )


def stretched(facts: Facts, context: int, folder: str) -> Facts:
    """The model, or a copy of it in `folder` that says that it was trained for `context` tokens.

    Servers cap a conversation at the trained context, and models made for tests are trained for very little. Text of such a copy
    means nothing; token counts do.
    """
    if facts.context_train >= context or facts.context_at is None:
        return facts
    os.makedirs(folder, exist_ok=True)
    copy = os.path.join(folder, os.path.basename(facts.path))
    shutil.copyfile(facts.path, copy)
    with open(copy, "r+b") as file:
        file.seek(facts.context_at)
        file.write(struct.pack("<I", context))
    return read(copy)
