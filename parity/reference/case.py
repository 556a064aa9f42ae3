"""Runs a reference model under observation and writes one parity case (format: fixtures/README.md)."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

FORMAT = 1
TOLERANCE = {"forced": 1e-5, "free": 1e-4}
NARROW = (torch.bfloat16, torch.float16)
"""Element types that `.npy` cannot hold or that are stored wider: such tensors are written as f32."""


@dataclass(frozen=True)
class Call:
    """One call of a method: tensors (nested in dicts and lists as the method takes them) and everything else."""

    inputs: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    method: str = "forward"


@dataclass(frozen=True)
class ModelCase:
    """A case made by running a reference class."""

    name: str
    package: str
    reference_class: str
    seed: int
    build: Callable[[torch.dtype], nn.Module]
    """Makes the model in the given dtype as the package's own loader would; its parameters are overwritten."""
    calls: Sequence[Call]
    observe: Sequence[str]
    """Module paths to record; `*` stands for one segment, `**` for any number."""
    config: dict[str, Any] | None = None
    """Written instead of the package's own serialisation: a published spelling."""
    dtype: torch.dtype = torch.float32
    small_row: tuple[int, float] | None = None
    """Embedding row and its standard deviation (near the root of the norms' epsilon, where epsilon matters)."""
    carry: Sequence[str] = ()
    """Fields of the return value that become arguments of the next call: the state the calls share."""
    scale: Mapping[str, float] = field(default_factory=dict)
    """Parameters, by pattern, that are multiplied by a number after they are drawn."""
    padded: Sequence[str] = ()
    """Module paths whose rows depend on padding; in a call with an `attention_mask`, its zero rows are ignored."""
    tolerance: Mapping[str, float] = field(default_factory=lambda: TOLERANCE)
    note: str = ""


@dataclass(frozen=True)
class BlockCase:
    """A case of one of the framework's own blocks: fields, parameters, inputs and the twin's float64 output."""

    name: str
    block: str
    seed: int
    config: dict[str, Any]
    inputs: dict[str, np.ndarray]
    output: np.ndarray
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    activations: dict[str, np.ndarray] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Return:
    """One return of one observed module."""

    call: int
    path: str
    nth: int
    tensors: dict[str, torch.Tensor]

    def names(self) -> dict[str, torch.Tensor]:
        """The tensors under their file names in `reference/`, without the extension."""
        stem = self.path + (f"@{self.nth}" if self.nth else "")
        if len(self.tensors) == 1:
            return {stem: next(iter(self.tensors.values()))}
        return {f"{stem}#{key}": tensor for key, tensor in self.tensors.items()}


def tensors_of(value: Any) -> dict[str, torch.Tensor]:
    """The tensors in a return value: by field name in a mapping or dataclass, else numbered; nothing else counts.

    Of a distribution over latents the parameters count.
    """
    if isinstance(value, torch.Tensor):
        return {"0": value}
    if hasattr(value, "latent_dist"):
        return {"parameters": value.latent_dist.parameters}
    if isinstance(value, Mapping):
        fields = dict(value)
    elif dataclasses.is_dataclass(value):
        fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    elif isinstance(value, (tuple, list)):
        found = [tensor for item in value for tensor in tensors_of(item).values()]
        return {str(index): tensor for index, tensor in enumerate(found)}
    else:
        return {}
    named: dict[str, torch.Tensor] = {}
    for key, item in fields.items():
        inner = tensors_of(item)
        lone = isinstance(item, torch.Tensor)
        named |= {key if lone else f"{key}.{sub}": tensor for sub, tensor in inner.items()}
    return named


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a dotted path matches one of the patterns."""
    return any(re.fullmatch(_regex(pattern), path) for pattern in patterns)


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*|\*)", pattern)
    return "".join({"**": ".*", "*": "[^.]*"}.get(part, re.escape(part)) for part in parts)


def randomise(model: nn.Module, seed: int, small_row: tuple[int, float] | None = None) -> None:
    """Draws every parameter and every persistent float buffer, so that no term hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    persistent = set(model.state_dict())
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name not in persistent or not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if id(tensor) in embeddings:
                tensor.copy_(0.5 * noise)
                if small_row is not None:
                    row, deviation = small_row
                    tensor[row] = (noise[row] * deviation).to(tensor.dtype)
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif name.endswith(("bias", "running_mean")):
                tensor.copy_(0.2 * noise)
            elif tensor.ndim < 2:
                tensor.copy_(1 + 0.2 * noise)
            else:
                tensor.copy_(noise * (tensor.numel() / tensor.shape[0]) ** -0.5)


