"""`python -m orchestration.cli` is `ham`."""

from orchestration.cli import main

if __name__ == "__main__":
    main()
