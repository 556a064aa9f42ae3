"""Cases of the framework's mixture of experts: float64 twins, each held against the package that has the same one."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeMoE
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralExperts, MixtralSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

import twins
from case import BlockCase
from cases.blocks import FLOAT32, Array, Config, Draw, Weights, agree, tensor, wide

DIM, HIDDEN, EXPERTS = 8, 6, 5
SIZES = {"hidden_size": DIM, "num_experts_per_tok": 2, "hidden_act": "silu", "moe_intermediate_size": HIDDEN}


def mixture(name: str, seed: int, length: int, shared: Config | None = None, **choice: Any) -> BlockCase:
    """One case, not yet held against anything."""
    draw = Draw(seed)
    config: Config = {"dim": DIM, "hidden": HIDDEN, "experts": EXPERTS, "top_k": 2, "activation": "silu"}
    config |= {"normalise": True, "scale": 1.0, "correction": False, "shared": shared} | choice
    weights: Weights = {"router.linear.weight": draw.normal(EXPERTS, DIM)}
    if config["correction"]:
        weights["router.correction"] = draw.normal(EXPERTS, scale=0.3)
    for part, shape in [("gate", (HIDDEN, DIM)), ("up", (HIDDEN, DIM)), ("down", (DIM, HIDDEN))]:
        weights[f"experts.{part}.weight"] = draw.normal(EXPERTS, *shape, scale=0.5)
        if shared:
            weights[f"shared.ffn.{part}.weight"] = draw.normal(*shape, scale=0.5)
    if shared and shared["gate"]:
        weights["shared.gate.weight"] = draw.normal(1, DIM)
    x = draw.normal(2, length, DIM)
    output = twins.moe(x.astype("float64"), wide(weights), config)
    return BlockCase(name, "Moe", seed, config, {"x": x}, output, weights)


def held(case: BlockCase, block: torch.nn.Module, bound: float = 1e-12, **names: str) -> BlockCase:
    """The case, if the package's block gives the same with the same parameters."""
    weights = {name: tensor(value) for name, value in case.weights.items()}
    state = {
        "gate.weight": weights["router.linear.weight"],
        "experts.gate_up_proj": torch.cat([weights["experts.gate.weight"], weights["experts.up.weight"]], 1),
        "experts.down_proj": weights["experts.down.weight"],
    }
    state |= {theirs: weights[ours] for theirs, ours in names.items()}
    block = block.double()
    block.load_state_dict(state)
    agree(case.name, case.output, block(tensor(case.inputs["x"])), bound)
    return case


def shared_names(prefix: str) -> dict[str, str]:
    """Theirs to ours."""
    return {f"{prefix}.{part}_proj.weight": f"shared.ffn.{part}.weight" for part in ["gate", "up", "down"]}


def eager(config: Any) -> Any:
    """The same config with the loop over experts, which computes in float64."""
    config._experts_implementation = "eager"
    return config


def chosen(case: BlockCase) -> BlockCase:
    """Held against gpt-oss' router and Mixtral's experts."""
    sizes = {"intermediate_size": HIDDEN, "num_local_experts": EXPERTS}
    router = GptOssTopKRouter(transformers.GptOssConfig(**SIZES | {"num_local_experts": EXPERTS})).double()
    router.load_state_dict({"weight": tensor(case.weights["router.linear.weight"]), "bias": torch.zeros(EXPERTS)})
    experts = MixtralExperts(eager(transformers.MixtralConfig(**SIZES | sizes))).double()
    halves = [tensor(case.weights[f"experts.{part}.weight"]) for part in ["gate", "up"]]
    down = tensor(case.weights["experts.down.weight"])
    experts.load_state_dict({"gate_up_proj": torch.cat(halves, 1), "down_proj": down})
    tokens = tensor(case.inputs["x"]).flatten(0, 1)
    _, scores, indices = router(tokens)
    agree(case.name, case.output.reshape(-1, DIM), experts(tokens, indices, scores))
    return case


def cases() -> list[BlockCase]:
    """Each kind of scores, with few rows and with so many that they are sorted by expert."""
    sizes = {"intermediate_size": HIDDEN, "num_local_experts": EXPERTS}
    mixtral = eager(transformers.MixtralConfig(**SIZES | sizes))
    glm = eager(
        transformers.Glm4MoeConfig(**SIZES, n_routed_experts=EXPERTS, n_group=1, topk_group=1, routed_scaling_factor=2.5)
    )
    qwen = eager(
        transformers.Qwen2MoeConfig(**SIZES, num_experts=EXPERTS, shared_expert_intermediate_size=HIDDEN, norm_topk_prob=False)
    )
    ungated, gated = {"hidden": HIDDEN, "gate": False}, {"hidden": HIDDEN, "gate": True}
    corrected = shared_names("shared_experts") | {"gate.e_score_correction_bias": "router.correction"}
    opened = shared_names("shared_expert") | {"shared_expert_gate.weight": "shared.gate.weight"}
    sigmoid = mixture("framework/moe-sigmoid", 802, 7, ungated, scoring="sigmoid", scale=2.5, correction=True)
    softmax = mixture("framework/moe-softmax-shared", 803, 5, gated, scoring="softmax", normalise=False)
    return [
        held(mixture("framework/moe-softmax", 801, 19, scoring="softmax"), MixtralSparseMoeBlock(mixtral), FLOAT32),
        held(sigmoid, Glm4MoeMoE(glm), FLOAT32, **corrected),
        held(softmax, Qwen2MoeSparseMoeBlock(qwen), FLOAT32, **opened),
        chosen(mixture("framework/moe-chosen", 804, 3, scoring="softmax_of_chosen", normalise=False)),
    ]
