"""PREDICTIONS to RESULTS. No model, no Ray, no file.

In: scores of faces with their labels. Out: numbers in [0, 1], each with its 95 % interval over resampled videos.

    names         the words that name a number: levels, metrics, `final`, `unseen`
    ranking       ROC, AUC, AP and EER of ranked scores, for many resamples at once
    detection     scores of faces to a video's score; every metric; the resamples of videos
    results       the rows of RESULTS, and means over levels of a perturbation and over datasets
    significance  is a row better than its baseline: paired bootstrap, Holm's correction
"""
