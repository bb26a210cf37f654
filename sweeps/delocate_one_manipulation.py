"""Does Delocate still find forgeries of other datasets when it has seen one manipulation only?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 2: trained on one manipulation of FF++ at a time, AUC on Celeb-DF-v2, DeeperForensics and
DFDC, beside ten other methods.

    uv run python sweeps/delocate_one_manipulation.py                              # no datasets: made-up sample corpus
    uv run python sweeps/delocate_one_manipulation.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/delocate_one_manipulation.py --dry-run                    # only the plan

The stage `recover` sees real videos only: it is trained once for all four rows. Differs from the paper: the ten other
methods of its table are not here; compression and level are not given (here c23, video).
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._delocate import SHORT
from sweeps._ffpp import FOUR

SWEEP = Sweep(
    name="delocate_one_manipulation",
    title="Delocate, Table 2: trained on one manipulation",
    base=Experiment(
        model="delocate",
        train_on="ffpp",
        test_on=("celeb_df", "deeper_forensics", "dfdc"),
    ),
    small=SHORT,
    row_name="method, trained on",
    headings=("celeb_df", "deeper_forensics", "dfdc"),
    rows=side_by_side(
        {name: {"manipulations": (name,)} for name in FOUR},
        Row("MultiAtt", published="68.7 80.6 70.1 69.6 81.9 68.6 70.4 82.5 70.1 70.2 82.9 66.9"),
        Row("LipForensics", published="69.3 90.1 70.8 69.1 72.4 71.4 72.3 71.9 71.8 70.9 73.2 69.8"),
        Row("Huang et al.", published="72.9 90.9 72.8 74.2 91.2 75.8 72.7 89.9 71.9 74.8 91.3 73.5"),
        Row("OST", published="76.6 93.8 75.7 79.9 94.7 79.8 79.2 90.9 80.2 75.3 92.9 75.2"),
        Row("RECCE", published="69.7 78.0 68.0 70.5 75.7 71.1 69.7 73.3 71.1 70.1 74.5 70.2"),
        Row("MRL", published="72.9 79.3 72.2 70.6 79.5 71.2 73.1 84.2 70.5 71.4 82.1 72.4"),
        Row("DisGRL", published="71.5 79.2 70.2 70.3 78.9 72.0 73.3 82.9 71.0 72.8 83.7 72.3"),
        Row("Kong et al.", published="69.3 80.8 62.6 68.4 79.4 62.1 69.2 79.2 62.9 70.1 79.2 62.3"),
        Row("Zhao et al.", published="71.2 79.8 76.2 70.4 79.6 76.1 73.0 79.0 75.9 71.8 79.2 74.6"),
        Row("Chao et al.", published="72.4 89.1 75.0 79.7 90.6 76.2 80.4 90.5 80.1 75.4 91.6 72.3"),
        Row("Delocate", {}, "78.2 94.5 76.3 80.9 93.3 79.9 81.6 91.5 80.8 76.8 90.9 75.9"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
