"""`python -m export CHECKPOINT`: the command is in `cli.py`."""

from interruptible import run

if __name__ == "__main__":
    run("export.cli:app")
