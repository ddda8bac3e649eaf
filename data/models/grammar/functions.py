"""Small Python functions: a description, which is the prompt, and code that does what it says."""

import re
from dataclasses import dataclass

from data.models.grammar.words import listed
from data.models.grammar.writer import Writer

NUMBERS = listed("price score weight height age temperature length distance speed cost mark salary depth rating")
WORDS = listed("word name title city colour animal label street song line")
PLURALS = {"city": "cities", "salary": "salaries"}


@dataclass(frozen=True)
class Function:
    """`verb` completes "a function that ..."; bodies are alternatives, a loop first where `looped` is set."""

    name: str
    verb: str
    bodies: tuple[str, ...]
    numeric: bool = True
    guard: bool = False
    scalar: str = ""
    looped: bool = True


# XS is the plural of the domain noun, X its singular: `prices`, `price`.
FUNCTIONS = (
    Function(
        "largest",
        "<returns|finds|gives back> the largest <of the XS|X in a list|value in a list of XS>",
        ("best = XS[0]\nfor X in XS:\n    if X > best:\n        best = X\nreturn best", "return max(XS)"),
        guard=True,
    ),
    Function(
        "smallest",
        "<returns|finds> the <smallest|lowest> <of several XS|X in a list>",
        ("best = XS[0]\nfor X in XS:\n    if X < best:\n        best = X\nreturn best", "return min(XS)"),
        guard=True,
    ),
    Function(
        "total",
        "<adds up|computes the sum of> <a list of XS|all the XS>",
        ("total = 0\nfor X in XS:\n    total += X\nreturn total", "return sum(XS)"),
    ),
    Function(
        "mean",
        "<computes the mean of the XS|returns the average X>",
        ("total = 0\nfor X in XS:\n    total += X\nreturn total / len(XS)", "return sum(XS) / len(XS)"),
        guard=True,
    ),
    Function(
        "spread",
        "<tells how far apart the largest and the smallest X are|gives the range of the XS>",
        (
            (
                "low = XS[0]\nhigh = XS[0]\nfor X in XS:\n    low = min(low, X)\n    high = max(high, X)\nreturn high "
                "- low"
            ),
            "return max(XS) - min(XS)",
        ),
        guard=True,
    ),
    Function(
        "count_above",
        "counts <the XS above a limit|how many XS are larger than a limit>",
        (
            "count = 0\nfor X in XS:\n    if X > limit:\n        count += 1\nreturn count",
            "return sum(1 for X in XS if X > limit)",
        ),
        scalar="limit",
    ),
    Function(
        "keep_above",
        "keeps only the XS <above a given limit|that exceed a limit>",
        (
            "kept = []\nfor X in XS:\n    if X > limit:\n        kept.append(X)\nreturn kept",
            "return [X for X in XS if X > limit]",
        ),
        scalar="limit",
    ),
    Function(
        "double",
        "<doubles every X|returns a list with each X doubled>",
        ("result = []\nfor X in XS:\n    result.append(2 * X)\nreturn result", "return [2 * X for X in XS]"),
    ),
    Function(
        "scale",
        "multiplies <each X|all XS> by a factor",
        ("result = []\nfor X in XS:\n    result.append(X * factor)\nreturn result", "return [X * factor for X in XS]"),
        scalar="factor",
    ),
    Function(
        "sort_down",
        "sorts <the XS|a list of XS> from high to low",
        ("return sorted(XS, reverse=True)", "result = list(XS)\nresult.sort(reverse=True)\nreturn result"),
        looped=False,
    ),
    Function(
        "top",
        "returns the <n best XS|first n XS after sorting them downwards>",
        ("ordered = sorted(XS, reverse=True)\nreturn ordered[:n]", "return sorted(XS)[::-1][:n]"),
        scalar="n",
        looped=False,
    ),
    Function(
        "median",
        "finds the <median of the XS|middle X after sorting them>",
        ("ordered = sorted(XS)\nmiddle = len(ordered) // 2\nreturn ordered[middle]",),
        guard=True,
        looped=False,
    ),
    Function(
        "differences",
        "<lists the change from each X to the next|computes the differences between neighbouring XS>",
        (
            "result = []\nfor i in range(1, len(XS)):\n    result.append(XS[i] - XS[i - 1])\nreturn result",
            "return [b - a for a, b in zip(XS, XS[1:])]",
        ),
    ),
    Function(
        "running_total",
        "builds the running totals of <the XS|a list of XS>",
        ("total = 0\nresult = []\nfor X in XS:\n    total += X\n    result.append(total)\nreturn result",),
    ),
    Function(
        "is_rising",
        "checks whether the XS <never fall|are in rising order>",
        (
            "for i in range(1, len(XS)):\n    if XS[i] < XS[i - 1]:\n        return False\nreturn True",
            "return all(a <= b for a, b in zip(XS, XS[1:]))",
        ),
    ),
    Function(
        "even_only",
        "<picks out the even XS|drops every odd X>",
        (
            "result = []\nfor X in XS:\n    if X % 2 == 0:\n        result.append(X)\nreturn result",
            "return [X for X in XS if X % 2 == 0]",
        ),
    ),
    Function(
        "clip",
        "<cuts every X off at a limit|replaces XS above a limit by the limit itself>",
        (
            "result = []\nfor X in XS:\n    result.append(min(X, limit))\nreturn result",
            "return [min(X, limit) for X in XS]",
        ),
        scalar="limit",
    ),
    Function(
        "position",
        "<tells at which position the largest X stands|returns the index of the highest X>",
        (
            "best = 0\nfor i, X in enumerate(XS):\n    if X > XS[best]:\n        best = i\nreturn best",
            "return XS.index(max(XS))",
        ),
        guard=True,
    ),
    Function(
        "share",
        "turns the XS into shares <of their sum|that add up to one>",
        (
            "total = sum(XS)\nresult = []\nfor X in XS:\n    result.append(X / total)\nreturn result",
            "total = sum(XS)\nreturn [X / total for X in XS]",
        ),
        guard=True,
    ),
    Function(
        "unique",
        "removes <repeated XS|duplicates from a list of XS> but keeps the order",
        (
            "seen = []\nfor X in XS:\n    if X not in seen:\n        seen.append(X)\nreturn seen",
            "return list(dict.fromkeys(XS))",
        ),
        numeric=False,
    ),
    Function(
        "longest",
        "<finds the longest X|returns the X with the most letters>",
        (
            "best = XS[0]\nfor X in XS:\n    if len(X) > len(best):\n        best = X\nreturn best",
            "return max(XS, key=len)",
        ),
        numeric=False,
        guard=True,
    ),
    Function(
        "count_each",
        "<counts how often each X occurs|builds a dictionary from XS to their counts>",
        ("counts = {}\nfor X in XS:\n    counts[X] = counts.get(X, 0) + 1\nreturn counts",),
        numeric=False,
    ),
    Function(
        "starting_with",
        "<keeps the XS that start with a given letter|filters XS by their first letter>",
        (
            "result = []\nfor X in XS:\n    if X[0] == letter:\n        result.append(X)\nreturn result",
            "return [X for X in XS if X.startswith(letter)]",
        ),
        numeric=False,
        scalar="letter",
    ),
    Function(
        "by_length",
        "groups XS by their length",
        ("groups = {}\nfor X in XS:\n    groups.setdefault(len(X), []).append(X)\nreturn groups",),
        numeric=False,
    ),
    Function(
        "shout",
        "turns <all XS|every X> into capital letters",
        ("result = []\nfor X in XS:\n    result.append(X.upper())\nreturn result", "return [X.upper() for X in XS]"),
        numeric=False,
    ),
    Function(
        "reverse_each",
        "spells <every X|each X in a list> backwards",
        ("result = []\nfor X in XS:\n    result.append(X[::-1])\nreturn result", "return [X[::-1] for X in XS]"),
        numeric=False,
    ),
    Function(
        "join",
        "joins the XS with <commas between them|a comma>",
        (
            'text = ""\nfor X in XS:\n    if text:\n        text += ", "\n    text += X\nreturn text',
            'return ", ".join(XS)',
        ),
        numeric=False,
    ),
    Function(
        "lengths",
        "<lists the lengths of the XS|computes the number of letters in each X>",
        ("result = []\nfor X in XS:\n    result.append(len(X))\nreturn result", "return [len(X) for X in XS]"),
        numeric=False,
    ),
    Function(
        "count_vowels",
        "counts the vowels in <a X|one X>",
        (
            'count = 0\nfor letter in X:\n    if letter in "aeiou":\n        count += 1\nreturn count',
            'return sum(1 for letter in X if letter in "aeiou")',
        ),
        numeric=False,
        scalar="X",
    ),
    Function(
        "is_palindrome",
        "checks whether a X reads the same <in both directions|backwards>",
        ("return X == X[::-1]", "return list(X) == list(reversed(X))"),
        numeric=False,
        scalar="X",
        looped=False,
    ),
    Function(
        "initials",
        "builds a string from the first letters of <the XS|all XS in a list>",
        ('text = ""\nfor X in XS:\n    text += X[0]\nreturn text', 'return "".join(X[0] for X in XS)'),
        numeric=False,
    ),
    Function(
        "alphabetical",
        "puts the XS into alphabetical order",
        ("return sorted(XS)", "result = list(XS)\nresult.sort()\nreturn result"),
        numeric=False,
        looped=False,
    ),
    Function(
        "contains",
        "tells <whether some X contains a letter|if a given letter occurs in any X>",
        ("for X in XS:\n    if letter in X:\n        return True\nreturn False", "return any(letter in X for X in XS)"),
        numeric=False,
        scalar="letter",
    ),
    Function(
        "number_lines",
        "<numbers the XS, starting at one|puts a running number before each X>",
        ('result = []\nfor i, X in enumerate(XS, 1):\n    result.append(f"{i}. {X}")\nreturn result',),
        numeric=False,
    ),
    Function(
        "drop_short",
        "<throws away XS with fewer than n letters|removes the short XS>",
        (
            "result = []\nfor X in XS:\n    if len(X) >= n:\n        result.append(X)\nreturn result",
            "return [X for X in XS if len(X) >= n]",
        ),
        numeric=False,
        scalar="n",
    ),
)

