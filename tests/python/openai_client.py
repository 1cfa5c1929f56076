"""Drives a running server with OpenAI's own package: chat, stream, usage, log probabilities, errors.

    ALUCO_URL=http://127.0.0.1:13313 ALUCO_MODEL=smollm2:135m python3 tests/python/openai_client.py
"""

import asyncio
import os

import openai

URL = os.environ["ALUCO_URL"] + "/v1"
MODEL = os.environ["ALUCO_MODEL"]
QUESTION = [{"role": "user", "content": "What is gravity?"}]

client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=120)


def chat_in_one_piece():
    reply = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=16)
    assert reply.object == "chat.completion"
    assert reply.choices[0].message.role == "assistant"
    assert "ravity" in reply.choices[0].message.content, reply
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 16
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 16
    assert reply.usage.prompt_tokens_details.cached_tokens >= 0
    return reply.choices[0].message.content


def chat_streamed(whole):
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole, (text, whole)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 16
    assert all(chunk.usage is None for chunk in chunks[:-1])


def chat_resumed(whole):
    """A client of this package reads a part; what it missed is fetched by the stream's id, in the same form."""
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=16, stream=True, extra_headers={"x-aluco-resumable": "true"}
    )
    text = "".join(next(stream).choices[0].delta.content or "" for _ in range(4))
    identity = stream.response.headers["x-aluco-stream-id"]
    stream.close()
    path = f"{os.environ['ALUCO_URL']}/aluco/v1/streams/{identity}"
    rest = client.get(path, cast_to=object, options={"headers": {"last-event-id": "4"}}, stream=True, stream_cls=openai.Stream[object])
    text += "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in rest)
    assert text == whole, (text, whole)


def choices_stops_and_seeds():
    arguments = dict(model=MODEL, messages=QUESTION, temperature=1.2, max_tokens=12, n=2, seed=11)
    first, second = (client.chat.completions.create(**arguments) for _ in range(2))
    texts = [[choice.message.content for choice in reply.choices] for reply in (first, second)]
    assert len(texts[0]) == 2 and texts[0] == texts[1], texts
    stopped = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, stop=[" is"])
    assert stopped.choices[0].finish_reason == "stop"
    assert " is" not in stopped.choices[0].message.content


def log_probabilities():
    reply = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    content = reply.choices[0].logprobs.content
    assert len(content) == 4
    assert "".join(token.token for token in content) == reply.choices[0].message.content
    assert all(len(token.top_logprobs) == 3 for token in content)


def plain_completions():
    reply = client.completions.create(model=MODEL, prompt=["Once upon", "In the"], temperature=0, max_tokens=5, echo=True)
    assert reply.choices[0].text.startswith("Once upon")
    assert reply.choices[1].text.startswith("In the")
    streamed = client.completions.create(model=MODEL, prompt="Once upon", temperature=0, max_tokens=5, stream=True)
    text = "".join(chunk.choices[0].text for chunk in streamed)
    assert "Once upon" + text == reply.choices[0].text


def models():
    assert isinstance(client.models.list().data, list)
    assert client.models.retrieve(MODEL).id == MODEL
    fails(openai.NotFoundError, "model_not_found", lambda: client.models.retrieve("no/such-model"))


def fails(kind, code, call):
    try:
        call()
    except kind as error:
        assert error.code == code, error.body
        assert error.request_id, "the id of the request is in the reply"
    else:
        raise AssertionError(f"{code} expected")


def errors():
    create = client.chat.completions.create
    bad = openai.BadRequestError
    fails(openai.NotFoundError, "model_not_found", lambda: create(model="no/such-model", messages=QUESTION))
    fails(bad, "invalid_value", lambda: create(model=MODEL, messages=[]))
    fails(bad, "invalid_value", lambda: create(model=MODEL, messages=QUESTION, temperature=-1))
    fails(bad, "invalid_value", lambda: create(model=MODEL, messages=QUESTION, extra_body={"n": "many"}))
    fails(bad, "unsupported_parameter", lambda: create(model=MODEL, messages=QUESTION, tools=[
        {"type": "function", "function": {"name": "look", "parameters": {}}}
    ]))
    long = [{"role": "user", "content": "word " * 10_000}]
    fails(bad, "context_length_exceeded", lambda: create(model=MODEL, messages=long))
    fails(bad, "context_length_exceeded", lambda: create(model=MODEL, messages=long, stream=True))


async def side_by_side():
    asynchronous = openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0, timeout=120)

    async def one(index):
        stream = await asynchronous.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": f"Say {index}."}], max_tokens=8, stream=True
        )
        return [chunk async for chunk in stream]

    replies = await asyncio.gather(*(one(index) for index in range(6)))
    assert all(reply[-1].choices[0].finish_reason in ("stop", "length") for reply in replies)


def main():
    whole = chat_in_one_piece()
    chat_streamed(whole)
    choices_stops_and_seeds()
    log_probabilities()
    plain_completions()
    chat_resumed(whole)
    models()
    errors()
    asyncio.run(side_by_side())
    assert chat_in_one_piece() == whole, "unharmed by all of that"
    print("all checks passed")


main()
