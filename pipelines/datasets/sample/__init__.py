"""The sample corpus: made-up videos in the folder layouts of the real datasets.

In: a folder. Out: one tree for each dataset below it, and {dataset: root}. The adapters read them like the real ones.

    corpus  which videos there are, written as the datasets' owners would
    people  people, takes and forgeries as arrays, without files
"""
