"""fgvr: composable stages for fine-grained visual recognition with multimodal language models."""

__version__ = "0.1.0"
