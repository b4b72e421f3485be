"""`python -m server --repository DIR`: the commands are in `cli.py`."""

from interruptible import run

if __name__ == "__main__":
    run("server.cli:main")
