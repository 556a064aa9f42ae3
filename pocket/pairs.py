"""Pictures of two things, composed of pictures of one, with captions that say what is where.

There are four kinds: two different things side by side, two or three of one, one that holds another, and one that wears
another. Things are laid over each other with their transparency and shrunk once. What `prompts.json` asks for as combinations
is held out, whatever the things are called and whatever their colours, and in every kind.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from PIL import Image

from colours import TINTS, turned
from things import GIFTS, GLASSES, GROUPS, HANDY, HATS, HOLDERS, WEARERS
from words import FRAMES, STYLES, article, is_many, plural

KINDS = {"beside": 0.38, "count": 0.16, "held": 0.24, "worn": 0.22}
"""What share of the pictures is of each."""
CAPTIONS = 8
STYLED, OWN, COPIED = 0.08, 0.33, 0.25
"""How many names have a word of style or a thing's own colour, and how many things that have copies are one of these."""
LONGEST = 64
"""Letters of a caption, so that 24 tokens have it."""
GIVEN = 0.35
"""How often what is held is one of a few that most is asked for."""
TRIES = 5
"""After so many draws a picture may have the things of another."""
FRAME = 256


@dataclass
class Thing:
    """An emoji, or its copy in another colour: the hue turned by so many degrees, which captions always say.

    Names are without the colour; its own one is said at times.
    """

    names: list[str]
    drawn: Image.Image
    own: str | None = None
    other: str | None = None
    turn: float = 0.0

    @cached_property
    def image(self) -> Image.Image:
        """RGBA, 256 × 256."""
        if self.other is None:
            return self.drawn
        image = turned(self.drawn.convert("RGB"), self.turn)
        image.putalpha(self.drawn.getchannel("A"))
        return image

    @property
    def called(self) -> list[str]:
        """Its names, with the colour of a copy."""
        return [f"{self.other} {name}" for name in self.names] if self.other else self.names


@dataclass
class Part:
    """An image, and the box that it fits into: its middle, width and height in the picture's side."""

    image: Image.Image
    x: float
    y: float
    w: float
    h: float

    @property
    def size(self) -> tuple[float, float]:
        """Of the image within the box."""
        scale = min(self.w / self.image.width, self.h / self.image.height)
        return self.image.width * scale, self.image.height * scale


@dataclass
class Composed:
    """A picture of several things, and the names of each."""

    code: str
    image: Image.Image
    captions: list[str]
    things: list[list[str]]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text))


def is_called(names: list[str], asked: str) -> bool:
    """Whether a name has all the words: "black cat" is a cat."""
    return any(words(asked) <= words(name) for name in names)


def is_held_out(things: list[list[str]], held_out: list[list[str]]) -> bool:
    """Whether things, by their names, are as many as those of a combination that is held out, and these, in any order."""
    return any(
        all(is_called(names, asked) for names, asked in zip(order, combination))
        for combination in held_out
        if len(combination) == len(things)
        for order in permutations(things)
    )


# ---- Where things are


def trimmed(image: Image.Image) -> Image.Image:
    return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())


def laid(parts: list[Part]) -> Image.Image:
    """One over the other; what juts out of the picture is kept."""
    canvas = Image.new("RGBA", (2 * FRAME, 2 * FRAME))
    for part in parts:
        w, h = (round(FRAME * length) for length in part.size)
        place = round(FRAME * (part.x + 0.5) - w / 2), round(FRAME * (part.y + 0.5) - h / 2)
        canvas.alpha_composite(part.image.resize((w, h), Image.Resampling.LANCZOS), place)
    return trimmed(canvas)


def framed(image: Image.Image, side: int, rng: random.Random) -> Image.Image:
    """On white, as large as pictures of one thing are, not always in the middle."""
    scale = rng.uniform(0.88, 0.95) * side / max(image.size)
    w, h = round(image.width * scale), round(image.height * scale)
    place = tuple(round((side - length) * rng.uniform(0.35, 0.65)) for length in (w, h))
    white = Image.new("RGBA", (side, side), "white")
    white.alpha_composite(image.resize((w, h), Image.Resampling.LANCZOS), place)
    return white.convert("RGB")


