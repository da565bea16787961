"""Grown models as files: safetensors and JSON, checkpoints that are grown as they are read, folders, a page."""
