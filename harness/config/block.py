"""What every block of an experiment file has in common."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Block(BaseModel):
    """Base of every block: frozen, unknown keys refused, defaults checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)
    LATER: ClassVar[frozenset[str]] = frozenset()
    """Keys that came after the first records: written only when they are not the default, so that ids stay."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = handler(self)
        unset = {key for key in self.LATER if getattr(self, key) == type(self).model_fields[key].default}
        return {key: value for key, value in content.items() if key not in unset}
