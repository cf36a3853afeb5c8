"""A small experiment that finishes in seconds."""

from typing import Any

EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "dataset": "digits",
    "network": {"name": "mlp", "hidden": [16]},
    "methods": ["ann", {"name": "bptt", "settings": {"surrogate": "triangle"}}],
    "time_steps": 2,
    "seeds": [0, 1],
    "train": {"epochs": 2, "batch_size": 128},
    "evaluation": {"latency_repeats": 2},
    "tracking": {"mlflow": False},
}
