"""The questions: one file each, `python sweeps/<question>.py`. `python -m sweeps` lists them.

Files that begin with `_` hold what several questions of a paper share.
"""
