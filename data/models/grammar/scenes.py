"""Everyday scenes: an opening, which is the prompt, and what happens next."""

from dataclasses import dataclass

from data.models.grammar.writer import Writer


@dataclass(frozen=True)
class Topic:
    """Where a scene plays. `spread` is the mean number of further sentences in a plain document."""

    spread: float
    things: str
    openings: tuple[str, ...]
    events: tuple[str, ...]


# Topics differ on purpose in the number of events and in spread, so that entropy and length differ by prompt.
TOPICS = (
    Topic(
        2.0,
        "pot kettle bowl pan jug",
        (
            "{name} [tie] on an apron and [put] {a thing} of {food} on the stove.",
            "In the kitchen, {name} [mix] {food} with {food2} in {a adj} {thing}.",
            "{name} [chop] {food} for supper while {her} {relative} [wash] the dishes.",
            "The {thing} [begin] to boil over, and {name} [run] across the kitchen floor.",
        ),
        (
            "Then {she} [stir] the {food} with a spoon.",
            "{She} [taste] the {food} and [add] salt.",
            "The {thing} [be] too hot, so {she} [wait].",
            "{Name} [set] the table for <two|three|four>.",
        ),
    ),
    Topic(
        4.0,
        "spade rake watering can fence shed",
        (
            "{name} [kneel] in the garden and [pull] weeds from a row of {food}.",
            "Behind the house, {name} [dig] a hole for a young tree with {a adj} spade.",
            "{name} [water] the {food} {when}, and {a animal} [watch] from the {thing}.",
            "A storm [have] blown over the {adj} fence, and {name} [look] at the muddy flower beds.",
        ),
        (
            "Then {she} [lean] the {thing} against the wall.",
            "{She} [find] {a object} in the earth.",
            "The {animal} [run] off between the {food}.",
            "{Name} [cover] the roots with leaves.",
            "{Her} {relative} [bring] a glass of water.",
            "{She} [plant] a row of {food2} beside the path.",
            "{Name} [wipe] {her} hands and [count] the plants.",
            "The soil [be] dark and full of worms.",
        ),
    ),
    Topic(
        6.0,
        "stall cart scale crate counter",
        (
            "{name} [push] through the crowd at the market with a basket full of {food}.",
            "At the market, a {job} [weigh] {food} and [call] out the price to {name}.",
            "{name} [sell] {food} and {food2} from {a adj} {thing} {when}.",
            "Near the fountain, a {job} [argue] with {name} about the price of {a adj} {object}.",
            "The market [be] almost empty when {name} [stop] at the last {thing} to buy {a object}.",
        ),
        (
            "Then {she} [pay] with three coins.",
            "The {job} [wrap] the {food} in paper.",
            "{She} [drop] the {object} and [laugh].",
            "A boy [ask] for one of the {food}.",
            "{Name} [count] the change twice.",
            "A {animal} [steal] a bite from the {thing}.",
            "{Her} {relative} [wave] from the other side.",
            "The {job} [give] {him} {a object2} for free.",
            "{She} [choose] the {*adj} one and [put] it in a bag.",
            "Someone [sing] behind the {thing}.",
            "{Name} [carry] the {food} home.",
            "One bag of {food} [fall] on the stones.",
            "A woman [buy] all the {food2}.",
            "{She} [meet] {a job2} and [talk] about {food2}.",
        ),
    ),
    Topic(
        4.5,
        "seat window ticket bench platform",
        (
            "{name} [wait] on the platform with {a adj} suitcase and {a object}.",
            "The train [stop] between two stations, and {name} [look] out at the fields.",
            "{a job} [sit] down next to {name} in the train and [open] {a adj} box.",
            "{name} [run] along the platform because the train to the coast [be] leaving.",
        ),
        (
            "Then the train [begin] to move.",
            "{She} [read] a letter from {her} {relative}.",
            "A voice [say] that the train [be] late.",
            "The {job} [offer] {him} some {food}.",
            "{Name} [fall] asleep against the window.",
            "{She} [forget] the {object} on the {thing}.",
            "A child [draw] {a animal} on the glass.",
            "{Name} [look] for {her} ticket in every pocket.",
            "The lamp above the {thing} [go] out.",
            "{She} [talk] with the {job} about {place}.",
        ),
    ),
    Topic(
        2.5,
        "chair table drawer wheel shelf",
        (
            "In the workshop, {name} [measure] a board for {a adj} {thing}.",
            "{name} [sand] the leg of a chair that {her} {relative} [have] broken.",
            "{name} [hammer] the last nail into {a adj} {thing} and [step] back.",
            "A bicycle [hang] upside down in the workshop, and {name} [turn] its {adj} wheel slowly.",
        ),
        (
            "Then {she} [take] the hammer again.",
            "{She} [paint] the {thing} {*colour}.",
            "The {thing} [be] still crooked.",
            "{Name} [look] for the right screw.",
            "{She} [blow] the dust away and [smile].",
        ),
    ),
    Topic(
        5.0,
        "boat towel shell net stone",
        (
            "{name} [walk] along the beach and [pick] up {a adj} shell.",
            "Two children [build] a castle of sand while {name} [read] under an umbrella.",
            "{name} [push] a small boat into the water, and {her} {relative} [hold] the rope.",
            "A wave [carry] {a object} to the feet of {name}, who [bend] down to look at it.",
        ),
        (
            "Then a wave [wash] over {her} feet.",
            "{She} [throw] a {thing} into the sea.",
            "The children [run] after {a animal}.",
            "{Name} [fill] a bucket with water.",
            "{She} [see] a ship far out.",
            "{Her} {relative} [swim] to the {thing}.",
            "{Name} [find] {a object2} under the sand.",
            "The wind [take] {her} hat.",
            "{She} [hide] the {object} in a bag.",
            "The sand [be] warm and the water cold.",
            "{Name} [dry] {her} hair with a towel.",
        ),
    ),
    Topic(
        2.0,
        "book page shelf letter card",
        (
            "{name} [carry] a stack of books through the library and [put] them on a table.",
            "In the library, a {job} [ask] {name} for a book about {animal}s.",
            "{name} [find] {a adj} letter between the pages of a book.",
            "The lights in the library [go] out while {name} [read] about {place}.",
        ),
        (
            "Then {she} [turn] the page.",
            "{She} [whisper] the title.",
            "The {job} [nod] and [sit] down.",
            "{Name} [put] the {thing} back.",
            "{She} [write] the name on a card.",
            "Nobody [be] at the desk.",
        ),
    ),
    Topic(
        4.0,
        "desk board bag map ruler",
        (
            "The teacher [write] a long word on the board, and {name} [raise] {her} hand.",
            "{name} [forget] {her} homework and [hide] behind {a adj} bag.",
            "{name} [share] a desk by the window with {name2} and [draw] {a adj} {animal}.",
            "Before the bell [ring], {name} [show] the class {a object} from {her} {relative}.",
        ),
        (
            "Then the teacher [smile].",
            "{She} [answer] in a low voice.",
            "The class [laugh].",
            "{Name} [copy] the word into a notebook.",
            "{She} [drop] the {thing} on the floor.",
            "A friend [help] {him} with the sum.",
            "The bell [ring] and everyone [run] out.",
            "{Name} [draw] {a animal2} next to it.",
            "The {object} [go] from hand to hand.",
        ),
    ),
    Topic(
        3.5,
        "sled shovel scarf glove path",
        (
            "Snow [cover] the street, and {name} [pull] a sled up the hill.",
            "{name} [shovel] the path to the door while {her} {relative} [make] tea.",
            "{name} [build] a snowman and [give] it {a adj} {object}.",
            "The lake [be] frozen, so {name} [put] on a scarf and [test] the ice with a stick.",
        ),
        (
            "Then {she} [slide] down the hill.",
            "{She} [lose] a glove in the snow.",
            "{A animal} [leave] tracks near the {thing}.",
            "{Name} [throw] a snowball at {her} {relative}.",
            "The sled [hit] a tree.",
            "{She} [rub] {her} cold hands.",
            "{Name} [see] lights in the house.",
        ),
    ),
    Topic(
        5.5,
        "gate barn trough fence wagon",
        (
            "{name} [open] the gate, and {a animal} [run] out of the barn.",
            "On the farm, {name} [feed] the {animal} a handful of {food}.",
            "{a job} [drive] a wagon full of {food} into the yard, and {name} [help] to unload it.",
            "{name} [look] for a lost {animal} behind the barn {when}.",
        ),
        (
            "Then the {animal} [jump] over the fence.",
            "{She} [call] its name.",
            "{Name} [close] the gate behind {him}.",
            "The {job} [bring] a rope.",
            "{She} [fill] the trough with water.",
            "The {animal} [eat] all the {food}.",
            "{Her} {relative} [come] with {a object}.",
            "{Name} [lift] a sack onto the wagon.",
            "A hen [sit] on the {thing}.",
            "{She} [find] the {animal} asleep in the hay.",
            "{Name} [count] the {animal2}s.",
            "The {animal} [follow] {him} home.",
        ),
    ),
    Topic(
        1.6,
        "oven tray loaf cake counter",
        (
            "{name} [take] a tray out of the oven, and the smell of bread [fill] the bakery.",
            "At the bakery, {name} [decorate] a cake with {food} for {her} {relative}.",
            "A customer [point] at the last loaf, and {name} [look] at {name2}.",
        ),
        (
            "Then {she} [cut] the {thing} into pieces.",
            "{She} [sell] the last one.",
            "{Name} [sprinkle] sugar on top.",
            "The {thing} [be] still warm.",
        ),
    ),
    Topic(
        6.5,
        "bench swing kite ball pond",
        (
            "{name} [sit] on a bench in the park and [feed] {a animal}.",
            "{name} [fly] {a adj} kite in the park, and {name2} [hold] the string.",
            "A ball [roll] across the grass, and {name} [kick] it toward {a job}.",
            "{name} [walk] around the pond with {her} {relative} {when}.",
            "Under a tree in the park, {a job} [play] the drum for {name} and {a adj} {animal}.",
        ),
        (
            "Then the {animal} [come] closer.",
            "{She} [give] it some {food}.",
            "{Her} {relative} [tell] a joke.",
            "The ball [fall] into the pond.",
            "{Name} [climb] a tree to get the kite.",
            "A {job} [clap] and [ask] for more.",
            "{She} [lie] down in the grass.",
            "{Name} [eat] {food} from a paper bag.",
            "A dog [run] off with the {object}.",
            "{She} [meet] {name2} near the swing.",
            "The string [break].",
            "{Name} [draw] the pond in a notebook.",
            "The {animal} [sleep] under the bench.",
            "{She} [sing] a song about {place}.",
            "Two {job}s [are] busy with a game of chess.",
        ),
    ),
    Topic(
        3.0,
        "boat net rod bucket rope",
        (
            "{name} [sit] in {a adj} boat and [wait] for a fish to bite.",
            "At the harbour, a fisher [mend] a net, and {name} [hold] the other end.",
            "{name} [pull] up a line and [find] {a object} on the hook.",
        ),
        (
            "Then the boat [begin] to rock.",
            "{She} [pull] hard at the {thing}.",
            "A fish [jump] out of the water.",
            "{Name} [tie] the rope to a post.",
            "The fisher [tell] a story about {place}.",
            "{She} [put] the {object} into a bucket.",
            "{Name} [row] back to the harbour.",
        ),
    ),
    Topic(
        2.5,
        "drum piano violin song note",
        (
            "{name} [play] the piano, and {her} {relative} [listen] from the stairs.",
            "Before the concert, {name} [look] for {her} {adj} violin behind the curtain.",
            "{name} [learn] a new song about {a animal} and {a job}.",
        ),
        (
            "Then {she} [stop] and [begin] again.",
            "{She} [play] the last note.",
            "The {relative} [clap] softly.",
            "{Name} [hum] the song.",
            "Everyone [become] quiet.",
            "The {thing} [sound] strange.",
        ),
    ),
    Topic(
        3.5,
        "parcel letter stamp counter envelope",
        (
            "At the post office, {name} [send] {a adj} parcel to {her} {relative}.",
            "The clerk [shake] a box that [belong] to {name}, and something inside [rattle].",
            "{name} [open] a letter from {a job} and [read] it aloud to {name2}.",
        ),
        (
            "Then the clerk [ask] for the address.",
            "{She} [stick] a stamp on the {thing}.",
            "{Name} [wonder] what [be] inside.",
            "There [be] {a object} in the box.",
            "{She} [write] a short answer.",
            "{Name2} [laugh] at the last line.",
            "{Name} [pay] and [leave].",
            "The letter [be] about {place}.",
        ),
    ),
    Topic(
        5.0,
        "brush canvas wall picture frame",
        (
            "{name} [paint] the wall of the school {colour}, and {name2} [hold] the ladder.",
            "{name} [mix] {colour} and {colour2} paint for a picture of {a animal}.",
            "In a quiet room, {a job} [sit] very still while {name} [draw] {her} portrait.",
        ),
        (
            "Then {she} [dip] the brush again.",
            "A drop of {colour} paint [fall] on the floor.",
            "{She} [step] back and [look].",
            "The {animal} [look] more like {a animal2}.",
            "{Name} [add] a {*colour} cloud.",
            "{Name2} [ask] for more paint.",
            "The {job} [begin] to laugh.",
            "{She} [wash] the brush in a jar.",
            "{Name} [sign] the picture.",
            "The ladder [shake] a little.",
            "{Her} {relative} [want] to buy it.",
        ),
    ),
    Topic(
        4.5,
        "tent lamp fire backpack log",
        (
            "{name} [light] a fire near the tent, and {name2} [bring] more wood.",
            "It [be] dark in the forest when {name} [hear] a noise outside the tent.",
            "{name} [walk] up the mountain with {a adj} backpack and a map of {place}.",
        ),
        (
            "Then {a animal} [come] out of the dark.",
            "{She} [hold] up the lamp.",
            "{Name} [cook] {food} over the fire.",
            "{Name2} [tell] a story about {a job}.",
            "{She} [look] at the map again.",
            "The fire [go] out.",
            "{Name} [eat] some {food2}.",
            "It [begin] to rain.",
            "{She} [count] the stars.",
            "{Name} [find] {a object} under a log.",
        ),
    ),
)

