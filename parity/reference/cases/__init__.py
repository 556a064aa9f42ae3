"""Every committed case, one small entry each."""

from case import BlockCase, ModelCase

from . import blocks, composed, decoders, encoders, flux, llama, vae


def all_cases() -> list[ModelCase | BlockCase]:
    """All cases; names are unique."""
    cases: list[ModelCase | BlockCase] = [
        *flux.cases(),
        *llama.cases(),
        *decoders.cases(),
        *encoders.cases(),
        *vae.cases(),
        *composed.cases(),
        *blocks.cases(),
    ]
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise ValueError("two cases share a name")
    return cases
