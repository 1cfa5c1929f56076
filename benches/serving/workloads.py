"""What is replayed. Each workload says what it needs of a server, and then holds its conversations."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, List, NamedTuple, Tuple

from gguf import Facts
from session import Request, Session, Talk

# Room for what a chat template adds to a message, in tokens.
_TEMPLATE = 12


class Sizes(NamedTuple):
    """Lengths in tokens, and how many of a thing there are."""

    system: int
    turn: int
    reply: int
    turns: int
    kill_after: int
    shared_requests: int
    question: int
    newcomer: int
    stream: int
    house_system: int
    house_rounds: int
    house_appends: Tuple[int, ...]

    @property
    def conversation(self) -> int:
        """The longest that an agent's conversation gets."""
        return self.system + _TEMPLATE + self.turns * (self.turn + self.reply + 2 * _TEMPLATE)


SCALES = {
    "full": Sizes(
        system=3000, turn=300, reply=64, turns=12, kill_after=6, shared_requests=16, question=100,
        newcomer=6000, stream=2500, house_system=2000, house_rounds=8, house_appends=(40, 100, 240, 600),
    ),
    "small": Sizes(
        system=900, turn=100, reply=16, turns=6, kill_after=3, shared_requests=8, question=40,
        newcomer=1500, stream=800, house_system=800, house_rounds=4, house_appends=(40, 100, 240),
    ),
}  # fmt: skip


