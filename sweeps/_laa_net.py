"""What LAA-Net's sweeps have in common."""

from pipelines.sweep import Experiment

BASE = Experiment(
    model="laa_net",
    train_on="ffpp",
    codec="raw",  # the authors: never c23
    test_on=("celeb_df", "dfd", "dfdcp", "wild_deepfake"),
)
# The sample corpus has nothing uncompressed; and a quarter of what the small preset trains, equal in all tables.
SHORT = {"codec": "c23", "model.optim.num_epochs": 4}
