"""One launch of a sweep. Every step asks what is there already, so the same command goes on after any interruption.

In: a sweep and the switches of the command line. Out: the table on the terminal, a report, runs in MLflow and an exit
code.

    launch   find the data, plan, extract, train and score; how many trials at once, workers, loaders and actors of each
    search   the best setting by validation AUC, in place of the table's rows
    publish  the end: report written, table printed, runs logged
"""
