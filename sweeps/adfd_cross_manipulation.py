"""How well does BBMG + NRS, trained on real faces only, find each manipulation of FF++?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table
9: beside SBI with LAL masks; AUC on each manipulation of FF++.

    python sweeps/adfd_cross_manipulation.py                              # no datasets: made-up sample corpus
    python sweeps/adfd_cross_manipulation.py --datasets datasets.toml     # the experiment itself: 2 x 3 seeds
    python sweeps/adfd_cross_manipulation.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. Nothing is learned from the one manipulation that is named: it stands
in the validation part. Differs from the paper: its column of all four (99.56 for SBI, 99.52 for BBMG + NRS) is the
column ffpp of sweeps/adfd_components.py; its three other methods are not here.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, SBI, SHORT

SWEEP = Sweep(
    name="adfd_cross_manipulation",
    title="BBMG + NRS, Table 9: manipulations of FF++",
    base=BASE.override({"protocol": "cross_manipulation", "manipulations": ("Deepfakes",), "test_on": ()}),
    small=SHORT,
    row_name="method",
    headings=("ffpp/Deepfakes", "ffpp/Face2Face", "ffpp/FaceSwap", "ffpp/NeuralTextures"),
    rows=(
        Row("SBI", SBI, "99.99 99.77 99.90 98.57"),
        Row("BBMG + NRS", {}, "99.98 99.83 99.89 98.38"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
