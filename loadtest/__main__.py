"""`python -m loadtest`: the commands are in `cli.py`."""

from interruptible import run

if __name__ == "__main__":
    run("loadtest.cli:app")