def beside(images: list[Image.Image], rng: random.Random) -> list[Part]:
    """Left and right."""
    near = lambda at, by: at + rng.uniform(-by, by)
    return [
        Part(trimmed(image), near(x, 0.02), near(0.5, 0.07), near(0.56, 0.04), near(0.66, 0.06))
        for image, x in zip(images, (0.25, 0.75))
    ]


def triangle(image: Image.Image, rng: random.Random) -> list[Part]:
    """One above two, or two above one."""
    near = lambda at: at + rng.uniform(-0.02, 0.02)
    up = rng.choice([1, -1])
    image = trimmed(image)
    return [Part(image, near(x), near(0.5 - up * y), 0.48, 0.5) for x, y in ((0.5, 0.23), (0.24, -0.23), (0.76, -0.23))]


def holding(holder: Image.Image, held: Image.Image, rng: random.Random) -> list[Part]:
    """What is held lies over the lower right or lower left."""
    below = Part(trimmed(holder), 0.5, 0.5, 0.85, 0.85)
    size = rng.uniform(0.42, 0.48)
    above = Part(trimmed(held), 0.5, 0.5, size, size)
    (w, h), (_, high) = below.size, above.size
    above.x += rng.choice([-1, 1]) * w / 2 * rng.uniform(0.8, 0.95)
    above.y += h / 2 + 0.03 - high / 2 - rng.uniform(0, 0.08)
    return [below, above]


def wearing(wearer: str, worn: str, images: list[Image.Image]) -> list[Part]:
    """A hat on the head, glasses over the eyes."""
    below = Part(images[0], 0.5, 0.5, 1, 1)
    eyes, head = WEARERS[wearer]
    image = trimmed(images[1])
    if worn in GLASSES:
        assert eyes is not None
        x, y, w = (place / 100 for place in eyes)
        return [below, Part(image, x, y, w, 1)]
    assert head is not None
    x, y, w = (place / 100 for place in head)
    wider, seat = HATS[worn]
    hat = Part(image, x, y, w * wider, 1)
    hat.y += (0.5 - seat) * hat.size[1]
    return [below, hat]


def parts(kind: str, things: list[Thing], rng: random.Random) -> list[Part]:
    images = [thing.image for thing in things]
    match kind, len(things):
        case "held", _:
            return holding(*images, rng)
        case "worn", _:
            return wearing(things[0].names[0], things[1].names[0], images)
        case _, 2:
            return beside(images, rng)
        case _:
            return triangle(images[0], rng)


# ---- What is said


def plain(names: list[str]) -> list[str]:
    """Those that say nothing of what else is there, if there are any."""
    return [name for name in names if not re.search(" with(?:out)? ", name)] or names


def said(thing: Thing, rng: random.Random) -> str:
    """A name, with its colour and a word of style at times."""
    colour = thing.other or (thing.own if rng.random() < OWN else None)
    names = [name for name in thing.names if colour is None or not TINTS & set(name.split())]
    style = rng.choice(STYLES) if rng.random() < STYLED else None
    return " ".join(part for part in [style, colour, rng.choice(plain(names))] if part)


def of_two(one: str, other: str, joins: list[str], rng: random.Random) -> str:
    """With articles mostly; bare words, or "the", at times."""
    join = rng.choice(joins)
    roll = rng.random()
    if roll < 0.2:
        return f"{one} {join} {other}"
    if roll < 0.27:
        return f"the {one} {join} the {other}"
    return rng.choice(FRAMES).format(f"{article(one)} {join} {article(other)}")


def of_many(name: str, count: int, rng: random.Random) -> str:
    ways = [f"two {name}", f"two {name}", f"a pair of {name}"] if count == 2 else [f"three {name}"]
    return rng.choice(FRAMES).format(rng.choice(ways))


