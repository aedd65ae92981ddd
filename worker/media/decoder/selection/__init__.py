"""Which packets must be decoded to obtain the wanted frames."""