DETAILS = (
    "Outside, {*weather}, and the street [be] <empty|quiet|wet>.",
    "It [smell] of {*smell}.",
    "Somewhere {*sound}.",
    "There [be] a smell of {*smell} in the air, which [remind] {him} of {*place}.",
    "The light [be] <soft|grey|golden>, and far away {*sound}.",
    "While {*weather}, {name} [think] of {her} {*relative}, who [live] near {*place}.",
    "On the wall [hang] {a *adj} {*object} that [belong] to {her} {*relative}.",
)
SPEECH = (
    '"<Look|Wait|Listen>!" {she} [say].',
    '"Have you seen my {*object}?" {name} [ask].',
    '"It is good weather for {a *animal}," {she} [joke].',
    '"<Not again|How odd|Well done|That is enough>," [say] {her} {*relative}.',
    '"Are you {*feeling}?" "<Yes|No|A little>," {name} [answer].',
    '"Tomorrow we go to {*place}!" {she} [call].',
    '"I would rather eat {*food}," {she} [say], and [laugh].',
)
FEELINGS = (
    "{Name} [be] {*feeling}.",
    "{She} [feel] {*feeling} and a little {*feeling}.",
    "For a moment {she} [be] {*feeling}.",
    "{Her} {*relative} [be] {*feeling} too.",
)
ENDINGS = (
    "At last {name} [go] home.",
    "{She} [smile] and [say] nothing.",
    "It [be] a good day.",
    "Soon it [be] time for supper.",
    "{She} [will] come back tomorrow.",
    "After that everything [be] quiet.",
    "{Name} never [forget] that day.",
    "In the end {she} [be] {*feeling}.",
    "{She} [thank] {her} {*relative} and [leave].",
)


