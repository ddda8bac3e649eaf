"""The corpus generator: the same texts for the same seed, right sums, code that runs, scenes that keep their names."""

from itertools import islice

import numpy as np
import pytest

from data.models import corpus
from data.models.grammar import functions, scenes, sums, tales
from data.models.grammar.writer import Writer, past, plural, present
from data.models.measure import correct


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(corpus.STYLES))
def test_same_seed_same_texts(family: str) -> None:
    style = corpus.STYLES[family]
    one, two, other = ([*islice(corpus.documents(np.random.default_rng(s), style), 60)] for s in (3, 3, 4))
    assert one == two != other
    first, second = ([*islice(corpus.pairs(np.random.default_rng(5), style), 60)] for _ in range(2))
    assert first == second


def test_families_write_differently() -> None:
    draw = {f: (np.random.default_rng(1), s) for f, s in corpus.STYLES.items()}
    texts = {f: " ".join(corpus.document(*args, "completion") for _ in range(200)) for f, args in draw.items()}
    speech = {family: text.count('"') / len(text) for family, text in texts.items()}
    assert speech["cedar"] > 2 * speech["alder"] and speech["cedar"] > 2 * speech["birch"]
    assert texts["birch"].count(" was ") > 2 * texts["alder"].count(" was ")


def test_no_template_marks_are_left() -> None:
    rng = np.random.default_rng(2)
    for task in ("completion", "math", "stories"):
        text = " ".join(corpus.document(rng, corpus.STYLES["cedar"], task) for _ in range(300))
        assert not set(text) & set("{}[]<>|")


def test_arithmetic_is_right() -> None:
    rng = np.random.default_rng(6)
    for _ in range(500):
        problem = sums.begin(Writer(rng))
        solution = sums.solution(problem, wordy=bool(rng.random() < 0.5))
        assert correct(problem.prompt, solution), solution
        assert str(problem.result) in solution.rsplit(".", 2)[-2]
        assert 0 < problem.result < 200


def test_wrong_equation_is_noticed() -> None:
    assert correct("", "4 + 5 = 9. So it is 9 coins.")
    assert not correct("", "4 + 5 = 8. So it is 8 coins.")
    assert not correct("", "So it is 9 coins.")


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("largest", ([3, 8, 5],), 8),
        ("spread", ([3, 8, 5],), 5),
        ("count_above", ([3, 8, 5], 4), 2),
        ("running_total", ([1, 2, 3],), [1, 3, 6]),
        ("differences", ([1, 4, 2],), [3, -2]),
        ("position", ([1, 4, 2],), 1),
        ("is_rising", ([1, 4, 2],), False),
        ("unique", (["b", "a", "b"],), ["b", "a"]),
        ("by_length", (["to", "be", "a"],), {2: ["to", "be"], 1: ["a"]}),
        ("join", (["a", "b"],), "a, b"),
        ("count_vowels", ("stone",), 2),
        ("number_lines", (["a", "b"],), ["1. a", "2. b"]),
    ],
)
def test_functions_do_what_they_say(name: str, arguments: tuple[object, ...], result: object) -> None:
    function = next(f for f in functions.FUNCTIONS if f.name == name)
    for body in function.bodies:
        first = "X" if function.scalar == "X" else "XS"
        head = ", ".join([first] + ([function.scalar] if function.scalar not in ("", "X") else []))
        scope: dict[str, object] = {}
        exec(f"def f({head}):\n    " + body.replace("\n", "\n    "), scope)
        assert scope["f"](*arguments) == result  # type: ignore[operator]


def test_all_written_code_compiles() -> None:
    rng = np.random.default_rng(8)
    for _ in range(300):
        exercise = functions.begin(Writer(rng))
        text = functions.code(exercise)
        compile(text, "answer", "exec")
        assert f"def {exercise.name}(" in text and exercise.noun[:-1] in text


def test_scenes_keep_their_names() -> None:
    rng = np.random.default_rng(9)
    style = corpus.STYLES["alder"]
    kept = 0
    for _ in range(300):
        scene = scenes.begin(Writer(rng))
        name = scene.writer.facts["name"]
        assert name in scene.prompt
        kept += name in scenes.plain(scene, style.register)
    assert kept > 100


def test_tales_take_up_the_prompt() -> None:
    rng = np.random.default_rng(10)
    shared = 0
    for _ in range(200):
        tale = tales.begin(Writer(rng))
        answer = tales.answer(tale, corpus.STYLES["birch"].register)
        facts = {
            tale.writer.facts.get(key, "?") for key in ("hero", "name", "object", "food", "job", "animal", "place")
        }
        shared += any(fact in tale.prompt and fact in answer for fact in facts)
    assert shared > 150


def test_words_are_inflected() -> None:
    assert [present(v) for v in ("carry", "wash", "play", "be", "go")] == ["carries", "washes", "plays", "is", "goes"]
    assert [past(v) for v in ("carry", "hum", "bake", "run", "play")] == ["carried", "hummed", "baked", "ran", "played"]
    assert [plural(n) for n in ("fox", "mouse", "drum")] == ["foxes", "mice", "drums"]
