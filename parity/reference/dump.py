"""Regenerates the goldens: `python dump.py --all --out ../../fixtures`, or some of them: `--case 'llama/*'`."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jsonschema  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from case import BlockCase, write_block, write_model  # noqa: E402
from cases import all_cases  # noqa: E402
from composed_pipeline import cases as composed_pipeline_cases  # noqa: E402
from composed_pipeline import write_composed_pipeline  # noqa: E402
from gguf_files import write_gguf_files  # noqa: E402
from headers import write_headers  # noqa: E402
from pipelines import cases as pipeline_cases  # noqa: E402
from pipelines import write_pipeline  # noqa: E402
from smollm2 import write_smollm2  # noqa: E402

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
LIMIT = 1 << 20
"""Bytes that a committed case may take."""


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def validate(folder: Path) -> None:
    """Fails unless `case.json` satisfies the committed schema."""
    schema = json.loads((FIXTURES / "case.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((folder / "case.json").read_text(encoding="utf-8")), schema)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--all", action="store_true", help="every case, the headers and the goldens of real weights")
    chosen.add_argument("--case", metavar="PATTERN", help="cases whose name matches, such as 'llama/*'")
    chosen.add_argument("--headers", action="store_true", help="the headers of published checkpoints")
    chosen.add_argument("--gguf", action="store_true", help="tiny GGUF files and what they are expected to give")
    chosen.add_argument("--smollm2", action="store_true", help="the goldens of SmolLM2's weights and tokenizer")
    chosen.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--out", type=Path, default=FIXTURES)
    arguments = parser.parse_args()

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if arguments.list:
        print("\n".join(case.name for case in [*all_cases(), *pipeline_cases(), *composed_pipeline_cases()]))
    if arguments.all or arguments.case:
        write_cases(arguments.case or "*", arguments.out)
        write_pipelines(arguments.case or "*", arguments.out)
    if arguments.all or arguments.headers:
        write_headers(arguments.out)
    if arguments.all or arguments.gguf:
        write_gguf_files(arguments.out)
    if arguments.all or arguments.smollm2:
        write_smollm2(arguments.out)


def write_cases(pattern: str, out: Path) -> None:
    """Writes and checks the cases whose name matches, printing the size of each."""
    for case in all_cases():
        if not fnmatch.fnmatchcase(case.name, pattern):
            continue
        folder = write_block(case, out) if isinstance(case, BlockCase) else write_model(case, out)
        validate(folder)
        report(case.name, folder)


def write_pipelines(pattern: str, out: Path) -> None:
    """Writes the cases of pipelines whose name matches, printing the size of each."""
    written = [(case, write_pipeline) for case in pipeline_cases()]
    written += [(case, write_composed_pipeline) for case in composed_pipeline_cases()]
    for case, write in written:
        if fnmatch.fnmatchcase(case.name, pattern):
            folder = write(case, out)
            validate(folder)
            report(case.name, folder)


def report(name: str, folder: Path) -> None:
    """Prints the size of a case and fails where it is too large."""
    taken = size(folder)
    print(f"{name:45} {taken / 1024:7.1f} KiB", flush=True)
    if taken > LIMIT:
        raise SystemExit(f"{name} takes {taken} bytes; the limit is {LIMIT}")


if __name__ == "__main__":
    main()
