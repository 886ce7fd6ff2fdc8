"""``python -m underlay`` is the command ``underlay``; this file knows only that."""

from .cli import entry

if __name__ == "__main__":
    entry()