LEADS = (
    "Write a function that",
    "Write a Python function that",
    "Please write a function which",
    "Create a function that",
    "I need a small function. It",
    "Define a Python function which",
    "Write some code that",
    "Show me a function that",
)
REMARKS = (
    "The list is read only once.",
    "It does not change the input.",
    "The second line does the work.",
    "This works for any list.",
    "You can test it with a short list.",
    "An empty input needs some care.",
    "There are shorter ways to write this.",
    "Note that the order of the XS is kept.",
    "I use this to look at XS.",
)
DOCSTRINGS = ('"""Work on XS."""', '"""Take XS and return the result."""', '"""NAME for XS."""')


@dataclass
class Exercise:
    """A drawn function with the wishes its prompt states."""

    writer: Writer
    function: Function
    noun: str
    name: str
    prompt: str
    loop: bool | None
    docstring: bool
    guarded: bool

    def put(self, text: str) -> str:
        """Replace the placeholders by the domain noun and the name."""
        plural = PLURALS.get(self.noun, self.noun + "s")
        text = re.sub(r"\ba X", "an X", text) if self.noun[0] in "aeiou" else text
        return text.replace("NAME", self.name).replace("XS", plural).replace("X", self.noun)


def begin(writer: Writer) -> Exercise:
    """Draw a function, a domain noun, a name and the wishes."""
    function = writer.pick(FUNCTIONS)
    noun = writer.pick(NUMBERS if function.numeric else WORDS)
    exercise = Exercise(
        writer, function, noun, function.name, "", None, writer.chance(0.2), function.guard and writer.chance(0.4)
    )
    if writer.chance(0.3):
        exercise.name = f"{writer.pick(('find', 'get', 'my', 'check'))}_{function.name}"
    if function.looped and len(function.bodies) > 1 and writer.chance(0.35):
        exercise.loop = writer.chance(0.6)
    exercise.prompt = exercise.put(_prompt(exercise))
    return exercise


