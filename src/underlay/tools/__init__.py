"""The commands that measure and ask; each `_<command>_cli.py` offers `configure` and `main`.

This room knows the rooms below it; nothing below knows it. Its files are imported one by one by the
command line, so importing the room itself costs nothing.
"""
