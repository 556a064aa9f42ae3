"""The pictures and captions that Pocket learns from.

    python3 -m pip install -r pocket/requirements.txt
    python3 pocket/data.py --out pocket/data

fetches two npm packages (from npm's registry or another one, `--registry`; or takes what `npm pack` wrote from
`--packages`), and writes a folder of 128 × 128 pictures with a `metadata.jsonl` beside them, a line a picture:
`{"file_name": …, "text": [captions…]}`.

Pictures are Microsoft's Fluent Emoji (MIT, packed by LobeHub), laid over white, flags left out. Names and keywords are
Unicode's, by emojibase-data (MIT). Three things are added, so that people's phrasing works, and colours and combinations
mean something: phrasings (articles, synonyms, words of style); copies with the hue turned, whose captions have the colour;
and pictures of two or three things, composed of pictures of one (`pairs.py`), whose lines have the names of each as `things`,
too. What `prompts.json` holds out is left out, so that a model can be asked for what it has not seen. The same seed gives
the same folder.
"""

import argparse
import base64
import hashlib
import io
import json
import random
import re
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from colours import COLOURS, HUES, TINTS, dominant, nearest, turned
from pairs import NAMES, Thing, pairs
from words import FRAMES, STYLES, article, is_many, joined

PACKAGES = {
    "pictures": "@lobehub/fluent-emoji-3d@1.1.0",
    "names": "emojibase-data@17.0.0",
}
REGISTRY = "https://registry.npmjs.org"
PROMPTS = Path(__file__).with_name("prompts.json")
SIDE = 128
FORMATS: dict[str, dict[str, Any]] = {"png": {}, "webp": {"quality": 95, "method": 6}}
CAPTIONS = 24
OFTEN = {"in_data": 4, "combined": 12}
"""How much more often pairs have what prompts ask for."""
PEOPLE, ANIMALS, SYMBOLS, FLAGS = 1, 3, 8, 9
SYNONYMS = {
    "deciduous tree": ["tree", "leafy tree", "green tree"],
    "evergreen tree": ["pine tree", "fir tree", "conifer"],
    "sun": ["yellow sun", "bright sun", "shining sun"],
    "sun with face": ["sun", "smiling sun"],
    "cloud": ["white cloud"],
    "crescent moon": ["moon"],
    "full moon": ["moon"],
    "star": ["yellow star", "gold star"],
    "glowing star": ["shining star"],
    "droplet": ["drop of water", "water drop"],
    "fire": ["flame", "flames"],
    "high voltage": ["lightning", "lightning bolt"],
    "snowman without snow": ["snowman"],
    "automobile": ["car", "red car"],
    "oncoming automobile": ["car from the front"],
    "sport utility vehicle": ["suv", "blue car"],
    "police car": ["cop car"],
    "articulated lorry": ["truck", "lorry"],
    "delivery truck": ["truck", "van"],
    "fire engine": ["fire truck", "red fire truck"],
    "locomotive": ["steam train", "steam engine"],
    "bicycle": ["bike"],
    "motorcycle": ["motorbike"],
    "sailboat": ["boat", "sailing boat"],
    "rocket": ["space rocket", "spaceship"],
    "flying saucer": ["ufo"],
    "airplane": ["plane", "aeroplane"],
    "house with garden": ["house with a garden", "house and garden"],
    "red heart": ["heart", "love heart"],
    "broken heart": ["broken red heart"],
    "grinning face": ["smiley", "smile", "happy face", "smiley face"],
    "slightly smiling face": ["smile", "smiling face", "smiley face"],
    "smiling face with smiling eyes": ["happy face", "blushing smile"],
    "face with tears of joy": ["laughing face", "laughing emoji"],
    "rolling on the floor laughing": ["laughing face"],
    "loudly crying face": ["crying face", "sad crying face"],
    "frowning face": ["sad face"],
    "slightly frowning face": ["sad face"],
    "angry face": ["mad face"],
    "enraged face": ["angry red face"],
    "sleeping face": ["sleepy face", "face that sleeps"],
    "face blowing a kiss": ["kissing face"],
    "winking face": ["wink"],
    "astonished face": ["surprised face", "shocked face"],
    "smiling face with sunglasses": ["cool face", "face with sunglasses"],
    "smiling face with heart-eyes": ["heart eyes", "face in love"],
    "clown face": ["clown"],
    "robot": ["robot face"],
    "alien": ["green alien"],
    "ghost": ["spooky ghost"],
    "pile of poo": ["poop", "poo"],
    "jack-o-lantern": ["halloween pumpkin", "carved pumpkin", "pumpkin"],
    "cat face": ["kitty"],
    "dog face": ["puppy"],
    "rabbit face": ["bunny"],
    "honeybee": ["bee"],
    "lady beetle": ["ladybug", "ladybird"],
    "sauropod": ["dinosaur", "brontosaurus"],
    "t-rex": ["dinosaur", "tyrannosaurus"],
    "hatching chick": ["chick in an egg"],
    "red apple": ["apple"],
    "pizza": ["slice of pizza", "pizza slice", "piece of pizza"],
    "hamburger": ["burger"],
    "french fries": ["fries", "chips"],
    "hot beverage": ["coffee", "cup of coffee", "cup of tea"],
    "beer mug": ["beer", "glass of beer"],
    "wine glass": ["glass of wine", "glass of red wine"],
    "cooking": ["fried egg"],
    "spaghetti": ["pasta", "plate of spaghetti"],
    "cooked rice": ["bowl of rice", "rice"],
    "bread": ["loaf of bread"],
    "cheese wedge": ["cheese", "piece of cheese"],
    "soft ice cream": ["ice cream", "ice cream cone"],
    "shortcake": ["slice of cake", "piece of cake"],
    "birthday cake": ["cake"],
    "doughnut": ["donut"],
    "eggplant": ["aubergine"],
    "mobile phone": ["phone", "smartphone", "cell phone"],
    "telephone": ["phone", "red telephone"],
    "laptop": ["computer", "notebook computer"],
    "television": ["tv"],
    "light bulb": ["lightbulb"],
    "books": ["stack of books", "pile of books"],
    "soccer ball": ["football", "ball"],
    "american football": ["football"],
    "wrapped gift": ["gift", "present"],
    "collision": ["explosion"],
    "bouquet": ["flowers", "bunch of flowers"],
    "blossom": ["flower", "yellow flower"],
    "cherry blossom": ["pink flower"],
    "rose": ["red rose"],
    "glasses": ["eyeglasses", "spectacles"],
    "t-shirt": ["shirt", "tee"],
    "running shoe": ["sneaker", "trainer", "shoe"],
    "artist palette": ["palette"],
    "gem stone": ["diamond", "gem"],
    "ring": ["diamond ring"],
    "trophy": ["gold cup"],
}
TONES = r"(?:light|medium-light|medium|medium-dark|dark)"
TONED = re.compile(rf"(?: with| and) {TONES}(?: and {TONES})? skin$")


