"""Word lists that all grammars share. A slot `{food}` or `{food2}` in a template draws from `LISTS["food"]`."""


def listed(text: str, separator: str | None = None) -> list[str]:
    """The entries of a list written as one string."""
    return text.split(separator)


SHE_NAMES = listed(
    "Ada Berit Clara Dora Edith Freya Greta Hanna Ines Julia Karin Lena Mara Nora Olga Petra Rosa Sonja "
    "Tilda Vera Wilma Yara"
)
HE_NAMES = listed(
    "Albin Bruno Carl David Emil Felix Georg Hugo Ivan Jonas Karl Leo Marek Nils Oskar Paul Robin Simon "
    "Tomas Viktor Walter Yusuf"
)

LISTS: dict[str, list[str]] = {
    "adj": listed(
        "old new small large red green blue yellow white grey heavy light round broken shiny dusty warm cold "
        "soft wet dry striped wooden crooked plain bright tiny long narrow"
    ),
    "food": listed(
        "apples pears plums cherries carrots onions beans potatoes tomatoes mushrooms nuts lemons peas "
        "berries olives grapes"
    ),
    "dish": listed(
        "soup|bread|apple pie|a stew|pancakes|an omelette|plum jam|noodles|a salad|dumplings|porridge|a lemon cake",
        "|",
    ),
    "object": listed(
        "basket lantern bucket blanket kettle ladder mirror umbrella teapot hammer bottle button candle clock "
        "drum envelope hat key map notebook parcel rope spoon suitcase whistle wheel bell box coin feather"
    ),
    "animal": listed(
        "fox owl bear rabbit goat heron otter mouse hedgehog crow donkey snail beetle cat dog frog goose "
        "badger squirrel swan"
    ),
    "job": listed(
        "baker teacher sailor tailor farmer nurse clerk gardener painter fisher doctor miller potter "
        "carpenter librarian shepherd cook driver singer mason"
    ),
    "relative": listed("brother sister uncle aunt mother father cousin neighbour friend grandmother grandfather"),
    "weather": listed(
        "rain [be] falling on the roof|the sun [be] low|a cold wind [blow] from the river|the fog [be] thick|"
        "snow [lie] on the street|the air [be] warm and still|clouds [are] over the hills|"
        "the light [be] bright|the moon [be] already up|thunder [roll] far away",
        "|",
    ),
    "sound": listed(
        "a clock [tick]|a dog [bark]|a door [creak]|someone [hum]|a bell [ring]|pots [are] rattling|"
        "a radio [play]|children [are] laughing|a cart [roll] by|birds [are] singing|water [drip]|"
        "an engine [cough]",
        "|",
    ),
    "smell": listed(
        "fresh bread|wet leaves|soap|smoke|coffee|cut grass|old paper|salt|paint|oranges|pine|warm milk", "|"
    ),
    "feeling": listed("happy tired proud curious nervous calm hungry glad worried surprised sleepy cheerful"),
    "place": listed(
        "the harbour|the mill|the old bridge|the market square|the forest|the attic|the lighthouse|"
        "the railway station|the school yard|the river bank|the cellar|the orchard|the bakery|the hill|"
        "the library|the empty theatre",
        "|",
    ),
    "when": listed(
        "early in the morning|after lunch|late in the evening|on a rainy Monday|on Saturday|before breakfast|"
        "at noon|on the first day of spring|in the middle of the night|just before closing time|in autumn|"
        "on a quiet Sunday",
        "|",
    ),
    "colour": listed("red green blue yellow white grey black brown orange purple"),
}
