"""`make demo`: real speech through the whole service, then the live streams that a core sustains.

It is in `loadtest/demo.py`.
"""

from interruptible import run

if __name__ == "__main__":
    run("loadtest.demo:app")