@dataclass
class Scene:
    """An opening with its writer, whose facts the continuation goes on using."""

    writer: Writer
    topic: Topic
    opening: str
    first: str

    @property
    def prompt(self) -> str:
        """The opening and the first words of what follows."""
        return f"{self.opening} {self.first}".strip()


def begin(writer: Writer) -> Scene:
    """Draw a topic and an opening; the prompt may run one or two words into the next sentence."""
    topic = writer.pick(TOPICS)
    writer.settle("name")
    # The thing is settled by the topic, not by the shared lists: no umbrella on the stove.
    writer.facts["thing"] = writer.pick(topic.things.replace("watering can", "watering-can").split()).replace("-", " ")
    opening = writer.write(writer.pick(topic.openings))
    opening = opening[0].upper() + opening[1:]
    event = writer.write(writer.pick(topic.events))
    words = int(writer.rng.integers(0, 3))
    cut = " ".join(event.split()[:words])
    scene = Scene(writer, topic, opening, cut)
    writer.facts["event"] = event
    return scene


def sentence(scene: Scene, register: dict[str, float]) -> str:
    """One further sentence, of a kind drawn by the family's register."""
    pools = {"event": scene.topic.events, "detail": DETAILS, "speech": SPEECH, "feeling": FEELINGS}
    kinds = list(register)
    kind = kinds[int(scene.writer.rng.choice(len(kinds), p=[register[k] for k in kinds]))]
    return scene.writer.write(scene.writer.pick(pools[kind]))


