"""The sample corpus: made-up videos in the folder layouts of the real datasets.

In: a folder. Out: one tree for each dataset below it, and {dataset: root}. The adapters read them like the real ones.

    corpus  the videos and lists, written as the datasets' owners would
    plan    which videos there are: who is filmed, what is forged, under which names
    drawing, people, takes, forgeries  what they show, as arrays, without files
"""
