"""How well does Delocate find the one manipulation of FF++ that it was trained on?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 4: trained and tested on the same manipulation of FF++ (c23), AUC, beside ten other methods.

    uv run python sweeps/delocate_in_dataset.py                              # no datasets: made-up sample corpus
    uv run python sweeps/delocate_in_dataset.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/delocate_in_dataset.py --dry-run                    # only the plan

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
        Row("MultiAtt", published="99.6 100 99.3 98.3"),
        Row("LipForensics", published="99.8 100 99.3 99.7"),
        Row("Huang et al.", published="99.6 99.8 99.5 98.4"),
        Row("OST", published="99.0 98.8 99.1 95.9"),
        Row("RECCE", published="99.7 99.9 99.2 98.4"),
        Row("MRL", published="99.2 98.1 97.3 98.6"),
        Row("DisGRL", published="99.0 99.1 98.3 99.6"),
        Row("Kong et al.", published="99.7 99.6 99.4 98.9"),
        Row("Zhao et al.", published="99.8 99.4 99.0 97.9"),
        Row("Chao et al.", published="100 100 99.9 99.4"),
        Row("Delocate", {}, "99.8 99.7 99.7 99.3"),
        baseline="Delocate",
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
