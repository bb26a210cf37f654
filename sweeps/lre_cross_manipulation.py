"""Does LRE, trained on one manipulation of FF++, find the three others?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Table II, rows "Ours": trained
on one manipulation of FF++ (c23), AUC on each of the four.

    python sweeps/lre_cross_manipulation.py                              # no datasets: made-up sample corpus
    python sweeps/lre_cross_manipulation.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    python sweeps/lre_cross_manipulation.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. The autoencoder sees real faces only: it is
trained once for all rows. Differs from the paper: its averages and its three other methods are left out.
"""

from pipelines.sweep import Experiment, Sweep, main, printed
from sweeps._ffpp import FOUR
from sweeps._lre import SHORT

SWEEP = Sweep(
    name="lre_cross_manipulation",
    title="LRE, Table II: manipulations never seen",
    base=Experiment(model="lre", train_on="ffpp", test_on=(), protocol="cross_manipulation"),
    small=SHORT,
    level="frame",
    row_name="trained on",
    rows={name: {"manipulations": (name,)} for name in FOUR},
    published=printed(
        [f"ffpp/{name}" for name in FOUR],
        {
            "Deepfakes": (99.85, 70, 41.38, 71.42),
            "Face2Face": (78.99, 99.01, 55.53, 70.45),
            "FaceSwap": (63.4, 70.79, 99.53, 51.48),
            "NeuralTextures": (84.14, 76.4, 50.88, 96.51),
        },
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
