"""What the notebooks share: running `zoo`, reading what it writes, and drawing pictures to learn from."""

import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
ZOO = os.environ.get("ZOO", str(HERE.parent / "target/release/zoo"))
RUNS = HERE / "runs"
"""Where everything goes; not kept in git."""

SIDE = 16
COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 70), "blue": (50, 90, 220), "yellow": (240, 200, 40),
    "purple": (150, 60, 190), "orange": (240, 130, 30), "black": (30, 30, 30), "pink": (245, 130, 180),
}
SHAPES = ["circle", "square", "triangle", "cross", "ring", "heart"]


def zoo(*arguments):
    """Runs `zoo`; its events, one dict a line of its output."""
    command = [ZOO, "--json-events", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        raise RuntimeError(done.stderr or events[-1]["message"])
    return events


def log(folder):
    """The log of a training as arrays, by name."""
    entries = [json.loads(line) for line in (Path(folder) / "log.jsonl").open()]
    return {name: np.array([entry[name] for entry in entries]) for name in ("step", "loss", "norm", "rate", "seconds")}


class Trace:
    """A folder that `zoo trace` wrote."""

    def __init__(self, folder):
        self.folder = Path(folder)
        index = json.loads((self.folder / "index.json").read_text())
        self.request, self.entries = index["request"], index["activations"]

    def find(self, path, step=None, condition="towards"):
        """The activations of a path, of one step or in order, under one condition."""
        for entry in self.entries:
            if entry["path"] == path and step in (None, entry.get("step")) and entry.get("condition", condition) == condition:
                yield np.load(self.folder / entry["file"])


def picture(path):
    """`[H, W, 3]` of 0 to 255."""
    return np.asarray(Image.open(path).convert("RGB")).astype(float)


def pictures(folder):
    """The pictures of a folder and their texts, as its `metadata.jsonl` has them."""
    lines = [json.loads(line) for line in (Path(folder) / "metadata.jsonl").open()]
    return [picture(Path(folder) / line["file_name"]) for line in lines], [line["text"] for line in lines]


def show(axes, pixels, title=""):
    """A picture without axes, its pixels as squares."""
    axes.imshow(pixels.astype(np.uint8), interpolation="nearest")
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])


def draw(shape, colour, draws):
    """A shape of a random size at a random place, drawn large and made small."""
    side = SIDE * 8
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    r = side * draws.uniform(0.32, 0.4)
    x, y = (side * (0.5 + draws.uniform(-0.04, 0.04)) for _ in "xy")

    def disc(x, y, r, fill):
        pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    match shape:
        case "circle":
            disc(x, y, r, colour)
        case "square":
            pen.rectangle([x - r * 0.85, y - r * 0.85, x + r * 0.85, y + r * 0.85], fill=colour)
        case "triangle":
            pen.polygon([(x, y - r), (x + r, y + r * 0.8), (x - r, y + r * 0.8)], fill=colour)
        case "cross":
            pen.rectangle([x - r, y - r * 0.3, x + r, y + r * 0.3], fill=colour)
            pen.rectangle([x - r * 0.3, y - r, x + r * 0.3, y + r], fill=colour)
        case "ring":
            disc(x, y, r, colour)
            disc(x, y, r * 0.55, "white")
        case "heart":
            for sign in (-1, 1):
                disc(x + sign * r * 0.45, y - r * 0.3, r * 0.5, colour)
            pen.polygon([(x - r * 0.93, y - r * 0.05), (x + r * 0.93, y - r * 0.05), (x, y + r)], fill=colour)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def draw_all(folder, each, seed=0):
    """Draws so many pictures of every shape in every colour, with captions, as `zoo train` reads them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draws = random.Random(seed)
    with (folder / "metadata.jsonl").open("w") as lines:
        for shape in SHAPES:
            for name, colour in COLOURS.items():
                for i in range(each):
                    file = f"{name}-{shape}-{i}.png"
                    draw(shape, colour, draws).save(folder / file)
                    text = [f"a {name} {shape}", f"{name} {shape}"]
                    lines.write(json.dumps({"file_name": file, "text": text}) + "\n")
