"""Small word problems and their worked answers, in which the arithmetic is right."""

from collections.abc import Callable
from dataclasses import dataclass

from data.models.grammar.writer import Writer

Step = tuple[int, str, int]


@dataclass(frozen=True)
class Kind:
    """A problem text and the steps that solve it: `(left, sign, right)`, left None standing for the result so far."""

    text: str
    unit: str
    steps: Callable[[int, int, int], tuple[tuple[int | None, str, int], ...]]
    large: bool = False


# {p}, {q}, {r} are numbers; q and r stay below p where something is taken away.
KINDS = (
    Kind(
        (
            "{name} picks {p} {food} {when} and {q} more <after a rest|with {her} {relative}>. How many {food} "
            "does {she} have <now|in the end>?"
        ),
        "{food}",
        lambda p, q, r: ((p, "+", q),),
    ),
    Kind(
        "A {job} has {p} {object}s and sells {q} of them at {place}. How many {object}s are left?",
        "{object}s",
        lambda p, q, r: ((p, "-", q),),
    ),
    Kind(
        "There are {p} {animal}s near {place}. {q} run away, and then {r} come back. How many {animal}s are there now?",
        "{animal}s",
        lambda p, q, r: ((p, "-", q), (None, "+", r)),
    ),
    Kind(
        "{name} fills {q} boxes with {r} {food} each. How many {food} is that <in all|altogether>?",
        "{food}",
        lambda p, q, r: ((q, "*", r),),
    ),
    Kind(
        (
            "{a object} costs {q} coins and {a object2} costs {r} coins. What does {name} pay for both <{when}|at "
            "{place}>?"
        ),
        "coins",
        lambda p, q, r: ((q, "+", r),),
    ),
    Kind(
        "{name} buys {q} {object}s for {r} coins each and pays with {p2} coins. How much change does {she} get?",
        "coins",
        lambda p, q, r: ((q, "*", r), (q * r + p, "-", q * r)),
    ),
    Kind(
        "{Her} {relative} gives {name} {q} coins every day for {r} days. How many coins does {name} get?",
        "coins",
        lambda p, q, r: ((q, "*", r),),
    ),
    Kind(
        (
            "{name} reads {q} pages of a book about {animal}s each evening. How many pages are that in {r} "
            "evenings, if {she} already read {p} pages before?"
        ),
        "pages",
        lambda p, q, r: ((q, "*", r), (None, "+", p)),
    ),
    Kind(
        (
            "A train to {place} carries {p} people. At the first stop {q} leave and at the second {r} get on. How "
            "many people are in the train?"
        ),
        "people",
        lambda p, q, r: ((p, "-", q), (None, "+", r)),
    ),
    Kind(
        "{name} shares {m} {food} fairly among {q} friends {when}. How many {food} does each friend get?",
        "{food}",
        lambda p, q, r: ((q * r, "/", q),),
    ),
    Kind(
        "{name} is {p} years old. {Her} {relative} is {q} years older than that. How old is {her} {relative}?",
        "years",
        lambda p, q, r: ((p, "+", q),),
    ),
    Kind(
        (
            "A {job} works {q} hours <on Monday and {r} hours on Tuesday|before noon and {r} hours after noon>, "
            "and earns 2 coins an hour. What does the {job} earn?"
        ),
        "coins",
        lambda p, q, r: ((q, "+", r), (None, "*", 2)),
    ),
    Kind(
        "{name} had {p} {food}. {She} gave {q} to {name2} and ate {r2}. How many {food} did {she} keep?",
        "{food}",
        lambda p, q, r: ((p, "-", q), (None, "-", min(2, p - q))),
    ),
    Kind(
        (
            "In {place} stand {q} shelves with {r} {object}s each, and {p} {object}s lie on the floor. How many "
            "{object}s can you count?"
        ),
        "{object}s",
        lambda p, q, r: ((q, "*", r), (None, "+", p)),
    ),
    Kind(
        "{name} walks {q} miles to {place} and the same way back. How far does {she} walk in {r} days?",
        "miles",
        lambda p, q, r: ((q, "*", 2), (None, "*", r)),
    ),
    Kind(
        "A {adj} jar holds {p} cups of milk. The {animal} drinks {q} cups. How much milk stays in the jar?",
        "cups",
        lambda p, q, r: ((p, "-", q),),
    ),
    Kind(
        "{name} needs {p} coins for {a object} and has {q} coins. How many coins are missing?",
        "coins",
        lambda p, q, r: ((p, "-", q),),
    ),
    Kind(
        "For {dish}, {a job} uses {q} {food} and twice as many {food2}. How many {food2} does the recipe need?",
        "{food2}",
        lambda p, q, r: ((q, "*", 2),),
    ),
    Kind(
        "{name} cuts {a adj} rope of {m} feet into {q} equal pieces. How long is one piece?",
        "feet",
        lambda p, q, r: ((q * r, "/", q),),
    ),
    Kind(
        (
            "On a farm live {q} {animal}s and {r} {animal2}s. Each of them eats 2 {food} a day. How many {food} "
            "does the farmer need for one day?"
        ),
        "{food}",
        lambda p, q, r: ((q, "+", r), (None, "*", 2)),
    ),
)
SIGNS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}
WORDED = {"+": "add", "-": "take away", "*": "multiply by", "/": "divide by"}


