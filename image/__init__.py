"""Build the container image.

build.py runs the Dockerfile without a container engine.  The Dockerfile runs prune, assemble, bill and finish, in this
order; they need only the standard library.  archive.py reads the result.
"""