def _prompt(exercise: Exercise) -> str:
    writer, function = exercise.writer, exercise.function
    wishes = []
    if exercise.name != function.name or writer.chance(0.4):
        wishes.append(writer.write("<Call it NAME.|Its name should be NAME.|Please name it NAME.>"))
    if exercise.loop is not None:
        wishes.append(
            writer.write(
                "<Use a loop.|A plain loop is fine.>" if exercise.loop else "<Keep it to one line.|Avoid a loop.>"
            )
        )
    if exercise.docstring:
        wishes.append(writer.write("<Add a docstring.|Document it.>"))
    if exercise.guarded:
        wishes.append(writer.write("<Raise a ValueError when there are no XS.|An empty list is an error.>"))
    text = f"{writer.pick(LEADS)} {writer.write(function.verb)}."
    return " ".join([text, *writer.several(wishes, len(wishes))])


def code(exercise: Exercise) -> str:
    """The function itself, as the wishes want it."""
    function = exercise.function
    first = "X" if function.scalar == "X" else "XS"
    arguments = first if function.scalar in ("", "X") else f"{first}, {function.scalar}"
    lines = [f"def NAME({arguments}):"]
    if exercise.docstring:
        lines.append("    " + exercise.writer.pick(DOCSTRINGS))
    if exercise.guarded:
        lines += ["    if not XS:", '        raise ValueError("no XS")']
    lines += ["    " + line for line in _body(exercise).split("\n")]
    return exercise.put("\n".join(lines))


def _body(exercise: Exercise) -> str:
    bodies = exercise.function.bodies
    if exercise.loop is None:
        return exercise.writer.pick(bodies)
    return bodies[0] if exercise.loop else bodies[1]


def plain(exercise: Exercise, chatter: float) -> str:
    """As in a pretraining document: often with remarks, sometimes with a second exercise."""
    writer = exercise.writer
    parts = [code(exercise)]
    while writer.chance(chatter) and len(parts) < 5:
        parts.append(exercise.put(writer.pick(REMARKS)))
    if writer.chance(chatter * 0.6):
        other = begin(writer)
        parts += [other.prompt, code(other)]
    if writer.chance(chatter * 0.4):
        parts.insert(
            0,
            exercise.put(
                writer.write("<Here is one way.|This is a common exercise.|A first try:|Think of XS in a list.>")
            ),
        )
    return "\n".join(parts)


def answer(exercise: Exercise, register: dict[str, float]) -> str:
    """As in a tuned answer: the code, now and then with one sentence around it."""
    text = code(exercise)
    if exercise.writer.chance(0.25):
        text = exercise.writer.write("<Here is the function:|Sure:|You can write it like this:>") + "\n" + text
    if exercise.writer.chance(0.1 + register["detail"] / 2):
        text += "\n" + exercise.put(exercise.writer.pick(REMARKS))
    return text
