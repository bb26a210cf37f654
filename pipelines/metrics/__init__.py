"""PREDICTIONS to RESULTS. No model, no Ray, no file.

In: scores of faces with their labels. Out: numbers in [0, 1], each with its 95 % interval over the people in videos.

    names         the words that name a number: levels, metrics, `final`, `unseen`
    ranking       ROC, AUC, AP, EER and TPR at an FPR of ranked scores, for many resamples at once
    resampling    who is in which video; resamples by people; variance, interval and p that follow
    detection     scores of faces to a video's score; every metric, in all resamples
    calibration   the threshold and the temperature that validation says
    results       the rows of RESULTS, and means over levels of a perturbation and over datasets
    significance  is a row better than its baseline: paired test, Holm's correction; a row's interval over seeds
"""
