"""What DataHub's framework doesn't remember, for its size."""

from __future__ import annotations

from typing import Any

from datahub.ingestion.source.state.checkpoint import Checkpoint
from datahub.ingestion.source.state.stateful_ingestion_base import StateProviderWrapper


def leave_out_too_large(provider: StateProviderWrapper, most: int) -> list[str]:
    """Takes out states of more than so many bytes (`max_checkpoint_state_size`), and gives the names of their jobs.

    The framework would leave them out too, and say so only in its log, with a traceback of its own making.
    """
    found = [
        job for job, checkpoint in provider.cur_checkpoints.items() if checkpoint and _is_too_large(checkpoint, most)
    ]
    for job in found:
        del provider.cur_checkpoints[job]
    return [str(job) for job in found]


def _is_too_large(checkpoint: Checkpoint[Any], most: int) -> bool:
    checkpoint.prepare_for_commit()
    if len(checkpoint.state.model_dump_json()) <= most:  # compressed it is a fraction, which takes time to find out
        return False
    try:
        checkpoint.state.to_bytes(max_allowed_state_size=most)
    except ValueError:
        return True
    return False
