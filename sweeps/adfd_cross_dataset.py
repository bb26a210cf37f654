"""How well does BBMG + NRS, trained on real faces of FF++, find forgeries of other datasets?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 8:
beside SBI with LAL masks, which its authors trained themselves, and ten other methods; AUC on Celeb-DF-v2, DFDC, DFDC
preview and FFIW-10K, and their mean.

    uv run python sweeps/adfd_cross_dataset.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_cross_dataset.py --datasets datasets.toml     # the experiment itself: 2 x 3 seeds
    uv run python sweeps/adfd_cross_dataset.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. Both rows that run are rows of Table 11 as well. Of the others the paper's
"Avg", in the column unseen, is the mean over those datasets that have a value.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SBI, SMALL

SWEEP = Sweep(
    name="adfd_cross_dataset",
    title="BBMG + NRS, Table 8: datasets never seen",
    base=BASE,
    small=SMALL,
    row_name="method",
    headings=HEADINGS[1:],
    rows=(
        Row("DSP-FWA", published="69.30 - - - 69.30"),
        Row("Face X-ray + BI, real faces", published="- - 71.15 - 71.15"),
        Row("Face X-ray + BI, real and fake", published="- - 80.92 - 80.92"),
        Row("Two-branch", published="76.65 - - - 76.65"),
        Row("DAM", published="75.30 - 72.80 - 74.05"),
        Row("LipForensics", published="82.40 - - - 82.40"),
        Row("FTCN", published="86.90 71.00 74.00 74.47 76.59"),
        Row("LRL", published="78.26 - 76.53 - 77.40"),
        Row("FRDM", published="79.40 - 79.70 - 79.55"),
        Row("PCL + I2G", published="90.03 67.52 74.37 - 77.31"),
        Row("SBI", SBI, "91.23 72.10 86.25 83.68 83.32"),
        Row("SLADD", published="79.70 - 76.00 - 77.85"),
        Row("BBMG + NRS", {}, "91.37 72.98 85.89 87.77 84.50"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
