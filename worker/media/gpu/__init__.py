"""Decoding on an NVIDIA GPU: NVDEC sessions, surfaces, the CuPy kernel."""
