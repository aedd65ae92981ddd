"""The command line of rt-embed."""