def captions(kind: str, things: list[Thing], rng: random.Random) -> list[str]:
    """Different ones, of which some things have fewer than others."""

    def caption() -> str | None:
        one, other = said(things[0], rng), said(things[1], rng)
        match kind:
            case "beside":
                return of_two(one, other, ["and", "and", "and", "next to", "beside"], rng)
            case "count":
                many = plural(one)
                return many and of_many(many, len(things), rng)
            case "held":
                if rng.random() < 0.15 and not is_many(one):
                    return f"{article(one)} and its {other}"
                return of_two(one, other, ["with", "with", "with", "holding"], rng)
            case _:
                joins = ["with", "with", "wearing"]
                return of_two(one, other, joins + ["in"] if things[1].names[0] in GLASSES else joins, rng)

    made = (caption() for _ in range(4 * CAPTIONS))
    return list(dict.fromkeys(text for text in made if text and len(text) <= LONGEST))[:CAPTIONS]


# ---- What is paired


class Chooser:
    """Draws things, some more often than others."""

    def __init__(
        self, known: dict[str, list[Thing]], held_out: list[list[str]], often: dict[str, int], rng: random.Random
    ) -> None:
        self.known, self.held_out, self.often, self.rng = known, held_out, often, rng
        self.counted = [name for name in EVERY if any(map(plural, plain(known[name][0].names)))]
        self.drawn: set[tuple[str, ...]] = set()

    def name(self, among: list[str]) -> str:
        return self.rng.choices(among, [self.often.get(name, 1) for name in among])[0]

    def names(self, kind: str) -> list[str]:
        match kind:
            case "beside":
                one = self.name(EVERY)
                alike = next(group for group in GROUPS if one in group)
                return [one, self.name([name for name in self.rng.choice([alike, EVERY]) if name != one])]
            case "count":
                return [self.name(self.counted)] * self.rng.choice([2, 2, 3])
            case "held":
                one = self.name(HOLDERS)
                among = GIFTS if self.rng.random() < GIVEN else HANDY
                return [one, self.name([name for name in among if name != one])]
            case _:
                one = self.name(list(WEARERS))
                eyes, head = WEARERS[one]
                return [one, self.rng.choice((GLASSES * 2 if eyes else []) + (list(HATS) if head else []))]

    def coloured(self, name: str) -> Thing:
        """In its own colour mostly."""
        own, *copies = self.known[name]
        return self.rng.choice(copies) if copies and self.rng.random() < COPIED else own

    def things(self, kind: str) -> list[Thing]:
        """What is not held out, and not drawn before if that is soon found."""
        tries = 0
        while True:
            names = self.names(kind)
            things = [self.coloured(names[0])] * len(names) if kind == "count" else [self.coloured(name) for name in names]
            called = [thing.called for thing in things]
            which = (kind, *(names[0] for names in called))
            tries += 1
            if not is_held_out(called, self.held_out) and (which not in self.drawn or tries > TRIES):
                self.drawn.add(which)
                return things


EVERY = list(dict.fromkeys(name for group in GROUPS for name in group))
NAMES = list(dict.fromkeys([*EVERY, *HOLDERS, *HANDY, *WEARERS, *HATS, *GLASSES]))
"""Of all things that are paired."""


def pairs(
    known: dict[str, list[Thing]], held_out: list[list[str]], often: dict[str, int], count: int, side: int, seed: int
) -> Iterator[Composed]:
    """So many pictures, the kinds one after another.

    `known` has the colours of each of `NAMES`, its own first; `often` says how much more often some are drawn.
    """
    rng = random.Random(f"pairs {seed}")
    chooser = Chooser(known, held_out, often, rng)
    for kind, share in KINDS.items():
        for number in range(round(count * share)):
            things = chooser.things(kind)
            image = framed(laid(parts(kind, things, rng)), side, rng)
            yield Composed(f"{kind}-{number:04}", image, captions(kind, things, rng), [thing.called for thing in things])
