"""The base of what files from outside are checked against before anything in them is believed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0, le=2**53)]
"""As large as every reader of JSON takes a whole number."""


class Schema(BaseModel):
    """Values have the very types that are declared; fields that are not declared pass."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


def first_fault(schema: type[Schema], value: Any) -> str | None:
    """What is wrong with a value, such as "shards.0.samples: Input should be a valid integer"; None where it
    is what the schema says.
    """
    try:
        schema.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, details['loc'])) or 'the whole'}: {details['msg']}"
    return None