def rescale(model: nn.Module, scale: Mapping[str, float]) -> None:
    """Multiplies the parameters that match a pattern."""
    with torch.no_grad():
        for pattern, factor in scale.items():
            for name, parameter in model.named_parameters():
                if matches(name, [pattern]):
                    parameter.mul_(factor)


def run(model: nn.Module, case: ModelCase) -> tuple[list[Return], list[dict[str, torch.Tensor]]]:
    """Runs the calls; gives the observed returns in order and the tensors each call returned."""
    returns: list[Return] = []
    outputs: list[dict[str, torch.Tensor]] = []
    seen: Counter[str] = Counter()

    def hook(path: str) -> Callable[..., None]:
        def record(_module: nn.Module, _inputs: Any, value: Any) -> None:
            found = {key: tensor.detach().clone() for key, tensor in tensors_of(value).items()}
            returns.append(Return(len(outputs), path, seen[path], found))
            seen[path] += 1

        return record

    observed = [(path, module) for path, module in model.named_modules() if path and matches(path, case.observe)]
    unused = [pattern for pattern in case.observe if not any(matches(path, [pattern]) for path, _ in observed)]
    if unused:
        raise ValueError(f"{case.name}: no module matches {unused}")
    handles = [module.register_forward_hook(hook(path)) for path, module in observed]
    state: dict[str, Any] = {}
    with torch.no_grad():
        for call in case.calls:
            value = getattr(model, call.method)(**call.inputs, **call.arguments, **state)
            state = {key: value.get(key) for key in case.carry}
            tensors = tensors_of(value)
            outputs.append({key: t for key, t in tensors.items() if key.split(".")[0] not in case.carry})
    for handle in handles:
        handle.remove()
    return returns, outputs


def named_results(returns: list[Return], outputs: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Every recorded tensor under the name that `ignore`, `noise` and `dtypes` use."""
    named = {name: tensor for item in returns for name, tensor in item.names().items()}
    for index, tensors in enumerate(outputs):
        named |= {f"output/{index}/{key}": tensor for key, tensor in tensors.items()}
    return named


def relative_l2(value: torch.Tensor, reference: torch.Tensor) -> float:
    """The norm of the difference over the norm of the reference."""
    value, reference = value.double(), reference.double()
    return float((value - reference).norm() / reference.norm())


def widened(value: Any) -> Any:
    """The same inputs with tensors of narrow types in f32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in NARROW else value
    if isinstance(value, Mapping):
        return {key: widened(item) for key, item in value.items()}
    return [widened(item) for item in value] if isinstance(value, list) else value


def noise(case: ModelCase, model: nn.Module, results: dict[str, torch.Tensor]) -> dict[str, float]:
    """The reference's own error in its dtype: relative L2 against the same weights and inputs run in f32."""
    wide = case.build(torch.float32).eval()
    wide.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in model.state_dict().items()})
    calls = [dataclasses.replace(call, inputs=widened(call.inputs)) for call in case.calls]
    exact = named_results(*run(wide, dataclasses.replace(case, calls=calls)))
    return {name: float(f"{relative_l2(tensor, exact[name]):.3g}") for name, tensor in results.items()}


def distinct(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a state dict with shared memory kept once, and which name stands for which dropped one."""
    kept: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    owner: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in owner:
            tied[name] = owner[key]
        else:
            owner[key] = name
            kept[name] = tensor.detach().contiguous()
    return kept, tied


def flat_inputs(prefix: str, value: Any) -> dict[str, torch.Tensor]:
    """Input tensors by file name: keys and indices are further segments."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    found: dict[str, torch.Tensor] = {}
    for key, item in items:
        found |= flat_inputs(f"{prefix}.{key}" if prefix else str(key), item)
    return found


def dtype_name(tensor: torch.Tensor) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(tensor.dtype).removeprefix("torch.")


def save_array(path: Path, value: torch.Tensor | np.ndarray) -> None:
    """Writes one `.npy`; bf16 and f16 are widened to f32."""
    if isinstance(value, torch.Tensor):
        value = (value.float() if value.dtype in NARROW else value).contiguous().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.ascontiguousarray(value) if value.ndim else value)


