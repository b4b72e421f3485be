"""`python -m training`: the commands are in `cli.py`."""

from interruptible import run

if __name__ == "__main__":
    run("training.cli:app")