@dataclass
class Problem:
    """A drawn problem with its solved steps."""

    writer: Writer
    prompt: str
    unit: str
    steps: list[tuple[Step, int]]

    @property
    def result(self) -> int:
        """The answer."""
        return self.steps[-1][1]


def begin(writer: Writer) -> Problem:
    """Draw a kind and its numbers; everything stays small enough to be learnt by heart."""
    kind = writer.pick(KINDS)
    p, q, r = int(writer.rng.integers(11, 31)), int(writer.rng.integers(2, 10)), int(writer.rng.integers(2, 10))
    writer.settle("name")
    numbers = {"p": p, "q": q, "r": r, "m": q * r, "p2": q * r + p, "r2": min(2, p - q)}
    writer.facts.update({key: str(value) for key, value in numbers.items()})
    prompt = writer.write(kind.text)
    problem = Problem(writer, prompt[0].upper() + prompt[1:], writer.write(kind.unit), [])
    for left, sign, right in kind.steps(p, q, r):
        start = problem.result if left is None else left
        problem.steps.append(((start, sign, right), SIGNS[sign](start, right)))
    return problem


def working(problem: Problem, wordy: bool) -> str:
    """The steps as equations, in a wordy register with what is done in words."""
    parts = []
    for (left, sign, right), result in problem.steps:
        equation = f"{left} {sign} {right} = {result}"
        parts.append(
            f"From {left} we {WORDED[sign]} {right}, so {equation}." if wordy and sign in "+-" else f"{equation}."
        )
    return " ".join(parts)


def solution(problem: Problem, wordy: bool) -> str:
    """Working and a closing sentence that names the unit."""
    close = problem.writer.write(
        "<The answer is {result} {unit}.|So it is {result} {unit}.|That makes {result} {unit}.>".replace(
            "{result}", str(problem.result)
        ).replace("{unit}", problem.unit)
    )
    return f"{working(problem, wordy)} {close}"


def plain(problem: Problem, chatter: float) -> str:
    """As in a pretraining document: hints before, a check or further problems after."""
    writer = problem.writer
    parts = [solution(problem, writer.chance(chatter))]
    if writer.chance(chatter * 0.5):
        parts.insert(
            0, writer.write("<Let us see.|Read the question twice.|This one is easy.|Write the numbers down first.>")
        )
    if writer.chance(chatter * 0.4):
        parts.append(
            writer.write(
                "<Check it with your fingers.|Draw a picture if you like.|{name} [be] right.|Now try the next one.>"
            )
        )
    while writer.chance(chatter) and len(parts) < 6:
        other = begin(Writer(writer.rng, writer.past))
        parts += [other.prompt, solution(other, writer.chance(chatter))]
    return " ".join(parts)


def answer(problem: Problem, register: dict[str, float]) -> str:
    """As in a tuned answer."""
    text = solution(problem, problem.writer.chance(register["detail"]))
    if problem.writer.chance(register["speech"]):
        text = problem.writer.write("<Let us count.|Step by step:|Good question.> ") + text
    return text