def save_json(path: Path, value: Any) -> None:
    """Writes readable JSON with a final newline; a list of numbers stays on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\n([-+.\deE,\s]+)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def own_config(model: nn.Module) -> dict[str, Any]:
    """The package's own serialisation: transformers keeps a config object, diffusers a frozen dict."""
    if hasattr(model.config, "to_dict"):
        return model.config.to_dict()
    return json.loads(model.to_json_string())


def write_model(case: ModelCase, out: Path) -> Path:
    """Runs a model case and writes its folder."""
    folder = _fresh(out / case.name)
    model = case.build(case.dtype).eval()
    randomise(model, case.seed, case.small_row)
    rescale(model, case.scale)
    returns, outputs = run(model, case)
    results = named_results(returns, outputs)
    inputs = [flat_inputs("", call.inputs) for call in case.calls]

    order, ignore, dtypes = [], {}, {}
    for item in returns:
        entry: dict[str, Any] = {"path": item.path, "nth": item.nth, "outputs": len(item.tensors)}
        if any(tensor.dtype in NARROW for tensor in item.tensors.values()):
            entry["dtypes"] = [dtype_name(tensor) for tensor in item.tensors.values()]
        order.append(entry)
        if matches(item.path, case.padded) and _has_padding(inputs[item.call]):
            ignore |= {name: f"inputs/{item.call}/attention_mask" for name in item.names()}
    for index, tensors in enumerate(outputs):
        names = {f"output/{index}/{key}": tensor for key, tensor in tensors.items()}
        if case.padded and _has_padding(inputs[index]):
            ignore |= {name: f"inputs/{index}/attention_mask" for name in names}
        names |= {f"inputs/{index}/{key}": tensor for key, tensor in inputs[index].items()}
        dtypes |= {name: dtype_name(tensor) for name, tensor in names.items() if tensor.dtype in NARROW}

    weights, tied = distinct(model.state_dict())
    config = case.config if case.config is not None else own_config(model)
    description: dict[str, Any] = {
        "format": FORMAT,
        "reference": {
            "package": case.package,
            "version": importlib.metadata.version(case.package),
            "class": case.reference_class,
            "seed": case.seed,
            "dtype": str(case.dtype).removeprefix("torch."),
        },
        "config": config,
        "calls": [{"method": call.method, "arguments": call.arguments} for call in case.calls],
        "order": order,
        "ignore": ignore,
        "tied": tied,
        "tolerance": dict(case.tolerance),
    }
    if dtypes:
        description["dtypes"] = dtypes
    if case.dtype in NARROW:
        description["noise"] = noise(case, model, results)
    if case.note:
        description["note"] = case.note

    save_json(folder / "case.json", description)
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    for index, tensors in enumerate(inputs):
        for name, tensor in tensors.items():
            save_array(folder / "inputs" / str(index) / f"{name}.npy", tensor)
    for name, tensor in results.items():
        save_array(folder / (f"{name}.npy" if name.startswith("output/") else f"reference/{name}.npy"), tensor)
    return folder


def write_block(case: BlockCase, out: Path) -> Path:
    """Writes the folder of a framework case."""
    folder = _fresh(out / case.name)
    description: dict[str, Any] = {
        "format": FORMAT,
        "reference": {
            "package": "framework",
            "version": f"numpy {importlib.metadata.version('numpy')}",
            "class": case.block,
            "seed": case.seed,
            "dtype": "float32",
        },
        "config": case.config,
        "calls": [{"method": "forward", "arguments": {}}],
        "order": [{"path": path, "nth": 0, "outputs": 1} for path in case.activations],
        "ignore": {},
        "tied": {},
        "tolerance": dict(TOLERANCE),
    }
    if case.note:
        description["note"] = case.note
    save_json(folder / "case.json", description)
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(value) for name, value in case.weights.items()},
        folder / "weights.safetensors",
    )
    for name, value in case.inputs.items():
        save_array(folder / "inputs" / "0" / f"{name}.npy", value)
    for path, value in case.activations.items():
        save_array(folder / "reference" / f"{path}.npy", value.astype(np.float32))
    save_array(folder / "output" / "0" / "0.npy", case.output.astype(np.float32))
    return folder


def _has_padding(inputs: Mapping[str, torch.Tensor]) -> bool:
    """Whether a call has a padding mask over exactly its own rows with a zero in it."""
    mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
    return mask is not None and ids is not None and mask.shape == ids.shape and not bool(mask.all())


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
