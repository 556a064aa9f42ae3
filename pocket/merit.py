"""How often Pocket paints what it is asked for, as a classifier sees it that had no part in its training.

    python3 -m pip install -r pocket/requirements.txt torch==2.15.0
    python3 pocket/merit.py check --data pocket/data
    python3 pocket/merit.py train --data pocket/data --out classifier.pt
    python3 pocket/merit.py score --classifier classifier.pt --json merit.json generated generated-8-bit

`check` holds `prompts.json` to the captions. `train` teaches a small residual network the names of the real pictures, each
seen moved, turned, blurred, compressed and noisy, and says how well it knows them. `score` shows it folders of generated
pictures and prints a table. A folder has pictures and a `metadata.jsonl`, a line a picture, any number a prompt:

    {"file_name": "picture-1.png", "text": "a red heart"}

A class is what a picture is called. Skin tones of one emoji are one class, and so are pictures that look the same; copies in
other colours are classes of their own, those that the data holds out among them.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from colours import HUES, dominant, turned
from data import PROMPTS, without_tone
from pairs import is_called, is_held_out, words

Change = Callable[[Tensor], Tensor]
SIDE = 64
WIDTHS = (32, 64, 128, 256)
ALIKE = 1.5
"""The mean distance of pixels, of 255, below which pictures of two names are one class."""
LINE = '{"file_name": "picture-1.png", "text": "a red heart"}'
GROUPS = {"in_data": "in the data", "held_out": "colours held out", "combined": "combinations"}


def opened(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def seen(image: Image.Image) -> Tensor:
    """u8 `[3, 64, 64]`."""
    return torch.from_numpy(np.array(image.resize((SIDE, SIDE), Image.Resampling.BOX))).movedim(-1, 0)


def lines(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "metadata.jsonl"
    if not path.exists():
        raise SystemExit(f"{path} is not there; it has a line a picture: {LINE}")
    with path.open(encoding="utf-8") as text:
        yield from map(json.loads, text)


def prompts() -> dict[str, list[dict[str, Any]]]:
    """By group; each has the names that are right."""
    found = json.loads(PROMPTS.read_text())
    for one in found["held_out"]:
        one["names"] = [f"{one['colour']} {one['name']}"]
    return found


# ---- Classes


@dataclass
class Real:
    """Real pictures, u8 `[N, 3, 64, 64]`, the class of each, and the names of each class."""

    pictures: Tensor
    classes: Tensor
    names: list[list[str]]

    def first(self, name: str) -> Tensor | None:
        """The first picture of a name."""
        of = next((place for place, names in enumerate(self.names) if name in names), None)
        return None if of is None else self.pictures[(self.classes == of).nonzero()[0, 0]]


def real(folder: Path, most: int | None) -> Real:
    """Every thing in a data set and what it holds out; with `most`, what prompts ask for and so many other names."""
    held_out = {one["name"]: one["colour"] for one in prompts()["held_out"]}
    pictures, names = [], []
    asked = {name for group in prompts().values() for one in group for name in one["names"]} | set(held_out)
    others: dict[str, None] = {}
    for line in lines(folder):
        if "things" in line:
            continue
        name = without_tone(line["text"][0])
        if most is not None and name not in asked:
            if name not in others and len(others) == most:
                continue
            others[name] = None
        image = opened(folder / line["file_name"])
        pictures.append(seen(image))
        names.append(name)
        if name in held_out:
            colour = held_out[name]
            pictures.append(seen(turned(image, HUES[colour] - dominant(image))))
            names.append(f"{colour} {name}")
    return merged(torch.stack(pictures), names)


def merged(pictures: Tensor, names: list[str]) -> Real:
    """Names whose pictures look the same become one class."""
    leader = {name: name for name in names}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    small = F.avg_pool2d(pictures.float(), 2).flatten(1)
    for start in range(0, len(names), 256):
        apart = torch.cdist(small[start : start + 256], small, p=1) / small.shape[1]
        for one, other in (apart < ALIKE).nonzero().tolist():
            leader[lead(names[other])] = lead(names[start + one])
    leaders = [lead(name) for name in names]
    place = {name: number for number, name in enumerate(dict.fromkeys(leaders))}
    of = [list(dict.fromkeys(name for name, by in zip(names, leaders) if by == leading)) for leading in place]
    return Real(pictures, torch.tensor([place[name] for name in leaders]), of)


# ---- What happens to a picture before it is seen

LUMA = """
    16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""
CHROMA = """
    17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
"""
YCC = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]