@dataclass
class Picture:
    """An emoji: its file, its image on white, what it is called, and what else it brings to mind."""

    code: str
    drawn: bytes
    image: Image.Image
    names: list[str]
    words: list[str]
    group: int
    captions: list[str] = field(default_factory=list)


def packed(package: str, given: Path | None, registry: str) -> bytes:
    """The archive of a package as `npm pack` names it, or as the registry has it."""
    name, _, version = package.rpartition("@")
    if given is not None:
        path = given / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
        if not path.exists():
            raise SystemExit(f"{path} is missing: `npm pack {package}` writes it")
        return path.read_bytes()
    registry = registry.rstrip("/")

    def fetched(address: str) -> bytes:
        try:
            with urllib.request.urlopen(address, timeout=120) as answer:
                return answer.read()
        except OSError as error:
            raise SystemExit(f"{package} was not fetched: {error}; `npm pack {package}`, then `--packages DIR`") from error

    about = json.loads(fetched(f"{registry}/{name}/{version}"))["dist"]
    archive = fetched(about["tarball"])
    if f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}" != about["integrity"]:
        raise SystemExit(f"{package} is not what the registry says it is")
    return archive


def archives(given: Path | None, registry: str) -> dict[str, tarfile.TarFile]:
    return {part: tarfile.open(fileobj=io.BytesIO(packed(package, given, registry))) for part, package in PACKAGES.items()}


def read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(f"package/{name}")
    assert member is not None
    return member.read()


