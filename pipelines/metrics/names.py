"""The words of a number: at which level it is taken, which metric it is, and names that stand for several."""