def between(low: float, high: float, like: Tensor) -> Tensor:
    """A number for each picture, `[B, 1, 1, 1]`."""
    return low + (high - low) * torch.rand(len(like), 1, 1, 1, device=like.device)


def moved(x: Tensor) -> Tensor:
    """Turned by up to 10°, scaled by up to a sixth, shifted by up to a tenth; what comes in is 0."""
    bounds = [(-math.pi / 18, math.pi / 18), (0.86, 1.17), (-0.2, 0.2), (-0.2, 0.2)]
    angle, scale, dx, dy = (between(*bound, x).flatten() for bound in bounds)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    way = torch.stack([torch.stack([cos, -sin, dx], -1), torch.stack([sin, cos, dy], -1)], 1)
    return F.grid_sample(x, F.affine_grid(way, list(x.shape), align_corners=False), align_corners=False)


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """By a Gaussian of so many pixels, `[B, 1, 1, 1]`."""
    place = torch.arange(x.shape[-1], device=x.device)
    matrix = torch.exp(-0.5 * ((place[:, None] - place) / sigma.clamp(min=0.05)) ** 2)
    matrix = matrix / matrix.sum(-1, keepdim=True)
    return matrix @ x @ matrix.mT


def compressed(x: Tensor, quality: Tensor) -> Tensor:
    """As JPEG does it, without thinning out the colours."""
    place = torch.arange(8, device=x.device)
    cosines = torch.cos(math.pi / 8 * place[:, None] * (place + 0.5)) * 0.5
    cosines[0] /= math.sqrt(2)
    ycc = torch.tensor(YCC, device=x.device)
    tables = [[float(step) for step in table.split()] for table in (LUMA, CHROMA, CHROMA)]
    steps = torch.tensor(tables, device=x.device).view(3, 1, 8, 1, 8) / 255
    steps = steps * torch.where(quality < 50, 50 / quality, 2 - quality / 50)[..., None, None].clamp(min=0.02)
    blocks = torch.einsum("ij,bjyx->biyx", ycc, x).unflatten(3, (-1, 8)).unflatten(2, (-1, 8))
    waves = torch.einsum("ui,vj,bcyixj->bcyuxv", cosines, cosines, blocks)
    waves = (waves / steps).round() * steps
    blocks = torch.einsum("ui,vj,bcyuxv->bcyixj", cosines, cosines, waves)
    return torch.einsum("ij,bjyx->biyx", torch.linalg.inv(ycc), blocks.flatten(4).flatten(2, 3))


def plain(pictures: Tensor) -> Tensor:
    """u8 as f32 in 0..1."""
    return pictures.float() / 255


def soft(pictures: Tensor) -> Tensor:
    """Blurred by one of the 64 pixels."""
    return 1 - blurred(1 - plain(pictures), torch.ones(len(pictures), 1, 1, 1, device=pictures.device))


def augmented(pictures: Tensor) -> Tensor:
    """u8 `[B, 3, H, W]` as f32 in 0..1, as a generator and a codec might leave them. Colours keep their names."""
    x = 1 - plain(pictures)
    x = blurred(moved(x), between(0, 1.2, x))
    x = 1 - x * between(0.9, 1.1, x) * (1 + 0.06 * (2 * torch.rand(len(x), 3, 1, 1, device=x.device) - 1))
    x = torch.where(between(0, 1, x) < 0.5, compressed(x, between(30, 95, x)), x)
    return (x + between(0, 0.05, x) * torch.randn_like(x)).clamp(0, 1)


# ---- The classifier


