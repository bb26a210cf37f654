"""What do the mask generator (BBMG) and the refinement of noise (NRS) each add to SBI?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 11:
with and without each; AUC on Celeb-DF-v2, DFDC, DFDC preview and FFIW-10K.

    uv run python sweeps/adfd_components.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_components.py --datasets datasets.toml     # the experiment itself: 5 x 3 seeds
    uv run python sweeps/adfd_components.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. "neither" is SBI with LAL masks, which "NRS" keeps. The column ffpp is not
in Table 11 but in Tables 2, 9, 12 and 13; of NRS alone there is none. Not in the paper: the last row draws 8 of a
video's 32 frames anew in each epoch, where the others keep to the same 8, as the paper and SBI's code do.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SBI, SHORT

LAL, NO_NRS = {"model.data.blend.mask.kind": "lal"}, {"model.nrs.enabled": False}
OTHER_FRAMES = {"model.optim.fixed_frames": False}

SWEEP = Sweep(
    name="adfd_components",
    title="BBMG + NRS, Table 11: components",
    base=BASE,
    small=SHORT,
    row_name="with",
    headings=HEADINGS,
    rows=(
        Row("neither", SBI, "99.56 91.23 72.10 86.25 83.68 83.32"),
        Row("BBMG", NO_NRS, "99.55 91.37 72.57 85.66 86.31 83.98"),
        Row("NRS", LAL, "- 91.38 72.80 86.50 86.18 84.22"),
        Row("BBMG + NRS", {}, "99.52 91.37 72.98 85.89 87.77 84.50"),
        Row("other frames in each epoch", OTHER_FRAMES),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
