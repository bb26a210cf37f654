"""Trained stages and FACES to PREDICTIONS.

In: finished stages, the videos of the parts to score, their FACES. Out: one row for each face and stage, every face
exactly once; and what makes a score plausible to a person.

    predictions  where PREDICTIONS of a stage lie, how they come in slices, and how they are read
    score    PREDICTIONS of test parts, by Ray Data or here; what one stage derives for the training of another
    explain  Grad-CAM, a paper's own pictures, features: EVIDENCE and FEATURES
    trained  a finished trial, found by folder, digest or method and read back
    inputs   which videos and pictures lie in the folders that `predict` is given
    predict  videos of one's own, scored by a finished trial

    detector   a detector of one's own over FACES, scored as a stage is
    from_file  scores that were made elsewhere: a file, joined with the videos that a protocol scores
"""
