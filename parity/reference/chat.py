"""Writes the goldens of chat templates: `python chat.py --llama-cpp DIR [--out ../../fixtures/chat]`, `python chat.py TEMPLATE…`.

Each file holds a template and what transformers' `apply_chat_template` makes of the conversations below with it: with and
without tools, with thinking on and off, with and without the header of an answer. Where the template refuses, `text` is
null.

The templates of Qwen2.5, Qwen3 (both Apache-2.0) and GLM-4 (MIT) are the published ones, as the package `trl` 1.16.0
(Apache-2.0) has them: `pip install --no-deps trl==1.16.0`. Those of SmolLM3 and Mistral Nemo (both Apache-2.0) are those in
llama.cpp (MIT), whose `models/templates`, `DIR`, is in the source package `llama-cpp-python` 0.3.36. Those of Llama and
Gemma are not free: `templates/` holds twins, written for this, that use the same features of Jinja, and one of the layout of
Mistral's seventh tokenizer. Further templates (paths of `.jinja` files) are rendered the same way;
`CHAT_CASES=DIR cargo test -p zoo --test templates` reads what was written elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import jinja2
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
IN_TRL = ["qwen2_5", "qwen3", "glm4moe"]
IN_LLAMA_CPP = {
    "smollm3": "HuggingFaceTB-SmolLM3-3B",
    "mistral-nemo": "mistralai-Mistral-Nemo-Instruct-2407",
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city; where it's <cold> & windy, \"feels like\" too. 天気",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name, e.g. Zürich"},
                "days": {"type": "integer", "minimum": 1, "default": 1},
                "units": {"enum": ["°C", "°F"]},
                "exact": {"type": "boolean", "default": False},
            },
            "required": ["city"],
        },
        "return": {"type": "number"},
    },
}
NOW = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content, **more}


def call(index: int, name: str, arguments: Any) -> dict[str, Any]:
    """A call of a tool."""
    return {"id": f"call0000{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


QUESTION = said("user", "How cold will it be in Zürich?")
ZURICH = call(1, "weather", {"city": "Zürich", "days": 2, "exact": True})
COLD = said("tool", '{"low": -3.5, "note": "é <b>"}', tool_call_id="call00001", name="weather")
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "question": [said("user", "Hi there")],
    "instructed": [said("system", "Be brief.\n"), said("user", "  2 + 2?  ")],
    "turns": [
        said("system", "You speak {{ jinja }} {% raw %} & <b>HTML</b>"),
        said("user", "Ein Gruß\n\n👋🏽"),
        said("assistant", "\n\nHallo! "),
        said("user", "<|im_end|> 'quoted' \"twice\" \\ back"),
    ],
    "answered": [said("user", "a"), said("assistant", "b")],
    "call": [
        said("system", "Use tools."),
        QUESTION,
        said("assistant", "", tool_calls=[ZURICH]),
        COLD,
    ],
    "two-calls": [
        QUESTION,
        said("assistant", "Let me see.", tool_calls=[ZURICH, call(2, "now", {})]),
        COLD,
        said("tool", "noon", tool_call_id="call00002", name="now"),
        said("assistant", "It is noon, and -3.5 °C."),
        said("user", "Thanks!"),
    ],
    "call-without-content": [QUESTION, said("assistant", None, tool_calls=[ZURICH]), COLD],
    "call-with-a-text": [QUESTION, said("assistant", "", tool_calls=[call(1, "weather", '{"city": "Bern"}')]), COLD],
    "reasoned": [
        said("user", "17 * 23?"),
        said("assistant", "391", reasoning_content="17 * 20 = 340,\n17 * 3 = 51\n"),
        said("user", "And how cold?"),
        said("assistant", "Looking.", reasoning_content="I need a tool.", tool_calls=[ZURICH]),
        COLD,
    ],
    "reasoned-in-line": [
        said("user", "17 * 23?"),
        said("assistant", "<think>\n340 + 51\n</think>\n\n391"),
        said("user", "Sure?"),
        said("assistant", "<think>\nagain\n</think>\n\nYes."),
    ],
    "no-thinking-asked": [said("system", "Be kind. /no_think"), said("user", "Hi"), said("assistant", "Hello")],
    "thinking-asked": [said("system", "/think /system_override"), said("user", "Hi /nothink")],
    "parts": [said("user", [{"type": "text", "text": " What is "}, {"type": "image"}, {"type": "text", "text": "this? "}])],
    "out-of-turn": [said("user", "a"), said("user", "b")],
    "unknown-role": [said("narrator", "Once upon a time")],
}
DATE = {"date_string": "20 Nov 2026"}
WAYS: list[dict[str, Any]] = [
    {"generation": True},
    {"generation": False},
    {"generation": True, "tools": True},
    {"generation": True, "extra": {"enable_thinking": False}},
    {"generation": True, "tools": True, "extra": {"enable_thinking": True, "tools_in_user_message": False}},
    {"generation": True, "extra": {"xml_tools": [WEATHER, NOW], "python_tools": [NOW]}},
    {"generation": True, "extra": {"builtin_tools": ["weather", "code_interpreter", "now"]}},
]


def render(tokenizer: PreTrainedTokenizerFast, template: str, messages: Any, way: dict[str, Any]) -> str | None:
    """The prompt, or nothing where the template refuses."""
    try:
        return tokenizer.apply_chat_template(
            messages,
            tools=[WEATHER, NOW] if way.get("tools") else None,
            chat_template=template,
            add_generation_prompt=way["generation"],
            tokenize=False,
            **DATE,
            **way.get("extra", {}),
        )
    except jinja2.TemplateSyntaxError:
        raise
    except (jinja2.TemplateError, TypeError):
        return None


def golden(template: str, source: str) -> dict[str, Any]:
    """A template and its prompts; a way that changes nothing is left out."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL.values())}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, "<s>")), **SPECIAL)
    cases = []
    for name, messages in CONVERSATIONS.items():
        seen: list[str | None] = []
        for way in WAYS:
            text = render(tokenizer, template, messages, way)
            if text not in seen:
                cases.append({"conversation": name, **way, "text": text})
            seen.append(text)
    reference = {"package": "transformers", "version": transformers.__version__}
    return {"reference": reference, "source": source, "template": template, "special": SPECIAL, "cases": cases}