class Residual(nn.Module):
    """x + conv(relu(norm(conv(x)))), normalised."""

    def __init__(self, given: int, dim: int) -> None:
        super().__init__()
        stride = 1 if given == dim else 2
        self.inner = nn.Sequential(
            nn.Conv2d(given, dim, 3, stride, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(),
            nn.Conv2d(dim, dim, 3, 1, 1, bias=False), nn.BatchNorm2d(dim),
        )  # fmt: skip
        self.skip = nn.Identity() if given == dim else nn.Conv2d(given, dim, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.skip(x) + self.inner(x))


class Classifier(nn.Module):
    """f32 `[B, 3, 64, 64]` in 0..1 to logits `[B, classes]`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, WIDTHS[0], 5, 2, 2, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
        pairs = zip((WIDTHS[0], *WIDTHS), WIDTHS)
        body = [block for given, dim in pairs for block in (Residual(given, dim), Residual(dim, dim))]
        self.features = nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1))
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(2 * x - 1))


def told(model: Classifier, pictures: Tensor, change: Change = plain) -> Tensor:
    """The probabilities of the classes, `[N, classes]`, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        parts = [model(change(part.to(device))).softmax(-1).cpu() for part in pictures.split(256)]
    return torch.cat(parts)


def taught(known: Real, steps: int, batch: int, minutes: float, device: torch.device) -> Classifier:
    """Each step has as many pictures of one class as of another. The rate falls to 0 with the steps or the time."""
    torch.manual_seed(0)
    model = Classifier(len(known.names)).to(device)
    pictures = known.pictures.to(device)
    order = known.classes.argsort()
    counts = known.classes.bincount()
    starts = counts.cumsum(0) - counts
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    chosen = torch.Generator().manual_seed(1)
    begin, step, done = time.perf_counter(), 0, 0.0
    while done < 1:
        model.train()
        which = torch.randint(len(counts), (batch,), generator=chosen)
        within = (torch.rand(batch, generator=chosen) * counts[which]).long()
        picks = order[starts[which] + within]
        shown = augmented(pictures[picks.to(device)])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(shown)
        loss = F.cross_entropy(logits.float(), which.to(device), label_smoothing=0.1)
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        done = max(step / steps, (time.perf_counter() - begin) / (60 * minutes))
        if step % 100 == 0 or done >= 1:
            spent = time.perf_counter() - begin
            print(f"step {step}, {100 * done:.0f} %: loss {loss.item():.3f}, {spent:.0f} s", flush=True)
    return model


def train(options: argparse.Namespace) -> None:
    known = real(options.data, options.others)
    together = [names for names in known.names if len(names) > 1]
    print(f"{len(known.pictures)} pictures, {len(known.names)} classes; alike: {together}")
    model = taught(known, options.steps, options.batch, options.minutes, torch.device(options.device))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"names": known.names, "state": model.cpu().state_dict()}, options.out)

    def share(classes: Tensor, change: Change) -> str:
        return f"{100 * (told(model, known.pictures, change).argmax(-1) == classes).float().mean():.1f} %"

    model.to(options.device)
    torch.manual_seed(2)
    print(f"of real pictures: {share(known.classes, plain)}")
    print(f"blurred by 2 of 128 pixels: {share(known.classes, soft)}")
    print(f"varied as never before: {share(known.classes, augmented)}")
    print(f"with another's name: {share(known.classes.roll(1 + len(known.classes) // 2), plain)}")
    firsts = {one["prompt"]: known.first(one["names"][0]) for group in prompts().values() for one in group}
    best = told(model, torch.stack([one for one in firsts.values() if one is not None]))
    marks = marked(best, [prompt for prompt, one in firsts.items() if one is not None], known.names)
    print(f"of the prompts' real pictures: {summary(marks)}")


# ---- Scores


def marked(shares: Tensor, asked: list[str], names: list[list[str]]) -> list[dict[str, Any]]:
    """For each prompt, over its pictures: how often the first and one of five are right, and what was seen."""
    marks = []
    for group, of in prompts().items():
        for one in of:
            right = torch.tensor([bool(set(one["names"]) & set(alike)) for alike in names])
            picks = [place for place, prompt in enumerate(asked) if prompt == one["prompt"]]
            best = shares[picks].topk(min(5, shares.shape[1])).indices
            marks.append({
                "prompt": one["prompt"], "group": group, "pictures": len(picks),
                "top1": right[best[:, 0]].float().mean().item(), "top5": right[best].any(-1).float().mean().item(),
                "seen": [names[place][0] for place in best[:, 0].tolist()],
                "sure": shares[picks][:, right].sum(-1).mean().item(),
            })  # fmt: skip
    return marks


def mean(marks: list[dict[str, Any]], group: str, key: str) -> float:
    values = [mark[key] for mark in marks if mark["group"] == group]
    return sum(values) / len(values)


