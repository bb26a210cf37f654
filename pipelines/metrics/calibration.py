"""What is chosen on the validation part beside the weights: a threshold, and a temperature.

Neither touches the ranking of scores. Both are chosen for each stage and level, on the validation part's real and fake
videos as they are, also for methods that train on pseudo-fakes.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_expit

from pipelines.metrics.names import FITTED
from pipelines.metrics.ranking import Ranking

_SURE = 700.0  # log odds of which P is 0 or 1 in 64 bits
_LOG_TEMPERATURES = (-5.0, 5.0)  # where validation is without error, the lowest fits best


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A threshold on log odds, above which a score means fake, and a temperature that log odds are divided by."""

    threshold: float
    temperature: float

    @classmethod
    def of(cls, labels: ArrayLike, logits: ArrayLike) -> "Fitted":
        """Return what fits the scores of validation, at least one real and one fake.

        The threshold is that of the highest balanced accuracy, halfway between the two scores that it parts; of several
        the highest. The temperature has the lowest cross-entropy (Guo et al., ICML 2017).
        """
        y, z = np.asarray(labels), np.clip(np.asarray(logits, np.float64), -_SURE, _SURE)
        fpr, tpr = (rates[0] for rates in Ranking(y, z).once().roc())
        scores = np.unique(z)[::-1]
        above = max(1, int(np.argmax(tpr - fpr)))  # so many distinct scores mean fake
        below = scores[above] if above < len(scores) else scores[-1] - 1
        side = np.where(y == 1, 1, -1) * z
        best = minimize_scalar(lambda log_t: -log_expit(side / math.exp(log_t)).mean(), bounds=_LOG_TEMPERATURES)
        return cls(threshold=float(scores[above - 1] + below) / 2, temperature=math.exp(best.x))

    def applied(self, metric: str, table: pa.Table) -> pa.Table:
        """Return a table of scores with the log odds of which a metric of `FITTED` is what stands there for it."""
        logit = table["logit"].to_numpy()
        changed = logit - self.threshold if FITTED[metric] == "acc_at_0_5" else logit / self.temperature
        return table.set_column(table.schema.get_field_index("logit"), "logit", pa.array(changed))
