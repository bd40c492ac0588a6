"""How the image is made.

build.py runs the Dockerfile where there is no container engine; the Dockerfile runs prune, assemble, bill and finish,
in this order, which need the standard library only; archive.py looks into what came out.
"""
