"""How well does Delocate, trained on FF++, find forgeries of datasets that it has never seen?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 1: trained on all four manipulations of FF++, AUC and equal error rate on Celeb-DF-v2,
DeeperForensics and DFDC, beside ten other methods. Of an error rate, less is better.

    uv run python sweeps/delocate_cross_dataset.py                              # no datasets: made-up sample corpus
    uv run python sweeps/delocate_cross_dataset.py --datasets datasets.toml     # the experiment itself: 3 seeds
    uv run python sweeps/delocate_cross_dataset.py --dry-run                    # only the plan

The paper names neither the compression (here c23, as in its Table 4) nor the level (here video).
"""

from pipelines.sweep import Experiment, Row, Sweep, main

SWEEP = Sweep(
    name="delocate_cross_dataset",
    title="Delocate, Table 1: datasets never seen",
    base=Experiment(
        model="delocate",
        train_on="ffpp",
        test_on=("celeb_df", "deeper_forensics", "dfdc"),
    ),
    row_name="method",
    headings=("celeb_df", "celeb_df eer", "deeper_forensics", "deeper_forensics eer", "dfdc", "dfdc eer"),
    rows=(
        Row("MultiAtt", published="76.7 32.8 72.4 34.7 67.3 38.3"),
        Row("LipForensics", published="82.4 24.2 97.6 10.6 73.5 36.5"),
        Row("Huang et al.", published="83.8 24.9 90.8 15.3 81.2 26.8"),
        Row("OST", published="74.8 31.2 95.1 9.7 83.3 25.0"),
        Row("RECCE", published="73.7 30.3 89.3 16.9 74.0 31.1"),
        Row("MRL", published="86.7 18.3 91.1 15.6 74.5 30.1"),
        Row("DisGRL", published="76.7 28.3 88.4 18.5 74.8 30.0"),
        Row("Kong et al.", published="70.7 35.5 82.6 24.7 63.3 40.8"),
        Row("Zhao et al.", published="74.8 30.0 80.9 25.8 79.0 26.1"),
        Row("Chao et al.", published="86.2 18.1 99.0 7.6 82.5 25.1"),
        Row("Delocate", {}, "91.3 14.1 99.1 6.6 84.0 24.7"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
