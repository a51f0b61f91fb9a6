"""python -m tests.imports: import what most tests do, so that its bytecode is there before many processes start."""

from __future__ import annotations

from importlib import import_module

MODULES = [
    "accelerate",
    "datasets",
    "onnxruntime",
    "pandas",
    "ray",
    "scipy.signal",
    "scipy.stats",
    "sklearn.cluster",
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.utils.tensorboard",
    "transformers.models.encodec.modeling_encodec",
    "transformers.models.hubert.modeling_hubert",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mimi.modeling_mimi",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.trainer",
]

if __name__ == "__main__":
    for name in MODULES:
        try:
            import_module(name)
        except ImportError as error:  # an extra that is not there: its tests say so
            print(f"not imported: {name} ({error})")
