"""Where in its Xception, and how, should LRE's attention maps weigh the features?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Sec. III-C takes maps from
"middle layers" and joins them with the features by an "inner product"; there is no table of other readings. Published
values, those of Table IV, stand in the row of our default only.

    uv run python sweeps/lre_gate.py                              # no datasets: made-up sample corpus
    uv run python sweeps/lre_gate.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/lre_gate.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. Trained on all four manipulations of FF++
(c23); the autoencoder is trained once for all rows. "entry flow" is blocks 1 to 3, "middle flow" blocks 4, 8 and 11,
the first, one in the middle and the last of Xception's eight (in the small preset its only one). A y is the feature y
times the map A; (1 + A) y keeps the features where the face could be filled in.
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._lre import SHORT

MULTIPLY, KEEP = {"model.detect.gate": "mul"}, {"model.detect.gate": "residual"}
MIDDLE, ONLY_MIDDLE = {"model.detect.taps": (4, 8, 11)}, {"model.detect.taps": (4,)}

SWEEP = Sweep(
    name="lre_gate",
    title="LRE, Sec. III-C: where and how maps weigh features",
    base=Experiment(model="lre", train_on="ffpp", test_on=("ffpp", "celeb_df", "dfd")),
    small=SHORT,
    level="frame",
    row_name="maps",
    headings=("ffpp", "celeb_df", "dfd"),
    rows=(
        Row("entry flow, A y", MULTIPLY, "97.24 77.47 95.23"),
        Row("entry flow, (1 + A) y", KEEP),
        Row("middle flow, A y", MIDDLE | MULTIPLY, small=ONLY_MIDDLE | MULTIPLY),
        Row("middle flow, (1 + A) y", MIDDLE | KEEP, small=ONLY_MIDDLE | KEEP),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
