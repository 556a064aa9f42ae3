"""Every committed case, one small entry each."""

from case import BlockCase, ModelCase

from . import blocks, composed, decoders, encoders, experts, flux, llama, mixtures, vae


def all_cases() -> list[ModelCase | BlockCase]:
    """All cases; names are unique."""
    cases: list[ModelCase | BlockCase] = [
        *flux.cases(),
        *llama.cases(),
        *decoders.cases(),
        *mixtures.cases(),
        *encoders.cases(),
        *vae.cases(),
        *composed.cases(),
        *blocks.cases(),
        *experts.cases(),
    ]
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise ValueError("two cases share a name")
    return cases
