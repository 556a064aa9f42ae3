"""Cases of diffusers' FLUX pipelines: tiny random components, real tokenizers of a few hundred tokens, every step recorded."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.torch
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from case import FORMAT, TOLERANCE, _fresh, distinct, own_config, randomise, rescale, save_array, save_json

Tensors = dict[str, Any]
TEXT = Path(__file__).resolve().parents[2] / "fixtures" / "text"
PIPELINES = {"FluxPipeline": FluxPipeline, "FluxImg2ImgPipeline": FluxImg2ImgPipeline}
DRAWS = {
    "posterior_noise": "diffusers.models.autoencoders.vae.randn_tensor",
    "latents": "diffusers.pipelines.flux.pipeline_flux_img2img.randn_tensor",
}
"""Where FluxImg2ImgPipeline draws noise, by the name of the input that holds it."""
TRANSFORMER: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 6,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 4,
    "axes_dims_rope": [2, 2, 2],
}
CLIP: dict[str, Any] = {
    "vocab_size": 730,
    "hidden_size": 4,
    "intermediate_size": 6,
    "projection_dim": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 728,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
"""As published: `eos_token_id` 2 stands for the highest id."""
T5: dict[str, Any] = {
    "vocab_size": 153,
    "d_model": 12,
    "d_kv": 4,
    "d_ff": 14,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 11,
    "feed_forward_proj": "gated-gelu",
}
VAE: dict[str, Any] = {
    "block_out_channels": [4, 4, 4, 4],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "sample_size": 64,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
DEV: dict[str, Any] = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
SCHNELL = DEV | {"shift": 1.0, "use_dynamic_shifting": False}
CLIP_TOKENIZER = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "model_max_length": 16,
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": "<|endoftext|>",
}
T5_TOKENIZER = {
    "eos_token": "</s>",
    "extra_ids": 3,
    "model_max_length": 512,
    "pad_token": "<pad>",
    "tokenizer_class": "T5TokenizerFast",
    "unk_token": "<unk>",
}
DEFAULTS: dict[str, Any] = {
    "height": 32,
    "width": 48,
    "num_inference_steps": 4,
    "max_sequence_length": 20,
}


@dataclass(frozen=True)
class PipelineCase:
    """Requests to one pipeline of tiny components."""

    name: str
    seed: int
    requests: list[dict[str, Any]]
    """What differs from `DEFAULTS`, a call each."""
    guidance: bool = True
    """Whether the transformer is told the guidance scale."""
    scheduler: dict[str, Any] = field(default_factory=lambda: DEV)
    reference_class: str = "FluxPipeline"


def cases() -> list[PipelineCase]:
    """All cases of pipelines."""
    fox = "The quick brown fox"
    return [
        PipelineCase(
            "flux-pipeline/dev",
            701,
            [
                {
                    "prompt": fox,
                    "guidance_scale": 3.5,
                    "true_cfg_scale": 1.0,
                    "negative_prompt": None,
                    "num_images_per_prompt": 1,
                },
                {"prompt": "", "num_inference_steps": 2},
                {"prompt": fox, "negative_prompt": "", "true_cfg_scale": 2.5, "num_inference_steps": 3},
            ],
        ),
        PipelineCase(
            "flux-pipeline/batch2",
            704,
            [
                {
                    "prompt": ["a  12  345 naïve café, hello world, and more than either encoder can take", "hello"],
                    "num_inference_steps": 2,
                },
                {
                    "prompt": ["hello", fox],
                    "negative_prompt": ["naïve café", "naïve café"],
                    "true_cfg_scale": 3.0,
                    "guidance_scale": 1.0,
                    "num_inference_steps": 2,
                    "height": 48,
                    "width": 32,
                    "output_type": "np",
                },
            ],
        ),
        PipelineCase(
            "flux-pipeline/schnell",
            702,
            [
                {"prompt": fox, "num_inference_steps": 2, "guidance_scale": 0.0, "height": 48, "width": 32},
                {
                    "prompt": [f"{fox}, {fox} and {fox}"],
                    "guidance_scale": 9.0,
                    "num_inference_steps": 1,
                    "max_sequence_length": 7,
                    "num_images_per_prompt": 2,
                },
            ],
            guidance=False,
            scheduler=SCHNELL,
        ),
        PipelineCase(
            "flux-pipeline/img2img",
            706,
            [{"prompt": fox, "num_inference_steps": 5, "strength": 0.6}],
            reference_class="FluxImg2ImgPipeline",
        ),
    ]


def tokenizer(made: type, name: str, config: dict[str, Any]) -> Any:
    """A tokenizer of `fixtures/text/` as the package loads a published one."""
    written = json.loads((TEXT / f"tiny-{name}.json").read_text(encoding="utf-8"))["tokenizer"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return made.from_pretrained(folder)


def models(case: PipelineCase) -> dict[str, nn.Module]:
    """The components that have weights, drawn from the case's seed on."""
    transformer = FluxTransformer2DModel(**TRANSFORMER, guidance_embeds=case.guidance)
    found = {
        "transformer": transformer,
        "text_encoder": CLIPTextModel._from_config(CLIPTextConfig(**CLIP), dtype=torch.float32),
        "text_encoder_2": T5EncoderModel._from_config(T5Config(**T5), dtype=torch.float32),
        "vae": AutoencoderKL(**VAE),
    }
    for index, model in enumerate(found.values()):
        randomise(model.eval(), 10 * case.seed + index)
    # Pixels that are not cut off at black or white.
    rescale(found["vae"], {"decoder.conv_out.weight": 0.5})
    return found


