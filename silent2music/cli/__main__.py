"""Runs the command line by `python -m silent2music.cli`, as `accelerate launch` and `torchrun` need it."""

from silent2music.cli import main

if __name__ == "__main__":
    main()
