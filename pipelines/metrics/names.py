"""The words that name a number in RESULTS: its level, its metric, and words that stand for a mean."""

LEVELS = ("frame", "video")
DETECTING = ("auc", "ap", "eer", "acc_at_0_5")
LOCALIZING = ("iou", "pbca")  # counted in pixels of faces: there is no video level
METRICS = (*DETECTING, *LOCALIZING)
FINAL = "final"  # instead of a stage's name: the paper's score, the mean over its stages
UNSEEN = "unseen"  # instead of a test dataset's name: the mean over those not trained on