def images(decoded: np.ndarray) -> np.ndarray:
    """Pixels of 0 to 255, as the package rounds them."""
    return np.stack([np.asarray(image) for image in VaeImageProcessor.numpy_to_pil(decoded)])


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def drawing(noise: dict[str, torch.Tensor]) -> Iterator[None]:
    """Makes the pipeline draw the given noise, each once."""
    patches = {name: mock.patch(DRAWS[name], side_effect=[tensor]) for name, tensor in noise.items()}
    drawn = {name: patch.start() for name, patch in patches.items()}
    try:
        yield
    finally:
        mock.patch.stopall()
    for name, draws in drawn.items():
        shapes = [tuple(call.args[0]) for call in draws.call_args_list]
        if shapes != [tuple(noise[name].shape)]:
            raise ValueError(f"{name} was drawn with shapes {shapes}")


def write_pipeline(case: PipelineCase, out: Path) -> Path:
    """Runs a pipeline case and writes its folder."""
    folder = _fresh(out / case.name)
    parts = models(case)
    tokenizers = {
        "tokenizer": tokenizer(CLIPTokenizer, "clip", CLIP_TOKENIZER),
        "tokenizer_2": tokenizer(T5TokenizerFast, "t5", T5_TOKENIZER),
    }
    scheduler = FlowMatchEulerDiscreteScheduler(**case.scheduler)
    tied = write_components(folder / "components", parts, tokenizers, scheduler)

    pipeline = PIPELINES[case.reference_class](scheduler=scheduler, **parts, **tokenizers)
    pipeline.set_progress_bar_config(disable=True)
    requests = [DEFAULTS | request for request in case.requests]
    calls = [call(pipeline, case.reference_class, 100 * index + case.seed, it) for index, it in enumerate(requests)]
    reference = ("diffusers", case.reference_class, case.seed)
    return save_pipeline(folder, reference, requests, tied, calls)


