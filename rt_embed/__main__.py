"""`python -m rt_embed`: the command line, where `rt-embed` is not on the path."""

from rt_embed.cli.main import main

if __name__ == "__main__":
    main()
