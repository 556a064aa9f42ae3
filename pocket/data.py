"""The pictures and captions that Pocket learns from.

    python3 -m pip install -r pocket/requirements.txt
    python3 pocket/data.py --out pocket-data

fetches three npm packages (`npm pack`; or takes their archives from `--packages`), and writes a folder of 128 × 128 PNG
files with a `metadata.jsonl` beside them, a line a picture: `{"file_name": …, "text": [captions…]}`.

Pictures are Microsoft's Fluent Emoji (MIT, packed by LobeHub), laid over white, flags left out. Names and keywords are
Unicode's, by emojibase-data and emojilib (both MIT). Two things are added, so that people's phrasing works and colours
mean something: phrasings (articles, order, synonyms, words of style), and copies with the hue turned, whose captions
begin with the colour. The same seed gives the same folder.
"""

import argparse
import io
import json
import random
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PACKAGES = {
    "pictures": "@lobehub/fluent-emoji-3d@1.1.0",
    "names": "emojibase-data@17.0.0",
    "keywords": "emojilib@4.0.3",
}
SIDE = 128
CAPTIONS = 24
PEOPLE, SYMBOLS, FLAGS = 1, 8, 9
HUES = {"red": 0, "orange": 28, "yellow": 52, "green": 120, "blue": 215, "purple": 275, "pink": 325}
"""Degrees."""
COLOURS = {*HUES, "black", "white", "brown", "grey", "gray", "light blue"}
SYNONYMS = {
    "deciduous tree": ["tree", "leafy tree", "green tree"],
    "evergreen tree": ["pine tree", "fir tree", "conifer"],
    "sun": ["yellow sun", "bright sun", "shining sun"],
    "sun with face": ["sun", "smiling sun"],
    "automobile": ["car", "red car"],
    "oncoming automobile": ["car from the front"],
    "sport utility vehicle": ["suv", "blue car"],
    "grinning face": ["smiley", "smile", "happy face", "smiley face"],
    "slightly smiling face": ["smile", "smiling face", "smiley face"],
    "smiling face with smiling eyes": ["happy face", "blushing smile"],
    "face with tears of joy": ["laughing face", "crying with laughter", "laughing emoji"],
    "loudly crying face": ["crying face", "sad crying face"],
    "smiling face with sunglasses": ["cool face", "face with sunglasses"],
    "smiling face with heart-eyes": ["heart eyes", "face in love"],
    "pile of poo": ["poop", "poo"],
    "hot beverage": ["coffee", "cup of coffee", "cup of tea"],
    "beer mug": ["beer", "glass of beer"],
    "french fries": ["fries", "chips"],
    "soft ice cream": ["ice cream", "ice cream cone"],
    "shortcake": ["slice of cake", "piece of cake"],
    "birthday cake": ["cake"],
    "doughnut": ["donut"],
    "rocket": ["space rocket", "spaceship"],
    "airplane": ["plane", "aeroplane"],
    "cat face": ["cat", "kitty"],
    "dog face": ["dog", "puppy"],
    "house with garden": ["house and garden"],
    "mobile phone": ["phone", "smartphone", "cell phone"],
    "laptop": ["computer", "notebook computer"],
    "soccer ball": ["football", "ball"],
    "american football": ["football"],
    "wrapped gift": ["gift", "present"],
    "glowing star": ["shining star"],
    "high voltage": ["lightning", "lightning bolt", "flash"],
    "collision": ["explosion", "bang"],
    "bouquet": ["flowers", "bunch of flowers"],
    "eyeglasses": ["glasses"],
    "t-shirt": ["shirt", "tee"],
    "running shoe": ["sneaker", "trainer", "shoe"],
    "red apple": ["apple"],
    "ghost": ["spooky ghost"],
}
STYLES = ["3d", "cute", "shiny", "glossy", "cartoon", "colourful", "little"]
FRAMES = ["{}", "{}", "{}", "{}", "an emoji of {}", "a picture of {}", "{} on a white background", "an icon of {}", "draw {}"]
TONE = re.compile(r"^(?P<name>.*?)(?:: (?P<tone>[a-z-]+(?:, [a-z-]+)*) skin tone)?(?:: (?P<rest>.*))?$")


@dataclass
class Picture:
    """An emoji: its image, what it is called, and what else it brings to mind."""

    code: str
    image: Image.Image
    names: list[str]
    words: list[str]
    group: int
    colour: str | None = None
    captions: list[str] = field(default_factory=list)


def archives(given: Path | None, into: Path) -> dict[str, tarfile.TarFile]:
    """The packages, fetched where they are not given."""
    found = {}
    for part, package in PACKAGES.items():
        name, _, version = package.lstrip("@").replace("/", "-").rpartition("@")
        file = f"{name}-{version}.tgz"
        path = (given or into) / file
        if given is None:
            subprocess.run(["npm", "pack", "--silent", package], cwd=into, check=True, stdout=subprocess.DEVNULL)
        if not path.exists():
            raise SystemExit(f"{path} is missing: `npm pack {package}` writes it")
        found[part] = tarfile.open(path)
    return found


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


