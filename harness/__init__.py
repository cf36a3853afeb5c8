"""snn-harness: one engine that trains spiking neural networks by many methods and compares them."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout and in a Ray working directory, methods/ and datasets/ stand beside this package; a wheel packs them
# inside it. Either way their only names are harness.methods.* and harness.datasets.*, so that Hugging Face's
# `datasets` stays importable.
if not (Path(__file__).parent / "methods").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
