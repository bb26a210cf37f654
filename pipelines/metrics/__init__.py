"""PREDICTIONS to RESULTS. No model, no Ray, no file.

In: scores of faces with their labels. Out: numbers in [0, 1], each with its 95 % interval over resampled videos.

    names         the words of a number: levels, metrics, `final`, `unseen`
    ranking       ROC, AUC, AP and EER of ranked scores, for many resamples at once
    detection     scores of faces to a video's score; every metric; the resamples of videos
    results       rows of RESULTS, with the ends of their intervals; means over levels and datasets
    significance  is a row better than its baseline: paired bootstrap, Holm
"""
