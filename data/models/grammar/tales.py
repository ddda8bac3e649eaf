"""Open prompts: little stories and odd ideas."""

from dataclasses import dataclass

from data.models.grammar.writer import Writer

WISHES = (
    "wants to learn to fly",
    "is afraid of the dark",
    "has never seen the sea",
    "collects {object}s",
    "can talk to {animal2}s",
    "lost {a object}",
    "wants to become {a job}",
    "cannot sleep",
    "loves {food} more than anything",
    "lives in {place}",
    "found a map of {place}",
    "hears music in {place}",
    "must cross {place} alone",
    "has a secret friend",
)
PROBLEMS = (
    "is too shy to sing",
    "has lost the key to {place}",
    "must cook for forty people",
    "always forgets {her} {object}",
    "has {a animal} that eats every {object}",
    "cannot find time to read",
    "wants to thank a {adj} old {job}",
    "has broken the {object} of {her} {relative}",
    "sleeps too long every morning",
)
WONDERS = (
    "it rains {food}",
    "every {animal} can speak",
    "nobody owns {a object}",
    "the streets are {colour}",
    "all clocks run backwards",
    "people trade dreams for {food}",
    "the {job} rules",
    "the wind brings letters",
)

HERO_PROMPTS = (
    "Write a short story about {a adj} {animal} that {wish}.",
    "Tell me a bedtime story about {a animal} that {wish}.",
    "Write a story in which {name}, {a job}, finds {a adj} {object} in {place}.",
    "Tell a tale about {a job} who {wish}.",
    "Imagine {a animal} that {wish}. What happens {when}?",
    "Write about {name} and {her} {relative}, lost near {place} {when}.",
    "A {job} and {a animal} meet at {place}. Write what happens between them.",
    "Make up a story that begins with {a adj} {object} and ends at {place}.",
    "Imagine a town where {wonder}. Tell a short tale about one day there.",
    "What would {name} do in a land where {wonder}?",
    "Write a letter from {a animal} to {a job} about {food}.",
    "Describe the strangest dream of {a animal} that {wish}.",
)
IDEA_PROMPTS = (
    "Think of a new use for {a adj} {object}, and explain it.",
    "Invent a holiday for people who love {food}.",
    "Come up with a way to help {name}, who {problem}.",
    "Make up a game that {a job} could play with {a object} and some {food}.",
    "Describe a machine that turns {food} into {object}s. Who would want it?",
    "Suggest a present for {a relative} who {wish}.",
    "Invent {a object} for {a animal} that {wish}.",
    "How could a {job} use {a animal} at {place}? Give one original idea.",
    "{name} {problem}. Find an unusual solution.",
    "Plan a party at {place} for {a animal} and {her} friends.",
)
STORY_STARTS = (
    "There [be] once {hero} {where}.",
    "{Hero} [live] {where}.",
    "{When}, {hero} [wake] up {where}.",
    "Nobody [know] much about {hero} {where}.",
    "This story [begin] {where}, with {hero}.",
)
WISH_STARTS = (
    "This is the story of {hero} that {wish}.",
    "{Hero} that {wish}: who [have] heard of that?",
    "{Where} there [be] {hero} that {wish}.",
)
NAMED_STARTS = (
    "{Name} could begin with {a object}.",
    "{Name} should ask {a job} for {a object}.",
    "If {name} takes {a object} to {place}, everything is easy.",
)
TROUBLES = (
    "One day {she} [lose] {a object}.",
    "{When} {a *adj} {animal2} [come] to {*place}.",
    "{She} [want] to see {*place}, but the way [be] long.",
    "A storm [break] the {*object} of {a *job}.",
    "Then all the {*food} [be] gone.",
    "{She} [hear] a voice that [speak] of {a *adj} {*object}.",
    "A door [open] where no door [have] been before.",
    "The {*job} [say] that it [be] not possible.",
    "Every night somebody [take] {a *object}.",
    "{She} [have] no friends but {a *animal}.",
)
TURNS = (
    "So {she} [ask] {a *animal} for help.",
    "{She} [build] {a *object} out of {*food}.",
    "{She} [walk] all night, past {*place} and {*place}.",
    "An old {*job} [give] {him} {a *adj} {*object}.",
    "{She} [hide] in {*place} and [wait].",
    "Together with {a *job} {she} [make] a plan.",
    "{She} [sing] until the {*animal} [fall] asleep.",
    "{She} [write] a letter to {a *relative}.",
    "Nobody [laugh] when {she} [try] again.",
    "{She} [find] out that the {*object} [can] talk.",
    "{She} [trade] {a *object} for three {*food}.",
    "The {*animal} [show] {him} the way.",
)
CLOSES = (
    "From then on {she} [be] never {*feeling} again.",
    "And {place2} [become] {her} home.",
    "They [are] friends to this day.",
    "In the end the {*object} [be] not even needed.",
    "{She} [come] back with {a *adj} {*object} and a new friend.",
    "Everyone [eat] {*food} and [sing].",
    "And that [be] why no {*animal} [like] {*food}.",
    "The next morning everything [be] as before.",
)
IDEA_STARTS = (
    "Take {a object} and fill it with {food}.",
    "I would begin with {a adj} {object}.",
    "Give everyone {a object} {when}.",
    "The idea is simple: {a object} for each {job}.",
    "Paint it {colour} and hang it up in {place}.",
    "Put {a object} next to {food}.",
)
IDEA_STEPS = (
    "Then ask {a *job} to carry it to {*place}.",
    "Each {*animal} gets some {*food}.",
    "After that everyone has to tell a story about {*place}.",
    "The smell of {*smell} keeps the {*animal}s away.",
    "Whoever finds {a *object} may choose the next song.",
    "A {*job} counts the {*food} {*when}.",
    "It works best {*when}.",
    "Use {*colour} paint, so that nobody forgets it.",
    "You can also use {a *adj} {*object}.",
    "Two {*job}s hold the {*object}, and the third one runs.",
    "At night it glows {*colour}.",
    "Children will call it the {*adj} {*object}.",
)
IDEA_CLOSES = (
    "It costs almost nothing.",
    "Nobody will be {*feeling} any more.",
    "Even {a *job} would like that.",
    "In the evening there is {*dish} for all.",
    "And if it fails, there is still {*dish}.",
    "That is all you need.",
)