def call(pipeline: Any, reference_class: str, seed: int, arguments: dict[str, Any]) -> tuple[Tensors, Tensors]:
    """What a pipeline was given in one call, with noise of a seed, and what it made."""
    batch = 1 if isinstance(arguments["prompt"], str) else len(arguments["prompt"])
    batch *= arguments.get("num_images_per_prompt", 1)
    height, width, channels = arguments["height"], arguments["width"], VAE["latent_channels"]
    unpacked = (batch, channels, height // 8, width // 8)
    noise = draw(seed, *unpacked)
    inputs: Tensors = {"latents": pipeline._pack_latents(noise, *unpacked)}
    given: dict[str, Any] = {}
    drawn: dict[str, torch.Tensor] = {}
    if reference_class == "FluxPipeline":
        given["latents"] = inputs["latents"]
    else:
        # Latents that are given replace the noised image: what is drawn is given instead.
        drawn = {"latents": noise, "posterior_noise": draw(seed + 1000, 1, *unpacked[1:])}
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        inputs |= {"image": pixels, "posterior_noise": drawn["posterior_noise"]}
        given["image"] = Image.fromarray(pixels)
    return inputs, observe(pipeline, given | arguments, drawn)


def save_pipeline(
    folder: Path,
    reference: tuple[str, str, int],
    requests: list[dict[str, Any]],
    tied: dict[str, str],
    calls: list[tuple[Tensors, Tensors]],
) -> Path:
    """Writes what a pipeline of a package's class with components of a seed was given and made, call by call."""
    package, made, seed = reference
    description = {
        "format": FORMAT,
        "reference": {
            "package": package,
            "version": importlib.metadata.version(package),
            "class": made,
            "seed": seed,
            "dtype": "float32",
        },
        "config": {},
        "calls": [{"method": "__call__", "arguments": request} for request in requests],
        "order": [],
        "ignore": {},
        "tied": tied,
        "tolerance": dict(TOLERANCE),
    }
    save_json(folder / "case.json", description)
    for index, (inputs, outputs) in enumerate(calls):
        for place, values in [("inputs", inputs), ("output", outputs)]:
            for name, value in values.items():
                save_array(folder / place / str(index) / f"{name}.npy", value)
    return folder


def write_components(
    folder: Path, parts: dict[str, nn.Module], tokenizers: dict[str, Any], scheduler: FlowMatchEulerDiscreteScheduler
) -> dict[str, str]:
    """Writes every component in a folder of its own; gives the tensors that are stored under another name."""
    tied: dict[str, str] = {}
    for name, model in parts.items():
        config = own_config(model)
        if "_class_name" not in config:
            config["architectures"] = [type(model).__name__]
        save_json(folder / name / "config.json", config)
        weights, shared = distinct(model.state_dict())
        safetensors.torch.save_file(weights, folder / name / "weights.safetensors")
        tied |= {f"{name}.{absent}": f"{name}.{present}" for absent, present in shared.items()}
    for name, made in tokenizers.items():
        made.save_pretrained(folder / name)
        written = folder / name / "tokenizer.json"
        text = json.dumps(json.loads(written.read_text(encoding="utf-8")), ensure_ascii=False, separators=(",", ":"))
        written.write_text(text, encoding="utf-8")
    scheduler.save_pretrained(folder / "scheduler")
    return tied


def masks(name: str, tokenizer: Any, record: Callable[[str, Any], None]) -> Any:
    """A patch under which a tokenizer records the mask that it gives with padded tokens."""
    call = type(tokenizer).__call__

    def padded(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = call(self, *args, **kwargs)
        if kwargs["padding"] == "max_length":
            record(name, found.attention_mask)
        return found

    return mock.patch.object(type(tokenizer), "__call__", padded)


def observe(pipeline: Any, request: dict[str, Any], drawn: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Runs the pipeline; gives tokens and their masks, the schedule, latents after every step and the image."""
    found: dict[str, Any] = {}
    prefixes = ["", "negative_"]

    def record(name: str, value: Any) -> None:
        key = next(prefix + name for prefix in prefixes if prefix + name not in found)
        found[key] = value.detach().clone()

    def tokens(name: str) -> Any:
        return lambda _module, args, kwargs: record(name, args[0] if args else kwargs["input_ids"])

    times: list[torch.Tensor] = []

    def step(_pipeline: Any, index: int, time: torch.Tensor, values: dict[str, Any]) -> dict[str, Any]:
        times.append(time)
        found[f"latents.{index}"] = values["latents"].detach().clone()
        return values

    handles = [
        pipeline.text_encoder.register_forward_pre_hook(tokens("tokens"), with_kwargs=True),
        pipeline.text_encoder_2.register_forward_pre_hook(tokens("tokens_2"), with_kwargs=True),
    ]
    mask, mask_2 = masks("mask", pipeline.tokenizer, record), masks("mask_2", pipeline.tokenizer_2, record)
    with torch.no_grad(), drawing(drawn), mask, mask_2:
        decoded = pipeline(**(request | {"output_type": "np"}), callback_on_step_end=step).images
    for handle in handles:
        handle.remove()
    found["timesteps"] = torch.stack(times)
    found["sigmas"] = pipeline.scheduler.sigmas[-1 - len(times) :]
    found["image"] = decoded if request.get("output_type") == "np" else images(decoded)
    return found
