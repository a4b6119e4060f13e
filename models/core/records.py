"""Frozen, closed records: the form in which every floor hands values to the next. Every stage depends on this file: steady."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen set of named values that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
