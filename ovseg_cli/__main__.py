"""`python -m ovseg_cli` is `ovseg`."""

from .cli import main

if __name__ == "__main__":
    main()
