"""Training texts of the families: pretraining documents and prompt-answer pairs, from a generator that is passed in."""

from collections.abc import Iterator
from dataclasses import dataclass

from numpy.random import Generator

from data.models.grammar import functions, scenes, sums, tales
from data.models.grammar.writer import Writer

TASKS = ("completion", "coding", "math", "stories")
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a friendly writer.",
    "Answer in a few sentences.",
    "Keep your answers short.",
)


@dataclass(frozen=True)
class Style:
    """How a family writes.

    Shares of the tasks, kinds of sentences in scenes, share of texts in the past tense, talk around code and sums,
    and the share of documents that go on with another text.
    """

    mix: tuple[float, float, float, float]
    register: dict[str, float]
    past: float
    chatter: float
    series: float


STYLES = {
    # plain and factual; much code
    "alder": Style(
        (0.30, 0.30, 0.20, 0.20),
        {"event": 0.70, "detail": 0.10, "speech": 0.05, "feeling": 0.15},
        past=0.2,
        chatter=0.35,
        series=0.10,
    ),
    # descriptive, in the past tense; many stories
    "birch": Style(
        (0.35, 0.15, 0.15, 0.35),
        {"event": 0.45, "detail": 0.40, "speech": 0.05, "feeling": 0.10},
        past=0.7,
        chatter=0.50,
        series=0.20,
    ),
    # lively, full of direct speech; many sums
    "cedar": Style(
        (0.30, 0.20, 0.25, 0.25),
        {"event": 0.45, "detail": 0.10, "speech": 0.35, "feeling": 0.10},
        past=0.4,
        chatter=0.60,
        series=0.15,
    ),
}


def pair(rng: Generator, style: Style, task: str) -> tuple[str, str]:
    """A prompt and a tuned answer to it."""
    writer = Writer(rng, past=bool(rng.random() < style.past))
    if task == "completion":
        scene = scenes.begin(writer)
        return scene.prompt, scenes.answer(scene, style.register)
    if task == "coding":
        exercise = functions.begin(writer)
        return exercise.prompt, functions.answer(exercise, style.register)
    if task == "math":
        problem = sums.begin(writer)
        return problem.prompt, sums.answer(problem, style.register)
    tale = tales.begin(writer)
    return tale.prompt, tales.answer(tale, style.register)


def document(rng: Generator, style: Style, task: str) -> str:
    """A plain document: a prompt-like beginning and a looser, longer continuation than a tuned answer."""
    writer = Writer(rng, past=bool(rng.random() < style.past))
    if task == "completion":
        scene = scenes.begin(writer)
        return f"{scene.prompt} {scenes.plain(scene, style.register)}"
    if task == "coding":
        exercise = functions.begin(writer)
        return f"{exercise.prompt}\n{functions.plain(exercise, style.chatter)}"
    if task == "math":
        problem = sums.begin(writer)
        return f"{problem.prompt} {sums.plain(problem, style.chatter)}"
    tale = tales.begin(writer)
    return f"{tale.prompt} {tales.plain(tale, style.register)}"


def documents(rng: Generator, style: Style) -> Iterator[str]:
    """Plain documents without end, tasks in the family's mix; some go on with another text of the same task."""
    while True:
        task = TASKS[int(rng.choice(4, p=style.mix))]
        text = document(rng, style, task)
        while rng.random() < style.series:
            text += "\n\n" + document(rng, style, task)
        yield text


def pairs(rng: Generator, style: Style) -> Iterator[tuple[str, str, str | None]]:
    """Prompt, answer and now and then a system line, without end; all tasks alike."""
    while True:
        prompt, answer = pair(rng, style, TASKS[int(rng.integers(4))])
        yield prompt, answer, SYSTEMS[int(rng.integers(len(SYSTEMS)))] if rng.random() < 0.15 else None