def in_trl(name: str) -> str:
    """A template of the package trl, which is not imported."""
    package = importlib.util.find_spec("trl")
    if package is None or package.origin is None:
        raise SystemExit("trl is not installed: pip install --no-deps trl==1.16.0")
    return (Path(package.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def write(path: Path, content: Any) -> None:
    """JSON with a line a case."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace('{"conversation"', '\n{"conversation"')
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{path.name:20} {len(text) / 1024:7.1f} KiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("templates", nargs="*", type=Path)
    parser.add_argument("--llama-cpp", type=Path, metavar="DIR", help="models/templates of llama.cpp")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "fixtures" / "chat")
    arguments = parser.parse_args()
    if not arguments.templates and arguments.llama_cpp is None:
        parser.error("--llama-cpp: where are the templates of llama.cpp?")
    arguments.out.mkdir(parents=True, exist_ok=True)
    shared = {"tools": [WEATHER, NOW], "extra": DATE, "conversations": CONVERSATIONS}
    write(arguments.out / "conversations.json", shared)
    twins = {path.stem: path for path in sorted((HERE / "templates").glob("*.jinja"))}
    for name, path in ({path.stem: path for path in arguments.templates} or twins).items():
        source = "a twin" if name in twins else str(path.name)
        write(arguments.out / f"{name}.json", golden(path.read_text(encoding="utf-8"), source))
    if arguments.templates:
        return
    for name in IN_TRL:
        write(arguments.out / f"{name}.json", golden(in_trl(name), f"trl 1.16.0, {name}.jinja"))
    for name, file in IN_LLAMA_CPP.items():
        template = (arguments.llama_cpp / f"{file}.jinja").read_text(encoding="utf-8")
        write(arguments.out / f"{name}.json", golden(template, f"llama-cpp-python 0.3.36, {file}.jinja"))


if __name__ == "__main__":
    main()
