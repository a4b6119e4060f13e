"""The contract of a stage: `def NAME(params, inputs, outputs[, work]) -> metrics`, four closed records and what it may use.

params   the numbers: one section of params.yaml, named as the stage, and the top-level keys that dvc.yaml lists for it
inputs   one path for each dep of dvc.yaml under artifacts/ or data/, named by the last part of the path
outputs  one path for each out, named likewise; the function finds nothing there and leaves everything there
metrics  what the stage measured; the first field is the one that tables show; no time, date or run id: two equal runs are equal
"""

from typing import Annotated

from pydantic import Field

from models.core.records import Record
from models.core.work import Work

__all__ = ["Inputs", "Metrics", "Outputs", "Params", "Record", "Seed", "Work"]

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy takes no larger one


class Params(Record):
    """The numbers of a stage, typed and bounded."""


class Inputs(Record):
    """Paths that a stage reads."""


class Outputs(Record):
    """Paths that a stage writes; they do not exist when it starts."""


class Metrics(Record):
    """What a stage measured; a field's description gives unit and range."""
