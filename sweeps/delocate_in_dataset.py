"""How well does Delocate find the one manipulation of FF++ that it was trained on?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 4, last row: trained and tested on the same manipulation of FF++ (c23), AUC.

    python sweeps/delocate_in_dataset.py                              # no datasets: made-up sample corpus
    python sweeps/delocate_in_dataset.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    python sweeps/delocate_in_dataset.py --dry-run                    # only the plan

Trains what Table 2 trains (sweeps/delocate_one_manipulation.py). Differs from the paper: the ten other methods of its
table are not here. Its text calls these numbers accuracy, its caption AUC.
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._delocate import SHORT

SWEEP = Sweep(
    name="delocate_in_dataset",
    title="Delocate, Table 4: the manipulation it was trained on",
    base=Experiment(model="delocate", train_on="ffpp", test_on=(), protocol="per_manipulation"),
    small=SHORT,
    row_name="method, trained and tested on",
    headings=("auc",),
    rows=side_by_side(
        {name: {"manipulations": (name,)} for name in ("Deepfakes", "FaceSwap", "Face2Face", "NeuralTextures")},
        Row("Delocate", {}, "99.8 99.7 99.7 99.3"),
        baseline="Delocate",
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