@dataclass
class Tale:
    """An open prompt with its writer; `idea` says which kind of text it asks for."""

    writer: Writer
    prompt: str
    idea: bool
    starts: tuple[str, ...]


def begin(writer: Writer) -> Tale:
    """Draw an open prompt and settle who it is about."""
    idea = writer.chance(0.45)
    writer.settle("name")
    for key, choices in (("wish", WISHES), ("problem", PROBLEMS), ("wonder", WONDERS)):
        writer.facts[key] = writer.pick(choices)
    template = writer.pick(IDEA_PROMPTS if idea else HERO_PROMPTS)
    for key in ("wish", "problem", "wonder"):
        writer.facts[key] = writer.write(writer.facts[key])
        template = template.replace("{" + key + "}", writer.facts[key])
    prompt = writer.write(template)
    _cast(writer, template)
    return Tale(writer, prompt[0].upper() + prompt[1:], idea, _starts(writer, prompt, idea))


def _starts(writer: Writer, prompt: str, idea: bool) -> tuple[str, ...]:
    """Openings that take up the name or the wish of the prompt, where it has one."""
    if idea:
        return IDEA_STARTS + (NAMED_STARTS * 3 if writer.facts["name"] in prompt else ())
    return STORY_STARTS + (WISH_STARTS * 2 if writer.facts["wish"] in prompt else ())


def _cast(writer: Writer, template: str) -> None:
    named = "{name}" in template or ("{a job}" not in template and "animal}" not in template)
    hero = "{name}" if named else writer.pick([h for h in ("{a animal}", "{a job}") if h in template] or ["{a animal}"])
    writer.facts["hero"] = writer.write(hero)
    writer.facts["where"] = writer.write("<in|near> {place}")


def _middle(tale: Tale, register: dict[str, float], turns: int) -> list[str]:
    pool = IDEA_STEPS if tale.idea else TURNS
    parts = [tale.writer.write(t) for t in tale.writer.several(pool, turns)]
    if tale.writer.chance(register["speech"]):
        parts.insert(
            min(1, len(parts)),
            tale.writer.write('"<Why not|Come with me|That is odd|I knew it>!" [say] {a *adj} {*animal}.'),
        )
    if tale.writer.chance(register["detail"]):
        parts.append(
            tale.writer.write("<It [smell] of {*smell}.|Somewhere {*sound}, and {*weather}.|{*weather}.>").strip()
        )
    return [part[0].upper() + part[1:] for part in parts]


def tell(tale: Tale, register: dict[str, float], turns: int, closing: float) -> str:
    """Start, trouble, turns and close of a story; start, steps and close of an idea."""
    writer = tale.writer
    parts = [writer.write(writer.pick(tale.starts))]
    if not tale.idea:
        parts.append(writer.write(writer.pick(TROUBLES)))
    parts += _middle(tale, register, turns)
    if writer.chance(closing):
        parts.append(writer.write(writer.pick(IDEA_CLOSES if tale.idea else CLOSES)))
    return " ".join(parts)


def plain(tale: Tale, register: dict[str, float]) -> str:
    """As in a pretraining document: any number of turns, not always brought to an end."""
    return tell(tale, register, min(int(tale.writer.rng.geometric(0.27)), 9), closing=0.7)


def answer(tale: Tale, register: dict[str, float]) -> str:
    """As in a tuned answer: a few turns and always a close."""
    halved = {key: value / 2 for key, value in register.items()}
    return tell(tale, halved, 1 + int(tale.writer.rng.integers(0, 3)), closing=1.0)
