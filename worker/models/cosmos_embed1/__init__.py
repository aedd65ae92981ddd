"""Converts Cosmos-Embed1 from safetensors to a model directory, without PyTorch."""
