"""One row of a sweep with one seed.

In: an experiment, VIDEOS and LEDGER of its datasets. Out: `<storage>/runs/<digest>/` with PREDICTIONS and RESULTS.

    trial     a planned trial: its parts, its stages, its folder; what `trial.json` says
    planner   experiments to trials: usable videos, and the digests that name stages and trial
    run       one trial: train, derive, score, write; each only where it is missing
    pictures  what its stages look at, after its results
    tune      many trials at once by Ray Tune, and the search by Optuna and ASHA
    outcome   one launch of a sweep, as data: its trials by row and seed
    foreign   scores that were made elsewhere, written down as a finished trial
"""
