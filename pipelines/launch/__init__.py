"""One launch of a sweep. Every step asks what is there already, so the same command goes on after any interruption.

In: a sweep and the switches of the command line. Out: the table on the terminal, a report, runs in MLflow and an exit
code.

    switches   those that commands share: of a launch, of scores from elsewhere
    options    the switches of a launch as a value
    request    sweep and switches, resolved: experiments, preset, storage, where the videos are
    data       which videos the experiments need, and where their faces are
    plan       the trials and distinct stages of a launch, and how they are printed
    duration   how long that takes, from what the storage has measured
    cost       what training at the papers' sizes takes, computed where nothing is measured
    resources  how many trials run at once; workers, loaders and scoring actors of each
    launch     extract, train and score what is missing, then publish
    search     the best setting by validation AUC, in place of the table's rows
    foreign    scores from elsewhere: which videos they must be of, the run and the report that they become
    publish    the end: report written, table printed, runs logged
"""
