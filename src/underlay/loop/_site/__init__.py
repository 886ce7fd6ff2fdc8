"""A directory that `underlay run` puts on PYTHONPATH; see ``sitecustomize`` beside this file."""
