"""Names as English has them: articles, plurals, and the words that captions are dressed with."""

import re

STYLES = ["3d", "cute", "shiny", "glossy", "cartoon", "colourful", "little"]
FRAMES = ["{}", "{}", "{}", "{}", "an emoji of {}", "a picture of {}", "{} on a white background", "an icon of {}", "draw {}"]
UNCOUNTED = "bacon bread broccoli butter coral garlic ice luggage money popcorn rice salt soap spaghetti sushi wood"
MANY = {"men", "women", "people", *UNCOUNTED.split()}
AFTER_NOUN = re.compile(r" (?:with|of|in|on|and|for|behind|up) ")
IRREGULAR = {
    "man": "men", "woman": "women", "person": "people", "child": "children", "mouse": "mice", "goose": "geese", "ox": "oxen",
    "foot": "feet", "tooth": "teeth", "knife": "knives", "leaf": "leaves", "loaf": "loaves", "wolf": "wolves", "elf": "elves",
    "scarf": "scarves", "die": "dice", "snowman": "snowmen", "tomato": "tomatoes", "potato": "potatoes", "mango": "mangoes",
    "volcano": "volcanoes", "superhero": "superheroes",
}  # fmt: skip
DOUBTFUL = """
    blowfish cheese claus coffee cooking deer fire fish fruit jellyfish lightning milk pasta poo poop squid star-struck tea
    voltage
""".split()
"""Nouns whose plural is doubtful."""


def joined(things: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(things[:-1]), things[-1]]))


def is_many(name: str) -> bool:
    """Whether a name is of many things, or of what one does not count."""
    who = re.search(r"\b(?:(?:wo)?m[ae]n|person|people)\b", name)
    last = who[0] if who else AFTER_NOUN.split(name)[0].split()[-1]
    return last in MANY or (last.endswith("s") and not last.endswith(("ss", "us", "is", "os", "lens", "'s")))


def article(name: str) -> str:
    """With "a" or "an", where it can have one."""
    if is_many(name):
        return name
    vowel = re.match(r"[aeiou]|hour|x-", name) and not re.match(r"uni(?!nt)|use|eu|ufo|one\b|once", name)
    return f"{'an' if vowel else 'a'} {name}"


def plural(name: str) -> str | None:
    """A name of two and more; none of what is many already, or whose plural is doubtful."""
    noun = AFTER_NOUN.split(name)[0]
    before, space, last = noun.rpartition(" ")
    if is_many(name) or " and " in name or "'" in name or last in DOUBTFUL:
        return None
    if last in IRREGULAR:
        many = IRREGULAR[last]
    elif re.search(r"(?:[sxz]|[cs]h)$", last):
        many = f"{last}es"
    elif re.search(r"[^aeiou]y$", last):
        many = f"{last[:-1]}ies"
    else:
        many = f"{last}s"
    return before + space + many + name[len(noun) :]
