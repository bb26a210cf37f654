"""RESULTS to what a person reads. No model, no Ray; all of it can be made again from the files of the runs.

In: a sweep's declaration, RESULTS, PREDICTIONS and EVIDENCE of its trials, LEDGER of its videos. Out: Markdown, CSV,
PNG and one HTML page in `<storage>/reports/<sweep>-<key>/`.

    saved          a report's folder and its runs, read back
    table          what stands in a cell: published, ours, difference, test against the baseline row
    plot           the table as a picture
    figures        charts of trainings and scores; colours, strokes and legends of all charts
    robustness     a number against the level of each perturbation, as curves
    page           the whole report as one HTML page
    report         the table of a sweep with its notes, and all its files
    foreign        rows of a sweep's table whose scores were made elsewhere
    cache          a report that is there already is not made again
    evidence       pictures beside a score: course over time, heat-maps, examples, t-SNE
    contact_sheet  strips of pictures with captions, as PNG or HTML
    coverage       what became of the videos, by class and manipulation
    leaks          can the label be guessed from what failed
"""
