"""The words that name a number in RESULTS: its level, its metric, and words that stand for a mean."""

LEVELS = ("frame", "video")
TPR_AT = {"tpr_at_fpr_0_01": 0.01, "tpr_at_fpr_0_05": 0.05}  # metric -> false positive rate
RANKING = ("auc", "ap", "eer", *TPR_AT)
AT_HALF = ("acc_at_0_5", "balanced_acc_at_0_5")
CALIBRATION = ("ece", "brier")
# With a threshold or a temperature from validation -> what is then measured.
FITTED = {"acc_at_val": "acc_at_0_5", "ece_scaled": "ece", "brier_scaled": "brier"}
MACRO = "macro_auc"  # mean over manipulations, each against all real videos
DETECTING = (*RANKING, *AT_HALF, *CALIBRATION)
# Counted in pixels of faces: there is no video level.
LOCALIZING = ("iou", "iou_all_fakes", "pbca", "missing_masks", "false_mask_area")
METRICS = (*DETECTING, *FITTED, MACRO, *LOCALIZING)
FINAL = "final"  # instead of a stage's name: the paper's score, the mean over its stages
UNSEEN = "unseen"  # instead of a test dataset's name: the mean over those not trained on
