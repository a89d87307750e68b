"""What all values of a metric come to, among the custom properties of its run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from datahub_mlflow_source.mapping.rules import Trim
from datahub_mlflow_source.records import MetricHistory
from datahub_mlflow_source.text import iso_time

# Metrics of which less is better, by a word in their name, or its end (`val_loss`, `logloss`, `eval/rmse`).
_LESS_IS_BETTER = re.compile(
    r"(?:loss|error|perplexity|entropy|divergence|latency|duration)s?\Z"
    r"|(?:\A|[^a-z])(?:loss|err|m?error|l1|l2|huber|r?ms(?:l)?e|n?mae|w?s?mape|mad|wer|cer|eer|fid|ppl|nll|bpc|brier|kld?|m?logloss"
    r"|cross_?entropy|perplexity|latency|duration|time|seconds)(?:\Z|[^a-z])"
)
_NEGATED = re.compile(r"(?:\A|[^a-z])neg(?:ative)?[^a-z]")  # scikit-learn's neg_mean_squared_error
_INSIDE_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def history_properties(histories: Sequence[MetricHistory], trim: Trim) -> Iterator[tuple[str, str]]:
    """Keys without our prefix, and values."""
    for history in trim.first("histories of metrics", histories, trim.limits.max_metrics):
        name = f"metric.{history.key}"
        less = less_is_better(history.key)
        best, step = (history.lowest, history.lowest_step) if less else (history.highest, history.highest_step)
        yield f"{name}.best", str(best) if best is not None else "nan"
        if step is not None:
            yield f"{name}.best_step", str(step)
            yield f"{name}.best_is", "lowest" if less else "highest"
        yield f"{name}.steps", str(history.steps)
        yield f"{name}.first_time", iso_time(history.first_time)
        yield f"{name}.last_time", iso_time(history.last_time)


def less_is_better(metric: str) -> bool:
    """As its name has it: MLflow itself doesn't say."""
    name = _INSIDE_CAMEL_CASE.sub("_", metric).lower()
    return bool(_LESS_IS_BETTER.search(name)) and not _NEGATED.search(name)
