"""Does LRE, trained on one manipulation of FF++, find the three others?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Table II, rows "Ours": trained
on one manipulation of FF++ (c23), AUC on each of the four.

    python sweeps/lre_cross_manipulation.py                              # no datasets: made-up sample corpus
    python sweeps/lre_cross_manipulation.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    python sweeps/lre_cross_manipulation.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. The autoencoder sees real faces only: it is
trained once for all rows. Differs from the paper: its averages and its three other methods are left out.
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._ffpp import FOUR
from sweeps._lre import SHORT

SWEEP = Sweep(
    name="lre_cross_manipulation",
    title="LRE, Table II: manipulations never seen",
    base=Experiment(model="lre", train_on="ffpp", test_on=(), protocol="cross_manipulation"),
    small=SHORT,
    level="frame",
    row_name="method, trained on",
    headings=tuple(f"ffpp/{name}" for name in FOUR),
    rows=side_by_side(
        {name: {"manipulations": (name,)} for name in FOUR},
        Row(
            "LRE",
            {},
            "99.85 70 41.38 71.42 78.99 99.01 55.53 70.45 63.4 70.79 99.53 51.48 84.14 76.4 50.88 96.51",
        ),
        baseline="LRE",
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
