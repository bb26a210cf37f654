"""MLflow. No other package imports it, and no training waits for it.

In: the outcome of a sweep and the files of its report. Out: an experiment for the sweep, a run for the launch, below it
one for each trial, and the best trial as a registered model.

    client    calls of MLflow by run id, repeated until they work or patience ends
    view      the page of MLflow that shows a launch's table, and its address
    runs      what reaches MLflow: names, tags, parameters, metrics, curves, datasets, files
    logged    that a launch is logged, so that the same command again need not ask
    foreign   the same for scores that were made elsewhere
    registry  the write side of the model registry: which trial wins, and its registered model
    pyfunc    a registered model as MLflow loads it: video paths in, scores out
    lookup    the read side: run ids and `models:/` names to trials
"""
