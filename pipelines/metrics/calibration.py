"""What is chosen on the validation part beside the weights: a threshold, and a temperature.

Neither touches the ranking of scores. Both are chosen for each stage and level, on the validation part's real and fake
videos as they are, also for methods that train on pseudo-fakes.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from scipy.special import log_expit

from pipelines.metrics.names import FITTED
from pipelines.metrics.ranking import Ranking

_SURE = 700.0  # log odds of which P is 0 or 1 in 64 bits
_LOG_TEMPERATURES = (-5.0, 5.0)
_NEAR = 1e-3  # to an end of these, so near that it is where the search ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A threshold on log odds, above which a score means fake, and a temperature that log odds are divided by."""

    threshold: float
    temperature: float

    def note_of(self, metric: str) -> str:
        """Return what to know of a metric of `FITTED` besides; empty: nothing."""
        if FITTED[metric] == "acc_at_0_5":
            return ""
        lowest, highest = _LOG_TEMPERATURES
        log_temperature = math.log(self.temperature)
        for end, bound in (("lowest", lowest), ("highest", highest)):
            if abs(log_temperature - bound) < _NEAR:
                return f"temperature {self.temperature:.3g}, the {end} that is tried: a better one may lie beyond"
        return ""

    @classmethod
    def of(cls, labels: ArrayLike, logits: ArrayLike) -> "Fitted":
        """Return what fits the scores of validation, at least one real and one fake.

        The threshold is that of the highest balanced accuracy, halfway between the two scores that it parts; of several
        the highest, which may lie above all scores: then all are called real. The temperature has the lowest
        cross-entropy (Guo et al., ICML 2017).
        """
        y, z = np.asarray(labels), np.clip(np.asarray(logits, np.float64), -_SURE, _SURE)
        fpr, tpr = (rates[0] for rates in Ranking(y, z).once().roc())
        scores = np.unique(z)[::-1]
        edges = np.concatenate([[scores[0] + 1], scores, [scores[-1] - 1]])
        above = int(np.argmax(tpr - fpr))  # so many distinct scores mean fake
        side = np.where(y == 1, 1, -1) * z

        def loss(log_temperature: float) -> float:
            return float(-log_expit(side / math.exp(log_temperature)).mean())

        from scipy.optimize import minimize_scalar  # here: half a second of import, which only a new fit needs

        best = minimize_scalar(loss, bounds=_LOG_TEMPERATURES)
        # The search ends anywhere on what is level, such as no loss at all, and never at an end itself.
        best_end = min(_LOG_TEMPERATURES, key=loss)
        log_temperature = best_end if loss(best_end) <= best.fun else best.x
        return cls(threshold=float(edges[above] + edges[above + 1]) / 2, temperature=math.exp(log_temperature))

    def applied(self, metric: str, table: pa.Table) -> pa.Table:
        """Return a table of scores with the log odds of which a metric of `FITTED` is what stands there for it."""
        logit = np.clip(table["logit"].to_numpy(), -_SURE, _SURE)  # as the scores that it is fitted to
        changed = logit - self.threshold if FITTED[metric] == "acc_at_0_5" else logit / self.temperature
        return table.set_column(table.schema.get_field_index("logit"), "logit", pa.array(changed))
