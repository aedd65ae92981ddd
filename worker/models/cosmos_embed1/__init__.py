"""Cosmos-Embed1: from a checkpoint's safetensors to a model directory, without PyTorch."""
