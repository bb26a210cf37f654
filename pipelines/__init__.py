"""From video files to a paper's table. This is the map; `docs/code.md` says in which file to look for what.

    folders, lists    -- datasets -->   VIDEOS            one row per video
    VIDEOS            -- faces -->      FACES, LEDGER     one row per face; what became of each video
    FACES             -- training -->   stages            the weights of a paper's network, named by a digest
    stages x FACES    -- scoring -->    PREDICTIONS       one row per face and stage: P(fake)
    PREDICTIONS       -- metrics -->    RESULTS           one row per number, with its interval
    RESULTS           -- reporting -->  table, plot, page
    all of it         -- tracking -->   MLflow

`experiments` says what is asked, `trials` plans and runs one row of a table, `launch` a whole table. The tables are
declared in `common/tables.py`.

Packages, from the ground up. Each imports only those above it in this list:

    common       what every package needs: files, tables, Ray, devices, progress; no domain
    media        bytes of a video or picture to frames
    datasets     folders and lists to VIDEOS; one file per dataset
    faces        VIDEOS to FACES: detect, follow, crop, mask, store
    metrics      PREDICTIONS to RESULTS: numbers, intervals, tests
    experiments  what is asked: an experiment, its protocol, a sweep, a search space
    training     FACES to a trained stage
    reporting    RESULTS to what a person reads
    scoring      trained stages and FACES to PREDICTIONS, and to pictures of what a stage looks at
    trials       one row of a sweep with one seed: planned, trained, scored, written down
    tracking     MLflow: runs, registered models
    launch       one launch of a sweep, from the plan to the report
    commands     what each command does, once its switches are read

On top are the commands: sweep, train, preprocess, doctor, coverage, browse, report, predict, score_file,
score_detector. Each has its text and its switches, imports nothing that takes long, calls its namesake in `commands`,
and exits. `crossforge` is all of them under one name.

Rules, which `tests/test_imports.py` checks. `models/` may be imported by all, and imports nothing from here. Nothing
imports a command but `sweeps/`, which take all that they need from `pipelines.sweep`. Only `tracking` imports MLflow.
A line belongs in the lowest package that knows everything the line speaks of.
"""
