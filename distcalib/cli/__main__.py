"""``python -m distcalib.cli``."""

from distcalib.cli import main

if __name__ == "__main__":
    main()
