"""What is asked, as frozen values that are checked before anything starts.

In: a file of `sweeps/`. Out: for each row and seed an experiment, and the rows of VIDEOS that it trains on, selects by
and scores.

    experiment  one training and its tests: paper, settings, datasets, seed; `override` is the only way to vary it
    protocol    which videos train, select and are scored, and what is refused
    sweep       a table of a paper: base experiment, rows, columns, published values
    space       what a search may choose from
"""