def key(code: str) -> str:
    """A sequence of code points without variation selectors, which sources write or leave out as they like."""
    return "-".join(point for point in code.upper().split("-") if point != "FE0F")


def named(names: tarfile.TarFile) -> dict[str, dict[str, Any]]:
    """What Unicode says of each sequence; skin tones are sequences of their own."""
    found = {}
    for emoji in json.loads(read(names, "en/data.json")):
        for one in [emoji, *emoji.get("skins", [])]:
            found[key(one["hexcode"])] = emoji | {"label": one["label"], "tags": one.get("tags", emoji.get("tags"))}
    return found


def with_alpha(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGBA")


def over_white(picture: Image.Image) -> Image.Image:
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def told(name: str, detail: list[str]) -> list[str]:
    """A name and what a label says after its colon, as people would say it."""
    plural = {"man": "men", "woman": "women", "person": "people"}
    match name, detail:
        case _, []:
            return [name, *SYNONYMS.get(name, [])]
        case "keycap", [sign]:
            return [f"keycap {sign}", f"number {sign}" if sign.isdigit() else f"{sign} key"]
        case "kiss" | "couple with heart", [one, other]:
            return [f"{name} of two {plural[one]}" if one == other else f"{name} of {article(one)} and {article(other)}"]
        case "family", who:
            return [f"family of {joined([article(one) for one in who])}"]
        case _, ["bald"]:
            return [f"bald {name}"]
        case _, ["beard"]:
            return [f"{name} with a beard", f"bearded {name}"]
        case _, ["facing right"]:
            return [f"{name} facing right"]
        case _:
            return [f"{name} with {joined(detail)}"]


def names_of(label: str, group: int) -> list[str]:
    """A label as people would say it, and its synonyms."""
    name, _, rest = label.lower().translate(str.maketrans("’", "'", "“”")).partition(": ")
    detail = rest.split(", ") if rest else []
    tones = [one.removesuffix(" skin tone") for one in detail if one.endswith(" skin tone")]
    names = told(name, [one for one in detail if not one.endswith(" skin tone")])
    if group == ANIMALS and name.endswith(" face"):
        names.append(name.removesuffix(" face"))
    if tones:
        names = [f"{name} {'and' if ' with ' in name else 'with'} {joined(tones)} skin" for name in names]
    return names


def without_tone(name: str) -> str:
    """The name that an emoji's skin tones share."""
    return TONED.sub("", name)


def pictures(packages: dict[str, tarfile.TarFile]) -> Iterator[Picture]:
    """Every emoji that has a name and is no flag."""
    names = named(packages["names"])
    for code, member in sorted({key(Path(name).stem): name for name in packages["pictures"].getnames()}.items()):
        emoji = names.get(code)
        if not member.endswith(".webp") or emoji is None or emoji.get("group") in (FLAGS, None):
            continue
        said = names_of(emoji["label"], emoji["group"])
        already = {word for name in said for word in [name, *name.split()]}
        words = [word for word in emoji["tags"] or [] if re.fullmatch(r"[a-z][a-z' -]{2,}", word)]
        words = [word for word in words if word not in already]
        drawn = read(packages["pictures"], member.removeprefix("package/"))
        yield Picture(code.lower(), drawn, over_white(with_alpha(drawn)), said, words, emoji["group"])


def phrasings(picture: Picture, colour: str | None, rng: random.Random) -> list[str]:
    """Ways to ask for a picture; the plain name first."""
    names = [name for name in picture.names if colour is None or not COLOURS & set(name.split())]
    plain = [f"{colour} {name}" if colour else name for name in names]
    said = [way for name in plain for way in [name, article(name)]] + [f"the {plain[0]}"]
    while len(said) < CAPTIONS:
        name = rng.choice(names) if rng.random() < 0.7 else names[0]
        style = rng.choice(STYLES) if rng.random() < 0.25 else None
        thing = " ".join(part for part in [style, colour, name] if part)
        roll = rng.random()
        if colour and roll < 0.15:
            verb = "are" if is_many(name) else "is"
            said.append(rng.choice([f"{name} in {colour}", f"{name}, {colour}", f"{article(name)} that {verb} {colour}"]))
        elif picture.words and not colour and roll < 0.15:
            said.append(", ".join([thing, *rng.sample(picture.words, min(len(picture.words), rng.randint(1, 2)))]))
        elif roll < 0.25:
            said.append(rng.choice([f"{thing} emoji", thing]))
        else:
            said.append(rng.choice(FRAMES).format(article(thing)))
    return list(dict.fromkeys(said))


def turns(picture: Picture) -> dict[str, float]:
    """Where the picture has one colour that its name does not tell: by how many degrees its hue is from the others."""
    own = dominant(picture.image) if picture.group not in (PEOPLE, SYMBOLS) else None
    if own is None or COLOURS & set(picture.names[0].split()):
        return {}
    return {name: hue - own for name, hue in HUES.items() if abs((hue - own + 180) % 360 - 180) > 25}


def own_colour(picture: Picture) -> str | None:
    """What colour it is, where other colours make copies of it."""
    hue = dominant(picture.image) if turns(picture) else None
    return nearest(hue) if hue is not None else None


def with_colours(picture: Picture, held_out: set[tuple[str, str]], rng: random.Random) -> Iterator[Picture]:
    """The picture, and its copies in other colours but for those that are held out."""
    picture.captions = phrasings(picture, None, rng)
    own = own_colour(picture)
    if own:
        picture.captions += phrasings(picture, own, rng)[: CAPTIONS // 3]
    yield picture
    for name, degrees in turns(picture).items():
        if (name, picture.names[0]) not in held_out:
            copy = replace(picture, code=f"{picture.code}-{name}", image=turned(picture.image, degrees))
            copy.captions = phrasings(picture, name, rng)
            yield copy


def in_colours(picture: Picture, held_out: set[tuple[str, str]]) -> list[Thing]:
    """What pairs are made of: the picture, and its copies in other colours but for those that are held out.

    Nothing is called orange for its hue, which brown and golden things have too.
    """
    own = own_colour(picture)
    drawn = with_alpha(picture.drawn)
    things = [Thing(picture.names, drawn, own=None if own == "orange" else own)]
    names = [name for name in picture.names if not TINTS & set(name.split())]
    for colour, degrees in turns(picture).items():
        if (colour, picture.names[0]) not in held_out:
            things.append(Thing(names, drawn, other=colour, turn=degrees))
    return things


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True, help="the folder to write; must not exist")
    arguments.add_argument("--packages", type=Path, help="the folder with the packages' archives")
    arguments.add_argument("--registry", default=REGISTRY, help="where packages are fetched from")
    arguments.add_argument("--format", choices=FORMATS, default="png", help="WebP loses a little, and is a quarter of PNG")
    arguments.add_argument("--pairs", type=int, default=7000, help="how many pictures of two things; 0 for none")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    if given.out.exists():
        raise SystemExit(f"{given.out} is there already")
    rng = random.Random(given.seed)
    prompts = json.loads(PROMPTS.read_text())
    held_out = {(one["colour"], one["name"]) for one in prompts["held_out"]}
    combinations = [one["things"] for one in prompts["combined"]]
    often = {name: many for kind, many in OFTEN.items() for one in prompts[kind] for name in one["names"]}
    everything = list(pictures(archives(given.packages, given.registry)))
    known = {one.names[0]: in_colours(one, held_out) for one in everything if one.names[0] in NAMES}
    with tempfile.TemporaryDirectory(dir=given.out.parent) as scratch:
        folder = Path(scratch, "data")
        folder.mkdir()
        with (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:

            def write(code: str, image: Image.Image, about: dict[str, Any]) -> None:
                file = f"{code}.{given.format}"
                image.save(folder / file, **FORMATS[given.format])
                lines.write(json.dumps({"file_name": file, **about}, ensure_ascii=False) + "\n")

            count = 0
            for picture in everything:
                for copy in with_colours(picture, held_out, rng):
                    write(copy.code, copy.image, {"text": copy.captions})
                    count += 1
            for pair in pairs(known, combinations, often, given.pairs, SIDE, given.seed):
                write(pair.code, pair.image, {"text": pair.captions, "things": pair.things})
                count += 1
        folder.rename(given.out)
    print(f"{count} pictures in {given.out}")


if __name__ == "__main__":
    main()
