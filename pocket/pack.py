"""Packs the matrices of a snapshot as MLX does, affine and group by group; everything else becomes f16.

    python3 -m pip install "mlx[cpu]==0.32.2"
    python3 pocket/pack.py SNAPSHOT OUT BITS
"""

import shutil
import sys
from pathlib import Path

import mlx.core as mx

SMALLEST = 4096
"""Matrices of fewer elements stay as they are."""


def packed(name: str, matrix: mx.array, bits: int) -> dict[str, mx.array]:
    group = 64 if matrix.shape[1] % 64 == 0 else 32
    weight, scales, biases = mx.quantize(matrix.astype(mx.float32), group_size=group, bits=bits)
    stem = name.removesuffix("weight")
    return {name: weight, f"{stem}scales": scales.astype(mx.float16), f"{stem}biases": biases.astype(mx.float16)}


def is_packed(name: str, array: mx.array) -> bool:
    return name.endswith(".weight") and array.ndim == 2 and array.size >= SMALLEST and array.shape[1] % 32 == 0


def main(snapshot: Path, out: Path, bits: int) -> None:
    shutil.copytree(snapshot, out)
    for path in sorted(out.glob("*/*.safetensors")):
        arrays: dict[str, mx.array] = {}
        for name, array in mx.load(str(path)).items():
            here = path.parent.name != "vae" and is_packed(name, array)
            arrays |= packed(name, array, bits) if here else {name: array.astype(mx.float16)}
        mx.eval(arrays)
        mx.save_safetensors(str(path), arrays, metadata={"format": "mlx"})
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
