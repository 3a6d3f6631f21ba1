"""`python -m silent2music.cli`, as launchers want it."""

from silent2music.cli import main

if __name__ == "__main__":
    main()
