"""Writes the tables of `docs/performance.md` from the measurements in `benches/results/`, so that they cannot differ.

    python3 benches/tables.py            # writes them
    python3 benches/tables.py --check    # fails where they are not what this would write

The table of `results/NAME.json` stands between the lines `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import json
import re
import statistics
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[1] / "docs/performance.md"
PLACE = re.compile(r"(?<=<!-- table: )([\w.-]+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: list[float], unit: str = "") -> list[str]:
    space = f" {unit}" if unit else ""
    return [f"{number(statistics.median(values))}{space}", f"{number(min(values))} to {number(max(values))}{space}"]


def named(run: dict) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
    return f"{run['name']} ({versions})"


def place(report: dict) -> str:
    cores = f", {report['cores']} cores" if report.get("cores") else ""
    driver = f", driver {report['driver']}" if report.get("driver") else ""
    return f"{report['device']}{cores}{driver}, commit {report['commit']}"


def block(report: dict) -> tuple[str, list[list[str]]]:
    first = statistics.median(report["runs"][0]["milliseconds"])
    rows = [["", "median", "least to most", "of ours", "GFLOP/s", "difference"]]
    for run in report["runs"]:
        median = statistics.median(run["milliseconds"])
        difference = "" if run["difference"] is None else f"{run['difference']:.1e}"
        share = f"{median / first:.2f}"
        rate = number(report["operations"] / median / 1e6)
        rows.append([named(run), *spread(run["milliseconds"], "ms"), share, rate, difference])
    count = len(report["runs"][0]["milliseconds"])
    heading = (
        f"One block of `{report['model']}`, {report['tokens']} tokens, f32, the same random weights; {place(report)}; "
        f"{count} samples of each, in turn. Difference: relative L2 of the last token's output to ours."
    )
    return heading, rows


def language(report: dict) -> tuple[str, list[list[str]]]:
    rows = [["", "prefill, tokens/s", "lowest to highest", "decode, tokens/s", "lowest to highest", "peak memory", "load"]]
    rates = {
        run["name"]: [[report[tokens] / time for time in run[key]] for key, tokens in KEYS] for run in report["runs"]
    }
    for run in report["runs"]:
        prefill, decode = rates[run["name"]]
        memory = f"{number(run['peak'] / 1e9)} GB"
        rows.append([named(run), *spread(prefill), *spread(decode), memory, f"{number(run['load'])} s"])
    medians = [[statistics.median(of) for of in rates[run["name"]]] for run in report["runs"]]
    ratios = [number(ours / theirs) for ours, theirs in zip(*medians)]
    rows.append(["ratio", ratios[0], "", ratios[1], "", "", ""])
    count = len(report["runs"][0]["prefill"])
    heading = (
        f"`{report['model']}`, random weights of {report['bits']} bits, computed in {report['runs'][0]['dtype']}; "
        f"{report['prompt_tokens']} tokens of a prompt and {report['tokens']} after it; {place(report)}; {count} samples of "
        f"each in {report['rounds']} processes, in turn."
    )
    return heading, rows


KEYS = [("prefill", "prompt_tokens"), ("decode", "tokens")]


def rows(report: dict) -> tuple[str, list[list[str]]]:
    """Numbers of a time when samples were not kept."""
    return report["heading"], [report["columns"], *report["rows"]]


KINDS = {"block": block, "language": language, "rows": rows}


def table(report: dict) -> str:
    heading, lines = KINDS[report["kind"]](report)
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join([heading, "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def main() -> None:
    before = DOCUMENT.read_text()
    used: set[str] = set()

    def filled(match: re.Match) -> str:
        name = match[1]
        used.add(name)
        return f"{name}{match[2]}\n{table(json.loads((RESULTS / f'{name}.json').read_text()))}\n\n"

    after = PLACE.sub(filled, before)
    unused = {path.stem for path in RESULTS.glob("*.json")} - used
    if unused:
        sys.exit(f"{DOCUMENT} has no place for the table of: {', '.join(sorted(unused))}")
    if "--check" not in sys.argv[1:]:
        DOCUMENT.write_text(after)
    elif after != before:
        sys.exit(f"{DOCUMENT} differs from the measurements: python3 {Path(__file__).relative_to(DOCUMENT.parents[1])}")


if __name__ == "__main__":
    main()
