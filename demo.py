"""Start `make demo`, which is in `loadtest/demo.py`.

It transcribes real speech with the whole service, and then measures the live streams per core.
"""

from interruptible import run

if __name__ == "__main__":
    run("loadtest.demo:app")
