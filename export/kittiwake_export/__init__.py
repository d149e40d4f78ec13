"""Export: a checkpoint in, a model bundle (ONNX, golden values, manifest, card) out."""

__version__ = "0.1.0"
