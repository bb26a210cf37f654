"""Is LRE better than the Xception that it is built on?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Table V: Xception (here the
plain classifier) and LRE, trained on all four manipulations of FF++ (c23), AUC on Celeb-DF-v2 and DFD. The body of
Table V is missing in the text that we have: LRE's values are those of Table IV, of Xception it is only said that both
are lower.

    uv run python sweeps/lre_components.py                              # no datasets: made-up sample corpus
    uv run python sweeps/lre_components.py --datasets datasets.toml     # the experiment itself: 3 x 3 seeds
    uv run python sweeps/lre_components.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. The row "Xception" is the plain classifier,
which differs from LRE in more than the maps: larger pictures, dlib's faces, no alignment, another rate and another
length of training. The controlled baseline is "LRE w/o maps", which the paper does not have: LRE's own Xception without
attention maps, trained as LRE is.
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._plain import XCEPTION

SWEEP = Sweep(
    name="lre_components",
    title="LRE, Table V: against its backbone",
    base=Experiment(model="lre", train_on="ffpp", test_on=("celeb_df", "dfd")),
    level="frame",
    row_name="method",
    headings=("celeb_df", "dfd"),
    rows=(
        Row("Xception", XCEPTION),
        Row("LRE w/o maps", {"model.detect.gate": "none"}),
        Row("LRE", {}, "77.47 95.23"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
