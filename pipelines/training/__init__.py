"""FACES to a trained stage.

In: a stage of a paper, its videos and their FACES. Out: `<storage>/stages/<paper>/<stage>/<digest>/`: weights, curve.
The same job gives the same weights, killed or not, on one worker or on many.

    views       which videos are in which step
    samples     a video's face or clip, read from FACES and prepared by the stage
    batches     samples stacked into batches, in this process or by loaders of Ray Data
    pretrained  weights of one's own that networks start from: found, checked, kept in the storage
    kept        validation samples, made once
    transfer    batches to the GPU, ahead of the step that needs them
    stages      what names a stage (its digest) and where its files are
    sharing     how many workers share a step, and into how many parts each cuts its share
    job         all that a worker needs to train a stage, and what a trial may use for it
    learner     network, optimizer and state: made, saved in checkpoints by a thread, read back; which epoch is kept
    workers     what the loop asks of the other workers: there are none, or they are Ray Train's
    loop        the training loop of one worker: steps, validation, checkpoints
    train       a stage from start to end: here or on Ray Train's workers, started again when they are lost
"""
