"""Cases of the zoo's pipelines of composed parts, against a torch twin: docs/composed.md, diffusers' scheduler and autoencoder."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composed import ComposedTransformer
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from case import _fresh, randomise, rescale, save_json
from pipelines import DEV, SCHNELL, TEXT, VAE, draw, images, save_pipeline, write_components

Config = dict[str, Any]
RMS = {"rms": {"eps": 1e-6}}
PLAIN = {"layer": {"eps": 1e-6, "parameters": "none"}}
GRID = {"rope": {"theta": 100, "layout": "interleaved", "axes": {"each": [2, 2, 4]}, "angle": "double"}}
TIME = {
    "dim": 16,
    "parts": [{"time": {"name": "timestep", "sinusoid": 20, "scale": 1000}}],
    "activation": "silu",
}
VOCABULARY = 290
"""The special tokens, all bytes, and the first pairs of them."""


def to(dim: int) -> Config:
    """A projection to a width."""
    return {"linear": {"dim": dim, "bias": True}}


def features(name: str, given: str, dim: int, **more: Any) -> Config:
    """A stream of features, projected to 16."""
    return {"name": name, "input": {"features": {"name": given, "dim": dim}}, "projection": to(16), **more}


def tokens(dim: int, **more: Any) -> Config:
    """A stream of the text's tokens."""
    return {
        "name": "text",
        "input": {"tokens": {"name": "input_ids", "vocabulary": VOCABULARY, "dim": dim}},
        **more,
    }


def output(dim: int) -> Config:
    """A velocity of that many features a patch."""
    return {
        "name": "sample",
        "stream": "image",
        "norm": PLAIN,
        "modulation": "ada_ln_continuous",
        "head": {"linear": {"dim": dim, "bias": True}},
    }


def encoder(**stream: Any) -> Config:
    """A text encoder of 12 features."""
    layer = {
        "norm": RMS,
        "attention": {"heads": 3, "position": {"rope": {"theta": 100, "layout": "half_split"}}},
        "ffn": {"glu": {"hidden": 20, "activation": "silu"}},
    }
    return {
        "model_type": "composed",
        "streams": [tokens(12, **stream)],
        "stages": [{"on": ["text"], "count": 1, "block": {"pre_norm": layer}}],
        "output": {"name": "last_hidden_state", "stream": "text", "norm": RMS},
    }


JOINT: Config = {
    "model_type": "composed",
    "streams": [
        features("text", "encoder_hidden_states", 12, norm=RMS, mask="attention_mask", positions="txt_ids"),
        features("image", "hidden_states", 4, positions="img_ids"),
    ],
    "condition": TIME,
    "stages": [
        {
            "on": ["text", "image"],
            "count": 1,
            "block": {
                "joint": {
                    "streams": [
                        {
                            "norm": PLAIN,
                            "attention": {"heads": 2, "qk_norm": RMS, "position": GRID},
                            "ffn": {"glu": {"hidden": 20, "activation": "silu"}},
                            "modulation": "ada_ln_zero",
                        }
                    ]
                }
            },
        },
        {
            "on": ["text", "image"],
            "count": 1,
            "block": {
                "single": {
                    "norm": PLAIN,
                    "attention": {"heads": 2, "qk_norm": RMS, "position": GRID},
                    "hidden": 20,
                    "activation": "gelu_tanh",
                    "modulation": "ada_ln_zero",
                }
            },
        },
    ],
    "output": output(4),
}
"""FLUX's blocks, over the states of a text encoder; latents one by one."""

SELF_READING: Config = {
    "model_type": "composed",
    "streams": [
        tokens(16, place={"learned": {"length": 24}}, mask="attention_mask"),
        features("image", "hidden_states", 16, place="sinusoidal"),
    ],
    "condition": TIME,
    "stages": [
        {
            "on": ["text", "image"],
            "count": 1,
            "block": {
                "sandwich": {
                    "norm": RMS,
                    "attention": {"heads": 2, "qk_norm": RMS},
                    "ffn": {"glu": {"hidden": 20, "activation": "silu"}},
                    "modulation": "tanh_gated",
                }
            },
        }
    ],
    "output": output(16),
}
"""A transformer that reads the text itself; patches of 2 × 2."""

CROSS: Config = {
    "model_type": "composed",
    "streams": [
        features("image", "hidden_states", 16, positions="img_ids"),
        features("text", "encoder_hidden_states", 12),
    ],
    "condition": TIME,
    "stages": [
        {
            "on": ["image"],
            "count": 1,
            "block": {
                "cross": {
                    "context": "text",
                    "norm": PLAIN,
                    "attention": {
                        "heads": 2,
                        "position": {"rope": {"theta": 100, "layout": "half_split", "axes": {"each": [4, 4]}}},
                    },
                    "cross_norm": RMS,
                    "cross_attention": {"heads": 2},
                    "ffn": {"mlp": {"hidden": 24, "activation": "gelu_tanh"}},
                    "modulation": "ada_ln_zero",
                }
            },
        }
    ],
    "output": output(16),
}
"""Cross-attention to a text encoder that is told of no padding; patches of 2 × 2."""