def means_of(marks: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {group: {key: mean(marks, group, key) for key in ("top1", "top5")} for group in GROUPS}


def summary(marks: list[dict[str, Any]]) -> str:
    parts = [f"{label} {100 * mean(marks, group, 'top1'):.1f} %" for group, label in GROUPS.items()]
    return ", ".join(parts)


def marks_of(model: Classifier, names: list[list[str]], folder: Path) -> list[dict[str, Any]]:
    """The marks of a folder of generated pictures."""
    wanted = {one["prompt"] for group in prompts().values() for one in group}
    made = [line for line in lines(folder) if line["text"] in wanted]
    missing = wanted - {line["text"] for line in made}
    if missing:
        which = ", ".join(sorted(missing))
        raise SystemExit(f"{folder} has no picture of {len(missing)} of {len(wanted)} prompts: {which}")
    shares = told(model, torch.stack([seen(opened(folder / line["file_name"])) for line in made]))
    return marked(shares, [line["text"] for line in made], names)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: how often the first is right and one of five is, by group; then every prompt."""
    percent = lambda share: f"{100 * share:.1f} %"
    rows = [["", *found], ["---"] * (1 + len(found))]
    for group, label in GROUPS.items():
        for key, what in [("top1", "first"), ("top5", "among five")]:
            rows.append([f"{label}, {what}", *(percent(mean(marks, group, key)) for marks in found.values())])
    rows += [[], ["prompt", *found], ["---"] * (1 + len(found))]
    for marks in zip(*found.values()):
        cells = (f"{percent(mark['top1'])}: {', '.join(dict.fromkeys(mark['seen']))}" for mark in marks)
        rows.append([marks[0]["prompt"], *cells])
    return "\n".join(f"| {' | '.join(cells)} |" if cells else "" for cells in rows)


def score(options: argparse.Namespace) -> None:
    kept = torch.load(options.classifier, map_location="cpu", weights_only=True)
    model = Classifier(len(kept["names"]))
    model.load_state_dict(kept["state"])
    found = {str(folder): marks_of(model, kept["names"], folder) for folder in options.pictures}
    print(table(found))
    first, *others = found
    for other in others:
        apart = mean(found[other], "in_data", "top1") - mean(found[first], "in_data", "top1")
        print(f"\n{other} beside {first}, in the data, first: {100 * apart:+.1f} points")
    if options.json:
        means = {folder: means_of(marks) for folder, marks in found.items()}
        options.json.write_text(json.dumps({"means": means, "prompts": found}, indent=1, ensure_ascii=False) + "\n")


# ---- Prompts


def check(options: argparse.Namespace) -> None:
    """Every prompt is a caption that only its names have, or is in no caption in any words and in no pair under any name."""
    named: dict[str, set[str]] = {}
    pairs: list[dict[str, Any]] = []
    for line in lines(options.data):
        if "things" in line:
            pairs.append(line)
            continue
        for caption in line["text"]:
            named.setdefault(caption, set()).add(without_tone(line["text"][0]))
    every = set().union(*named.values())
    held = prompts()
    problems = []
    for one in held["in_data"] + held["combined"]:
        problems += [f"{one['prompt']}: no emoji is called {name}" for name in set(one["names"]) - every]
    for one in held["in_data"]:
        found = named.get(one["prompt"], set())
        if not found or found - set(one["names"]):
            problems.append(f"{one['prompt']}: the data have it for {sorted(found) or 'nothing'}")
    unsaid = words("a an the and with")
    for one in held["held_out"] + held["combined"]:
        same = [caption for caption in named if words(one["prompt"]) - unsaid <= words(caption)]
        if same:
            problems.append(f"{one['prompt']}: the data have {same[0]!r}")
    for pair in pairs:
        for one in held["held_out"]:
            if any(is_called(names, f"{one['colour']} {one['name']}") for names in pair["things"]):
                problems.append(f"{one['prompt']}: a pair has it, {pair['text'][0]!r}")
        for one in held["combined"]:
            if one["prompt"] in pair["text"] or is_held_out(pair["things"], [one["things"]]):
                problems.append(f"{one['prompt']}: the data have {pair['text'][0]!r}")
    if problems:
        raise SystemExit("\n".join(problems))
    print(", ".join(f"{len(held[group])} {label}" for group, label in GROUPS.items()) + f"; {len(pairs)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    of = commands.add_parser("check", help="hold the prompts to the captions")
    of.set_defaults(run=check)
    of.add_argument("--data", type=Path, required=True, help="the folder that data.py wrote")

    of = commands.add_parser("train", help="train the classifier")
    of.set_defaults(run=train)
    of.add_argument("--data", type=Path, required=True, help="the folder that data.py wrote")
    of.add_argument("--out", type=Path, required=True, help="the file to write")
    of.add_argument("--minutes", type=float, default=2 if device == "cuda" else 15, help="at most so long")
    of.add_argument("--steps", type=int, default=6000, help="at most so many")
    of.add_argument("--batch", type=int, default=256)
    of.add_argument("--others", type=int, help="only the names that prompts ask for and so many others, as a trial")
    of.add_argument("--device", default=device)

    of = commands.add_parser("score", help="score generated pictures")
    of.set_defaults(run=score)
    of.add_argument("--classifier", type=Path, required=True, help="what `train` wrote")
    of.add_argument("--json", type=Path, help="write the scores here, too")
    of.add_argument("pictures", type=Path, nargs="+", help="folders; the first is what others are compared with")

    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
