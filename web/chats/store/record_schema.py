"""Pydantic schemas that read dataclasses from values of JSON, strictly or leniently."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
    create_model,
)

from model.errors import RequestError
from model.sampling import MAX_BIASES, MAX_STOP_TOKENS
from model.types import FinishReason
from web.chats.store.models import MAX_SETTING, sanitize_text

MAX_INTEGER = 2**63

NONE: Mapping[str, Any] = MappingProxyType({})

Record = TypeVar("Record")


def _validate_text(text: str, info: ValidationInfo) -> str:
    """Bounds a text if the validation's context is true, which means strict."""
    if info.context and len(text) > MAX_SETTING:
        raise ValueError
    return sanitize_text(text)


LAX = Strict(False)  # JSON has lists for tuples, and texts for enums
Text = Annotated[str, AfterValidator(_validate_text)]
Integer = Annotated[int, Field(ge=0, lt=MAX_INTEGER)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Pair = Annotated[tuple[Integer, Number], LAX]
TYPES: dict[object, Any] = {  # by the type of a dataclass's field
    str: Text,
    str | None: Annotated[Text, AfterValidator(lambda text: text or None)],
    int: Integer,
    float: Number,
    bool: bool,
    int | None: Integer | None,
    tuple[str, ...]: Annotated[tuple[Text, ...], LAX],
    tuple[int, ...]: Annotated[tuple[Integer, ...], LAX, Field(max_length=MAX_STOP_TOKENS)],
    tuple[tuple[int, float], ...]: Annotated[tuple[Pair, ...], LAX, Field(max_length=MAX_BIASES)],
    FinishReason | None: Annotated[FinishReason, LAX] | None,
}


class RecordSchema(Generic[Record]):
    """Schema of one dataclass. A missing field has its value in `default`; others are ignored.

    Args:
        keys: the keys in JSON that are not the field's name, by field.
        nested: the schemas of fields whose values are objects, by field.
    """

    def __init__(
        self,
        default: Record,
        keys: Mapping[str, str] = NONE,
        nested: Mapping[str, RecordSchema[Any]] = NONE,
    ) -> None:
        self._kind = type(default)
        self._keys: list[str] = []
        self._nested: dict[str, RecordSchema[Any]] = {}  # by key
        definitions: dict[str, Any] = {}
        for name, kind in get_type_hints(self._kind).items():
            key = keys.get(name, name)
            self._keys.append(key)
            if name in nested:
                self._nested[key] = nested[name]
            field_type = nested[name]._as_type() if name in nested else TYPES[kind]
            definitions[name] = (field_type, Field(getattr(default, name), alias=key))
        config = ConfigDict(strict=True, hide_input_in_errors=True)
        self._model = create_model(self._kind.__name__, __config__=config, **definitions)

    def read(self, value: object, strict: bool) -> Record:
        """Returns the record that an object describes.

        Raises:
            RequestError: only if `strict`: a field is invalid, or the value is no object. Otherwise
                such a field has its default.
        """
        try:
            return self._validate(value, strict)
        except ValidationError as error:
            if strict:
                raise _refusal(error) from error
        except RequestError:  # the dataclass refuses it as out of range
            if strict:
                raise
        return self._validate(self._valid_part(value), strict=False)

    def _validate(self, value: object, strict: bool) -> Record:
        return self._kind(**vars(self._model.model_validate(value, context=strict)))

    def _valid_part(self, value: object) -> dict[str, Any]:
        """Returns the fields of an object that are valid, each by itself."""
        if not isinstance(value, dict):
            return {}
        present = {key: value[key] for key in self._keys if key in value}
        present |= {
            key: schema._valid_part(present[key])
            for key, schema in self._nested.items()
            if key in present
        }
        return {key: field for key, field in present.items() if self._is_valid({key: field})}

    def _is_valid(self, value: dict[str, Any]) -> bool:
        try:
            self._validate(value, strict=False)
        except (ValidationError, RequestError):
            return False
        return True

    def _as_type(self) -> Any:
        """Returns the type of a field that has such a record."""
        return Annotated[self._model, AfterValidator(lambda model: self._kind(**vars(model)))]


def _refusal(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "model_type":
        return RequestError("settings_invalid")
    name = next(part for part in reversed(first["loc"]) if isinstance(part, str))
    return RequestError("setting_invalid", name=name)