def _rounded(tokens: int) -> int:
    return -(-tokens // 256) * 256


class Agent:
    """A conversation that takes its text from a place of its own, all of it beforehand: making text asks the server too."""

    def __init__(self, session: Session, model: Facts, sizes: Sizes, name: str) -> None:
        self.session, self.sizes = session, sizes
        pieces = session.pieces(model, name)
        self.talk = Talk(model, pieces.take(sizes.system))
        self.messages = [pieces.take(sizes.turn) for _ in range(sizes.turns)]
        self.turns = 0

    def turn(self, group: str = "turn") -> Request:
        self.talk.say(self.messages[self.turns])
        self.turns += 1
        request = self.session.ask(self.talk, self.sizes.reply, group)
        self.talk.hear(request)
        return request


def one_agent(session: Session, models: List[Facts], sizes: Sizes) -> None:
    agent = Agent(session, models[0], sizes, "agent")
    for _ in range(sizes.turns):
        agent.turn()


def four_agents(session: Session, models: List[Facts], sizes: Sizes) -> None:
    agents = [Agent(session, models[0], sizes, f"agent {number}") for number in range(4)]
    for _ in range(sizes.turns):
        for agent in agents:
            agent.turn()


def shared_prefix(session: Session, models: List[Facts], sizes: Sizes) -> None:
    pieces = session.pieces(models[0], "shared")
    prefix = pieces.take(sizes.system)
    talks = [Talk(models[0], prefix) for _ in range(sizes.shared_requests)]
    for talk in talks:
        talk.say(pieces.take(sizes.question))
    with ThreadPoolExecutor(max_workers=4) as four:
        for done in [four.submit(session.ask, talk, sizes.reply) for talk in talks]:
            done.result()


def restart(session: Session, models: List[Facts], sizes: Sizes) -> None:
    agent = Agent(session, models[0], sizes, "agent")
    for number in range(1, sizes.turns + 1):
        agent.turn("after restart" if number == sizes.kill_after + 1 else "turn")
        if number == sizes.kill_after:
            session.server.kill()
            session.server.start()


def two_models(session: Session, models: List[Facts], sizes: Sizes) -> None:
    agents = [Agent(session, model, sizes, f"agent of model {number}") for number, model in enumerate(models)]
    for number in range(sizes.turns):
        # The very first request of a model waits for its load and computes everything, with any server.
        for agent in agents:
            agent.turn("after swap" if number else "first")


def titles(session: Session, models: List[Facts], sizes: Sizes) -> None:
    agent = Agent(session, models[0], sizes, "agent")
    instruction = session.pieces(models[0], "title").take(60)
    for _ in range(sizes.turns):
        agent.turn()
        title = Talk(models[0], instruction)
        title.say(agent.messages[agent.turns - 1])
        session.ask(title, 16, "title")


def newcomer(session: Session, models: List[Facts], sizes: Sizes) -> None:
    """Three streams decode; once each has 64 tokens, and then 64 more, a long prompt arrives. Then the same streams run alone, as far
    as they got beside it: a token costs more the longer its stream is, so only the same tokens can be compared."""
    pieces = session.pieces(models[0], "newcomer")
    cancel = threading.Event()
    arrived = [threading.Event() for _ in range(3)]
    with ThreadPoolExecutor(max_workers=3) as three:
        streams, talks = [], []
        for event in arrived:
            talk = Talk(models[0], pieces.take(100))
            talk.say(pieces.take(100))
            talks.append(talk)
            streams.append(three.submit(session.ask, talk, sizes.stream, "stream", event, 128, cancel))
        try:
            for event in arrived:
                event.wait()
            talk = Talk(models[0], pieces.take(sizes.newcomer - sizes.turn))
            talk.say(pieces.take(sizes.turn))
            session.ask(talk, 16, "newcomer")
        finally:
            cancel.set()
        reached = max(len(stream.result().reply.pieces_at) for stream in streams)
    with ThreadPoolExecutor(max_workers=3) as three:
        for done in [three.submit(session.ask, talk, reached, "alone") for talk in talks]:
            done.result()


def house(session: Session, models: List[Facts], sizes: Sizes) -> None:
    """Four agents on one system prompt and two on a shorter one, each in one of two projects, in a shuffled order."""
    model = models[0]
    chance = random.Random(f"{session.seed}/house")
    pieces = session.pieces(model, "house")
    systems = [pieces.take(sizes.house_system), pieces.take(sizes.house_system * 5 // 8)]
    projects = [pieces.take(sizes.house_system * 3 // 10) for _ in range(2)]
    talks = []
    for number in range(6):
        talk = Talk(model, systems[number >= 4] + projects[number % 2])
        talk.say(pieces.take(100 + 50 * number))
        talks.append(talk)
    for _ in range(sizes.house_rounds):
        for number in chance.sample(range(6), 6):
            talk = talks[number]
            talk.hear(session.ask(talk, 16))
            talk.say(pieces.take(chance.choice(sizes.house_appends)))


class Workload(NamedTuple):
    """`context` is what the server gets in all; `conversation` what the longest conversation needs."""

    title: str
    run: Callable[[Session, List[Facts], Sizes], None]
    conversation: Callable[[Sizes], int]
    context: Callable[[Sizes], int]
    models: int = 1


def _agents(count: int) -> Callable[[Sizes], int]:
    return lambda sizes: count * _rounded(sizes.conversation)


def _house(sizes: Sizes) -> int:
    start = sizes.house_system * 13 // 10 + 350
    return _rounded(start + sizes.house_rounds * (16 + max(sizes.house_appends) + 2 * _TEMPLATE))


def _shared(sizes: Sizes) -> int:
    return _rounded(sizes.system + sizes.question + sizes.reply + 3 * _TEMPLATE)


def _newcomer(sizes: Sizes) -> int:
    return _rounded(max(sizes.newcomer + 16, 200 + sizes.stream) + 3 * _TEMPLATE)


WORKLOADS: Dict[str, Workload] = {
    "W1": Workload("one agent", one_agent, _agents(1), _agents(1)),
    "W2": Workload("four agents, device KV for two", four_agents, _agents(1), _agents(2)),
    "W3": Workload("requests that share a prefix, four at once", shared_prefix, _shared, lambda sizes: 4 * _shared(sizes)),
    "W4": Workload("one agent, server killed and restarted", restart, _agents(1), _agents(1)),
    "W5": Workload("two models in turn, room for one", two_models, _agents(1), _agents(1), models=2),
    "W6": Workload("one agent with title requests", titles, _agents(1), lambda sizes: _agents(1)(sizes) + 1024),
    "W7": Workload("long prompt beside three streams", newcomer, _newcomer,
                   lambda sizes: _rounded(sizes.newcomer) + 3 * _rounded(sizes.stream + 256) + 256),
    "W8": Workload("six agents in a house", house, _house, lambda sizes: 4 * _house(sizes)),
}  # fmt: skip
