"""Checkpoints of true architectures with random weights: benchmarks and tests need no hub, and no codec says nothing.

A codebook as it is initialized holds zeros, and gives one single code. Here each is filled with latents that reach
it, level by level, so that a residual quantizer uses its codes as a trained one does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.errors import UsageError
from slm.files import atomic_directory

if TYPE_CHECKING:
    import torch


def own_folder(folder: str | Path) -> Path:
    """The folder for an untrained checkpoint; UsageError where something is in it."""
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: an untrained checkpoint needs a folder of its own")
    return folder


def write_untrained(
    network: Any, config: dict[str, Any], folder: Path, seed: int, prepare: Callable[[Any, int], None]
) -> None:
    """`network` (of transformers) with this configuration, seeded, saved as the hub serves it.

    `prepare(model, seed)` sees to it that its quantizer gives many codes.
    """
    import torch

    own_folder(folder)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # GPUs are left alone
        model = network(network.config_class(**config)).eval()
        prepare(model, seed)
        with atomic_directory(folder) as temporary:
            model.save_pretrained(temporary)


def fill_codebooks(model: Any, seed: int) -> None:
    """Fill every codebook with latents of 10 s of noise, encoded in all codebooks."""
    config = model.config
    signal = noise(getattr(config, "sampling_rate", None) or config.sample_rate)
    bandwidths = getattr(config, "target_bandwidths", None)
    filling_codebooks(
        model, lambda: model.encode(signal, **({"bandwidth": max(bandwidths)} if bandwidths else {})), seed
    )


def filling_codebooks(model: torch.nn.Module, encode: Callable[[], Any], seed: int = 0) -> None:
    """Give each Euclidean codebook of `model` as many of the latents that reach it while `encode` runs.

    A level sees the residue of those before, which are full by then. Codebooks of other kinds stay as they are.
    """
    import torch

    # Recognized by name: each family of transformers has a class of its own.
    books: list[Any] = [
        m for m in model.modules() if type(m).__name__.endswith("EuclideanCodebook") and hasattr(m, "quantize")
    ]
    generator = torch.Generator().manual_seed(seed)
    for book in books:
        book.quantize = _filling(book, generator)
    try:
        if books:
            with torch.no_grad():
                encode()
    finally:
        for book in books:
            vars(book).pop("quantize", None)


def _filling(book: Any, generator: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """`book.quantize`, which fills the book when it is first called."""
    import torch

    quantize, full = book.quantize, False

    def fill_and_quantize(latents: torch.Tensor) -> torch.Tensor:
        nonlocal full
        if not full:
            full = True
            table = book.embed_sum if hasattr(book, "embed_sum") else book.embed
            # The mean of two latents, and some noise, leaves something to the next level, down to the 32nd.
            pairs = torch.randint(len(latents), (2, len(table)), generator=generator)
            jitter = 0.3 * latents.std(dim=0) * torch.randn(table.shape, generator=generator)
            table.copy_(latents[pairs].mean(dim=0) + jitter)
            book._embed = None  # Mimi keeps embed_sum / cluster_usage
        return quantize(latents)

    return fill_and_quantize


def redraw(model: torch.nn.Module) -> None:
    """Draw all matrices and kernels anew with variance 1 / fan-in: with less, deep stacks give the same for all."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(std=parameter[0].numel() ** -0.5)


def fill_projected(quantizer: Any, vectors: torch.Tensor) -> None:
    """Fill a codebook with vectors that `quantizer.in_proj` gives `[N, D]`, less their mean, and some noise.

    From then on `in_proj` takes the mean off: codes are chosen by direction, and all would have that of the mean.
    """
    import torch

    mean, spread = vectors.mean(dim=0), vectors.std(dim=0)
    quantizer.in_proj.bias.sub_(mean)
    table = quantizer.codebook.weight
    rows = torch.randperm(len(vectors))[torch.arange(len(table)) % len(vectors)]
    table.copy_(vectors[rows] - mean + 0.3 * spread * torch.randn(table.shape))


def spread_scalars(projection: torch.nn.Linear, encode: Callable[[], Any]) -> None:
    """Make the outputs of `projection`, which are rounded to levels, have mean 0 and variance 1 while `encode` runs."""
    seen: list[torch.Tensor] = []
    hook = projection.register_forward_hook(lambda _, __, output: seen.append(output.flatten(0, -2)))
    try:
        encode()
    finally:
        hook.remove()
    scale = 1 / (seen[0].std(dim=0) + 1e-9)
    projection.weight.mul_(scale[:, None])
    projection.bias.sub_(seen[0].mean(dim=0)).mul_(scale)


def noise(rate_hz: int) -> torch.Tensor:
    """10 s of noise `[1, 1, N]` whose loudness and colour change."""
    import torch
    from torch.nn.functional import avg_pool1d

    white = torch.randn(1, 1, 10 * rate_hz)
    dull = 8 * avg_pool1d(white, 65, stride=1, padding=32)
    loudness, colour = torch.rand(2, 50).pow(2).repeat_interleave(rate_hz // 5, dim=1)
    return loudness * (white + colour * dull)
