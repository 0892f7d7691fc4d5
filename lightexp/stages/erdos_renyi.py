"""Allocate a model's sparsity to its layers by the Erdős–Rényi-Kernel rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightexp.core.protocols import Layer


def allocate_erdos_renyi(layers: Sequence[Layer], sparsity: float) -> dict[str, float]:
    """Compute the sparsity of each layer by the Erdős–Rényi-Kernel rule.

    Evci et al. 2020 (arXiv 1911.11134). A layer's density is proportional to the sum of its kernel's dimensions divided
    by their product. Layers whose density would exceed 1 are kept dense, and the others are made sparser in exchange.

    Args:
        layers: Layers with kernels.
        sparsity: Sparsity of all kernels together.

    Returns:
        Sparsities by layer name.
    """
    sizes = {layer.name: float(np.prod(layer.kernel or (0,))) for layer in layers}
    raw_densities = {layer.name: sum(layer.kernel or (0,)) / sizes[layer.name] for layer in layers}
    dense: set[str] = set()
    while True:
        sparse = [name for name in sizes if name not in dense]
        weights = (1 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in dense)
        scale = weights / sum(raw_densities[name] * sizes[name] for name in sparse) if sparse else 0.0
        too_dense = {name for name in sparse if scale * raw_densities[name] > 1}
        if not too_dense:
            return {name: 0.0 if name in dense else 1 - scale * raw_densities[name] for name in sizes}
        dense |= too_dense
