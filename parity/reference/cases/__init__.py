"""Every committed case, one small entry each."""

from case import BlockCase, ModelCase

from . import blocks, encoders, flux, llama, vae


def all_cases() -> list[ModelCase | BlockCase]:
    """All cases; names are unique."""
    cases: list[ModelCase | BlockCase] = [*flux.cases(), *llama.cases(), *encoders.cases(), *vae.cases(), *blocks.cases()]
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise ValueError("two cases share a name")
    return cases
