"""``python -m distcalib``: the command line, where its script is not on the path."""

from distcalib.cli import main

if __name__ == "__main__":
    main()
