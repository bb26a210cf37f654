"""What each command does, once its switches are read. The commands themselves are the files of `pipelines/`.

A command's file has its text, its switches and `main`, and imports nothing that takes long, so that `--help` and
completion answer at once. What it calls is here, under the same name, with whatever it needs imported at the top.

    sweep           a question of a paper, or one method on one's own data (`train`): searched or launched
    doctor          datasets, examined before anything is spent on them
    preprocess      faces ahead of the sweeps
    report          stored reports, made again
    coverage        what an extraction made of its videos
    browse          a contact sheet of an extraction
    predict         videos of one's own by a trained trial
    score_file      a method by a file of its scores
    score_detector  a detector of the user's own over our faces
"""