def continuation(scene: Scene, register: dict[str, float], sentences: int, ending: float) -> str:
    """The begun sentence in full, distinct further sentences, and an ending with this probability."""
    parts = [scene.writer.facts["event"]]
    for _ in range(sentences):
        text = sentence(scene, register)
        if text not in parts:
            parts.append(text)
    if scene.writer.chance(ending):
        parts.append(scene.writer.write(scene.writer.pick(ENDINGS)))
    return " ".join(parts)


def plain(scene: Scene, register: dict[str, float]) -> str:
    """Continuation as in a pretraining document: geometric number of sentences, longer for some topics."""
    sentences = int(scene.writer.rng.geometric(1.0 / (1.0 + scene.topic.spread))) - 1
    text = continuation(scene, register, min(sentences, 16), ending=0.6)
    return text[len(scene.first) :].strip()


def answer(scene: Scene, register: dict[str, float]) -> str:
    """Continuation as in a tuned answer: short, from the topic's own events, closed by an ending."""
    tuned = {"event": 0.75, "feeling": 0.1, "detail": register["detail"] / 2, "speech": register["speech"] / 2}
    total = sum(tuned.values())
    extra = int(scene.writer.rng.random() < scene.topic.spread / 7.0) + int(scene.writer.chance(0.25))
    return continuation(scene, {k: v / total for k, v in tuned.items()}, extra, ending=0.8)
