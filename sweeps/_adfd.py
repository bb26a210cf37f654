"""What the sweeps of BBMG + NRS have in common."""

from pipelines.sweep import Experiment
from sweeps._ffpp import FOUR

COLUMNS = ("ffpp", "celeb_df", "dfdc", "dfdcp", "ffiw")
BASE = Experiment(
    model="adfd",
    train_on="ffpp",
    manipulations=FOUR,  # nothing is learned from them: they are in the val part
    codec="raw",  # as in SBI's code, which this paper builds on
    test_on=COLUMNS,
    failed_videos="half",  # Sec. 4.1: a video without a face scores 0.5
)
# The paper's baseline: SBI with the landmark masks (LAL) of Face X-ray.
SBI = {"model.data.blend.mask.kind": "lal", "model.nrs.enabled": False}
# The sample corpus has nothing uncompressed; and half of what the small preset trains, equal in all tables.
SHORT = {"codec": "c23", "model.optim.num_epochs": 6, "model.optim.decay_start": 4, "model.nrs.start_epoch": 3}
