"""The kinds of values that requests are made of: each says what it accepts, and brings it into one form."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

# integers beyond this are not exact in every JSON reader, and no page is there
INTEGER_MAX = 1 << 53
LABEL_MAX_CHARS = 256
WORD_MAX_CHARS = 256  # of what names something that is there: longer ones cannot be

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def is_uuid(raw: str) -> bool:
    return _UUID.fullmatch(raw) is not None


def canonical_uuid(raw: str) -> str:
    """A uuid in lower case.

    Raises:
        ValueError: with what was expected.
    """
    if not is_uuid(raw):
        raise ValueError("a uuid of the form 8-4-4-4-12 hexadecimal digits")
    return raw.lower()


def _uuid_or_empty(raw: str) -> str:
    return canonical_uuid(raw) if raw else raw


def _lower_uuid(raw: str) -> str:
    return raw.lower() if is_uuid(raw) else raw


def _text(raw: str) -> str:
    # NUL is the one character that some databases cannot compare with
    if "\0" in raw:
        raise ValueError("text without NUL characters")
    return raw


def _word(raw: str) -> str:
    # it is kept with each attempt and said in answers and logs: whoever asks must not choose how much that is
    if len(raw) > WORD_MAX_CHARS:
        raise ValueError(f"at most {WORD_MAX_CHARS} characters")
    return _text(raw)


def _nfc(raw: str) -> str:
    return unicodedata.normalize("NFC", raw)


def _label(raw: str) -> str:
    if len(raw) > LABEL_MAX_CHARS:
        raise ValueError(f"at most {LABEL_MAX_CHARS} characters")
    # control characters, surrogates and non-characters, which XML cannot hold
    if any(unicodedata.category(char) in ("Cc", "Cs") or char in "\ufffe\uffff" for char in raw):
        raise ValueError("text without control characters")
    return raw


def query_integer(raw: object) -> object:
    if isinstance(raw, str):
        if not _INTEGER.fullmatch(raw):
            raise ValueError(f"an integer of at most {INTEGER_MAX}")
        return int(raw)
    return raw


def one_of_or_empty(kinds: type[StrEnum]) -> WithJsonSchema:
    """How the document says that a text is one of these, or empty."""
    return WithJsonSchema({"type": "string", "enum": [*(kind.value for kind in kinds), ""]})


def _query_bool(raw: object) -> object:
    if isinstance(raw, str):
        if raw.lower() not in _BOOLEANS:
            raise ValueError("true or false")
        return _BOOLEANS[raw.lower()]
    return raw


# what the validators accept, once more for the document
_UUID_PATTERN = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_AS_UUID = Field(min_length=1, json_schema_extra={"format": "uuid", "pattern": f"^{_UUID_PATTERN}$"})
_AS_UUID_OR_EMPTY = Field(json_schema_extra={"pattern": f"^({_UUID_PATTERN})?$"})
_AS_TEXT = Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})
_AS_WORD = Field(json_schema_extra={"pattern": r"^[^\u0000]*$", "maxLength": WORD_MAX_CHARS})
_AS_LABEL = Field(
    json_schema_extra={
        "pattern": r"^[^\u0000-\u001f\u007f-\u009f\ufffe\uffff]*$",
        "maxLength": LABEL_MAX_CHARS,
    }
)
Text = Annotated[str, _AS_TEXT, AfterValidator(_text)]
# NFC: how names are stored, so that a name typed on another system finds them
NameText = Annotated[Text, AfterValidator(_nfc)]
Word = Annotated[str, _AS_WORD, AfterValidator(_word)]
ExistingName = Annotated[str, Field(min_length=1), _AS_WORD, AfterValidator(_word), AfterValidator(_nfc)]
Uuid = Annotated[str, _AS_UUID, AfterValidator(canonical_uuid)]
UuidOrEmpty = Annotated[str, _AS_UUID_OR_EMPTY, AfterValidator(_uuid_or_empty)]
# an id given by others: mostly a uuid, which compares in lower case
OpaqueId = Annotated[Text, AfterValidator(_lower_uuid)]
Label = Annotated[str, _AS_LABEL, AfterValidator(_label), AfterValidator(_lower_uuid)]
GivenLabel = Annotated[str, Field(min_length=1), _AS_LABEL, AfterValidator(_label), AfterValidator(_lower_uuid)]
QueryInteger = Annotated[int, Field(ge=-INTEGER_MAX, le=INTEGER_MAX), BeforeValidator(query_integer)]
PageNumber = Annotated[int, Field(ge=0, le=INTEGER_MAX), BeforeValidator(query_integer)]
# a query has no null: the document must not offer it where the code says "absent"
MaybePageNumber = Annotated[
    PageNumber | None, WithJsonSchema({"type": "integer", "minimum": 0, "maximum": INTEGER_MAX})
]
QueryBool = Annotated[bool, BeforeValidator(_query_bool), WithJsonSchema({"enum": ["true", "false", "1", "0"]})]
