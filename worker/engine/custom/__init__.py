"""A model in Python: `inference.py` in a folder, given by MODEL_IMPLEMENTATION_PATH."""