def over_white(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def names_of(label: str) -> list[str]:
    """A label as people would say it, and its synonyms."""
    parts = TONE.match(label.lower())
    assert parts is not None
    name = parts["name"].replace("’", "'").replace("“", "").replace("”", "")
    told = [name, *SYNONYMS.get(name, [])]
    if parts["rest"]:
        told = [f"{name} with {parts['rest']}"]
    if parts["tone"]:
        tones = parts["tone"].split(", ")
        told = [f"{name} with {' and '.join(tones)} skin" for name in told]
    return told


def pictures(packages: dict[str, tarfile.TarFile]) -> Iterator[Picture]:
    """Every emoji that has a name and is no flag."""
    names = named(packages["names"])
    keywords = {
        "-".join(f"{ord(point):X}" for point in emoji if point != "\ufe0f"): words
        for emoji, words in json.loads(read(packages["keywords"], "dist/emoji-en-US.json")).items()
    }
    for code, member in sorted({key(Path(name).stem): name for name in packages["pictures"].getnames()}.items()):
        emoji = names.get(code)
        if not member.endswith(".webp") or emoji is None or emoji.get("group") in (FLAGS, None):
            continue
        more = [word.replace("_", " ") for word in keywords.get(code, [])]
        said = names_of(emoji["label"])
        told = {word for name in said for word in [name, *name.split()]}
        words = [word for word in [*(emoji["tags"] or []), *more] if re.fullmatch(r"[a-z][a-z' -]{2,}", word)]
        words = [word for word in dict.fromkeys(words) if word not in told]
        image = over_white(read(packages["pictures"], member.removeprefix("package/")))
        yield Picture(code.lower(), image, said, words, emoji["group"])


def hsv(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("HSV"), dtype=np.int32)


def dominant(image: Image.Image) -> float | None:
    """The hue, in degrees, that most of the coloured pixels are near; none of what is grey, dull or has no one colour."""
    hue, saturation, value = np.moveaxis(hsv(image), -1, 0)
    coloured = (saturation > 60) & (value > 60)
    weight = saturation * value / 255.0**2 * coloured
    if weight.sum() < 0.04 * weight.size or weight.sum() < 0.4 * coloured.sum():
        return None
    mean = (weight * np.exp(2j * np.pi * hue / 256)).sum() / weight.sum()
    return None if abs(mean) < 0.6 else float(np.degrees(np.angle(mean)) % 360)


def nearest(hue: float) -> str | None:
    """The colour that a hue would be called, unless it is between two."""
    apart = {name: abs((hue - at + 180) % 360 - 180) for name, at in HUES.items()}
    name = min(apart, key=apart.__getitem__)
    return name if apart[name] <= 18 else None


def turned(image: Image.Image, degrees: float) -> Image.Image:
    pixels = hsv(image)
    pixels[..., 0] = (pixels[..., 0] + round(degrees * 256 / 360)) % 256
    return Image.fromarray(pixels.astype(np.uint8), "HSV").convert("RGB")


def article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def phrasings(names: list[str], words: list[str], colour: str | None, rng: random.Random) -> list[str]:
    """Ways to ask for a picture; the plain name first."""
    first = f"{colour} {names[0]}" if colour else names[0]
    said = [first, article(first), f"the {first}"]
    while len(said) < CAPTIONS:
        name = rng.choice(names) if rng.random() < 0.7 else names[0]
        style = rng.choice(STYLES) if rng.random() < 0.25 else None
        parts = [part for part in [style, colour] if part]
        rng.shuffle(parts)
        thing = " ".join([*parts, name])
        roll = rng.random()
        if colour and roll < 0.15:
            thing = rng.choice([f"{name} in {colour}", f"{name}, {colour}", f"{article(name)} that is {colour}"])
        elif words and roll < 0.3 and not colour:
            extra = rng.sample(words, min(len(words), rng.randint(1, 2)))
            thing = rng.choice([f"{thing}, {', '.join(extra)}", f"{extra[0]} {thing}", f"{', '.join(extra)}, {thing}"])
        elif roll < 0.75:
            thing = article(thing)
        said.append(rng.choice(FRAMES).format(thing))
    return list(dict.fromkeys(said))


def with_colours(picture: Picture, rng: random.Random) -> Iterator[Picture]:
    """The picture, and where it has one colour that its name does not tell, copies in other colours."""
    own = dominant(picture.image) if picture.group not in (PEOPLE, SYMBOLS) else None
    coloured = any(colour in picture.names[0].split() for colour in COLOURS)
    picture.captions = phrasings(picture.names, picture.words, None, rng)
    colour = nearest(own) if own is not None and not coloured else None
    if colour:
        picture.captions += phrasings(picture.names, picture.words, colour, rng)[: CAPTIONS // 3]
    yield picture
    if own is None or coloured:
        return
    for name, hue in HUES.items():
        if abs((hue - own + 180) % 360 - 180) > 25:
            copy = Picture(f"{picture.code}-{name}", turned(picture.image, hue - own), picture.names, [], picture.group, name)
            copy.captions = phrasings(picture.names, [], name, rng)
            yield copy


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True, help="the folder to write; must not exist")
    arguments.add_argument("--packages", type=Path, help="the folder with the packages' archives")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    if given.out.exists():
        raise SystemExit(f"{given.out} is there already")
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory(dir=given.out.parent) as scratch:
        folder = Path(scratch, "data")
        folder.mkdir()
        with (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:
            count = 0
            for picture in pictures(archives(given.packages, Path(scratch))):
                for copy in with_colours(picture, rng):
                    copy.image.save(folder / f"{copy.code}.png")
                    line = {"file_name": f"{copy.code}.png", "text": copy.captions}
                    lines.write(json.dumps(line, ensure_ascii=False) + "\n")
                    count += 1
        folder.rename(given.out)
    print(f"{count} pictures in {given.out}")


if __name__ == "__main__":
    main()
