"""How well does Delocate outline what is forged in datasets that it has never seen?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 3: trained on all four manipulations of FF++; intersection over union (IoU) and share of
pixels that are right (PBCA) on Celeb-DF-v2, DeeperForensics and DFDC, beside three other methods. The paper prints
0.801, here in percent as everywhere. How both are counted, and why its IoU above its PBCA can't be of the same pixels:
docs/protocol.md, docs/papers.md.

    uv run python sweeps/delocate_localization.py                              # no datasets: made-up sample corpus
    uv run python sweeps/delocate_localization.py --datasets datasets.toml     # the experiment itself: 3 seeds
    uv run python sweeps/delocate_localization.py --dry-run                    # only the plan

Differs from the paper: the true mask is the difference between a forged face and its real counterpart at the same
time, read from the same dataset. DFDC names none for its test videos, and DeeperForensics' lie in FF++: these four
columns stay without a number, and the report says so. Trains what Table 1 trains.
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._delocate import SHORT

SWEEP = Sweep(
    name="delocate_localization",
    title="Delocate, Table 3: localization",
    base=Experiment(
        model="delocate",
        train_on="ffpp",
        test_on=("celeb_df", "deeper_forensics", "dfdc"),
    ),
    small=SHORT,
    row_name="method",
    headings=(
        "celeb_df iou",
        "celeb_df pbca",
        "deeper_forensics iou",
        "deeper_forensics pbca",
        "dfdc iou",
        "dfdc pbca",
    ),
    rows=(
        Row("Kong et al.", published="70.9 72.1 84.3 82.6 61.6 62.4"),
        Row("Zhao et al.", published="78.9 76.7 90.4 90.5 70.8 70.6"),
        Row("Chao et al.", published="79.8 78.4 92.1 91.9 74.1 72.6"),
        Row("Delocate", {}, "80.1 80.2 93.7 92.6 73.8 72.7"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