def autoencoder(*channels: int) -> Config:
    """An autoencoder of 4 channels with that many stages, each but the last of which halves."""
    levels = len(channels)
    return VAE | {
        "block_out_channels": list(channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": False,
        "norm_num_groups": 2,
    }


@dataclass(frozen=True)
class ComposedPipelineCase:
    """One request to a pipeline of tiny components."""

    name: str
    seed: int
    arguments: Config
    transformer: Config
    vae: Config
    text_encoder: Config | None = None
    scheduler: Config = field(default_factory=lambda: DEV)
    recommended: Config = field(
        default_factory=lambda: {"size": [40, 24], "steps": 3, "guidance": 2.5, "text_tokens": 12}
    )


def cases() -> list[ComposedPipelineCase]:
    """All cases."""
    fox = "The quick brown fox"
    return [
        ComposedPipelineCase(
            "composed-pipeline/encoder",
            751,
            # What is recommended, away from the empty text.
            {"prompt": ["café", fox]},
            JOINT,
            autoencoder(2, 2, 2, 4),
            encoder(mask="attention_mask"),
            SCHNELL | {"shift": 3.0},
        ),
        ComposedPipelineCase(
            "composed-pipeline/self-reading",
            752,
            {
                "prompt": ["", f"{fox}, {fox} and {fox}"],
                "negative_prompt": ["hello", "a  12  345"],
                "true_cfg_scale": 1.5,
                "num_inference_steps": 2,
                "max_sequence_length": 9,
            },
            SELF_READING,
            autoencoder(2, 2, 4),
        ),
        ComposedPipelineCase(
            "composed-pipeline/unguided",
            753,
            {
                "prompt": "hello",
                "true_cfg_scale": 1.0,
                "num_inference_steps": 2,
                "num_images_per_prompt": 2,
                "width": 24,
                "height": 56,
            },
            CROSS,
            autoencoder(2, 2, 4),
            encoder(),
            SCHNELL,
        ),
    ]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that ends a text, and pads it with the token that begins a message."""
    written = json.loads((TEXT / "tiny-bpe.json").read_text(encoding="utf-8"))["tokenizer"]
    end = "<|endoftext|>"
    model = written["model"]
    model["vocab"] = {token: index for token, index in model["vocab"].items() if index < VOCABULARY}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    written["added_tokens"] = [token for token in written["added_tokens"] if token["id"] < VOCABULARY]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    ended = [text, {"SpecialToken": {"id": end, "type_id": 0}}]
    special = {end: {"id": end, "ids": [0], "tokens": [end]}}
    written["post_processor"] = {
        "type": "TemplateProcessing",
        "single": ended,
        "pair": ended,
        "special_tokens": special,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tokenizer.json")
        file.write_text(json.dumps(written), encoding="utf-8")
        return PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token="<|im_start|>", model_max_length=24)


class Described:
    """A config as `own_config` takes it."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def to_dict(self) -> Config:
        return dict(self.config)


def composed(config: Config, seed: int) -> ComposedTransformer:
    """A transformer of that config with weights of that seed."""
    model = ComposedTransformer(config).eval()
    model.config = Described(config)
    randomise(model, seed)
    return model


def positions(names: set[str], transformer: Config, grid: tuple[int, int], length: int) -> dict[str, Tensor]:
    """Row and column on the last two axes; the text counts on the first."""
    found = {}
    blocks = [next(iter(stage["block"].values())) for stage in transformer["stages"]]
    attention = blocks[0].get("attention") or blocks[0]["streams"][0]["attention"]
    axes = len(attention["position"]["rope"]["axes"]["each"]) if "img_ids" in names else 0
    if "img_ids" in names:
        ids = torch.zeros(*grid, axes)
        ids[..., -2] = torch.arange(grid[0])[:, None]
        ids[..., -1] = torch.arange(grid[1])[None, :]
        found["img_ids"] = ids.flatten(0, 1)
    if "txt_ids" in names:
        found["txt_ids"] = torch.zeros(length, axes)
        found["txt_ids"][:, 0] = torch.arange(length)
    return found


def given(config: Config) -> set[str]:
    """The names of a config's inputs."""
    names = {fields["name"] for part in config.get("condition", {}).get("parts", []) for fields in part.values()}
    for stream in config["streams"]:
        names |= {next(iter(stream["input"].values()))["name"]}
        names |= {stream[key] for key in ["mask", "positions"] if key in stream}
    return names


class ComposedPipeline:
    """A text encoder, a transformer and an autoencoder, run together."""

    def __init__(self, case: ComposedPipelineCase) -> None:
        self.case = case
        self.tokenizer = byte_tokenizer()
        self.scheduler = FlowMatchEulerDiscreteScheduler(**case.scheduler)
        self.transformer = composed(case.transformer, 10 * case.seed)
        self.vae = AutoencoderKL(**case.vae).eval()
        randomise(self.vae, 10 * case.seed + 1)
        rescale(self.vae, {"decoder.conv_out.weight": 0.5})
        self.text_encoder = None
        if case.text_encoder is not None:
            self.text_encoder = composed(case.text_encoder, 10 * case.seed + 2)
        self.channels = self.vae.config.latent_channels
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        width = next(iter(self.stream("hidden_states").values()))["dim"]
        self.patch = round((width / self.channels) ** 0.5)

    def stream(self, name: str) -> Config:
        """What an input is."""
        inputs = [stream["input"] for stream in self.case.transformer["streams"]]
        return next(item for item in inputs if next(iter(item.values()))["name"] == name)

    def components(self) -> dict[str, nn.Module]:
        """What has weights."""
        found = {"transformer": self.transformer, "vae": self.vae, "text_encoder": self.text_encoder}
        return {name: model for name, model in found.items() if model is not None}

    def pack(self, latents: Tensor) -> Tensor:
        """[B, C, H, W] → [B, L, C·p²]."""
        p = self.patch
        apart = latents.unflatten(3, (-1, p)).unflatten(2, (-1, p))
        return apart.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def unpack(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, L, C·p²] → [B, C, H, W]."""
        apart = x.unflatten(2, (self.channels, self.patch, self.patch)).unflatten(1, grid)
        return apart.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def encode(self, texts: list[str], length: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tokens and their mask; what of them and of the states the transformer reads."""
        made = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        known = {"input_ids": made.input_ids, "attention_mask": made.attention_mask}
        read = dict(known)
        if self.text_encoder is not None:
            names = given(self.case.text_encoder)
            states = self.text_encoder(**{name: x for name, x in known.items() if name in names})
            read["encoder_hidden_states"] = states["last_hidden_state"]
        return {"tokens": made.input_ids, "mask": made.attention_mask}, read

    def __call__(self, latents: Tensor, request: Config) -> dict[str, Any]:
        """Everything that is made on the way from packed noise to a picture."""
        usual = self.case.recommended
        texts = request["prompt"] if isinstance(request["prompt"], list) else [request["prompt"]]
        pictures = request.get("num_images_per_prompt", 1)
        length = request.get("max_sequence_length", usual["text_tokens"])
        scale = request.get("true_cfg_scale", usual["guidance"])
        width, height = request.get("width", usual["size"][0]), request.get("height", usual["size"][1])
        grid = (height // self.factor // self.patch, width // self.factor // self.patch)
        found, towards = self.encode(texts, length)
        away = None
        if scale != 1:
            made, away = self.encode(request.get("negative_prompt", [""]), length)
            found |= {f"negative_{name}": value for name, value in made.items()}
        steps = request.get("num_inference_steps", usual["steps"])
        levels = self.case.scheduler
        ends = [levels[key] for key in ["base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift"]]
        mu = calculate_shift(grid[0] * grid[1], *ends)
        self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        found |= {"timesteps": self.scheduler.timesteps, "sigmas": self.scheduler.sigmas}
        names = given(self.case.transformer)
        places = positions(names, self.case.transformer, grid, length)

        def velocity(x: Tensor, time: Tensor, texts: dict[str, Tensor]) -> Tensor:
            batch = len(x)
            each = {name: value.repeat_interleave(batch // len(value), 0) for name, value in texts.items()}
            inputs = each | places | {"hidden_states": x, "timestep": (time / 1000).expand(batch)}
            return self.transformer(**{name: value for name, value in inputs.items() if name in names})["sample"]

        x = latents
        assert len(x) == pictures * len(texts)
        for index, time in enumerate(self.scheduler.timesteps):
            v = velocity(x, time, towards)
            if away is not None:
                unguided = velocity(x, time, away)
                v = unguided + scale * (v - unguided)
            x = self.scheduler.step(v, time, x, return_dict=False)[0]
            found[f"latents.{index}"] = x
        z = self.unpack(x, grid) / self.vae.config.scaling_factor + self.vae.config.shift_factor
        decoded = (self.vae.decode(z).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        found["image"] = decoded if request.get("output_type") == "np" else images(decoded)
        return found


def write_composed_pipeline(case: ComposedPipelineCase, out: Path) -> Path:
    """Runs a case and writes its folder."""
    folder = _fresh(out / case.name)
    pipeline = ComposedPipeline(case)
    tokenizers = {"tokenizer": pipeline.tokenizer}
    tied = write_components(folder / "components", pipeline.components(), tokenizers, pipeline.scheduler)
    index = {"_class_name": "ComposedPipeline", "recommended": case.recommended}
    save_json(folder / "components" / "model_index.json", index)
    request = case.arguments
    texts = [request["prompt"]] if isinstance(request["prompt"], str) else request["prompt"]
    sides = [request.get(name, usual) for name, usual in zip(["width", "height"], case.recommended["size"])]
    width, height = (side // pipeline.factor for side in sides)
    batch = len(texts) * request.get("num_images_per_prompt", 1)
    latents = pipeline.pack(draw(case.seed, batch, pipeline.channels, height, width))
    with torch.no_grad():
        outputs = pipeline(latents, request)
    reference = ("torch", "ComposedPipeline", case.seed)
    return save_pipeline(folder, reference, [request], tied, [({"latents": latents}, outputs)])
