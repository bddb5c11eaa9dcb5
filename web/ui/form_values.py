"""What the page's controls say, as the browser sends it: checked, then turned into settings.

Numbers may be missing: what was emptied, or never opened, arrives as null.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from model.errors import RequestError
from web.chats.store.models import ChatSettings
from web.ui.presets import Preset, sampling

MAX_SYSTEM = 100_000  # characters of a system prompt: no context holds as much
MAX_TEXT = 2_000_000  # and of a message
MAX_NAME = 300

Name = Annotated[str, StringConstraints(max_length=MAX_NAME)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Number = Annotated[float, Field(allow_inf_nan=False)] | None


class Body(BaseModel):
    """A body of the page's endpoints: no field is unknown, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FormValues(Body):
    """The settings of the controls. `loaded_chat` is the chat that they are about."""

    loaded_chat: Name | None = None
    adapter: Name | None = None
    scale: Number = None
    template: Name | None = None
    system: Annotated[str, StringConstraints(max_length=MAX_SYSTEM)] | None = None
    temperature: Number = None
    top_p: Number = None
    top_k: Number = None
    min_p: Number = None
    repetition_penalty: Number = None
    max_tokens: Number = None
    seed: Number = None

    def settings(self) -> ChatSettings:
        """
        Raises:
            RequestError: a number is missing or out of range.
        """
        numbers = (
            self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty
        )  # fmt: skip
        preset = Preset(*numbers)  # type: ignore[arg-type]  # `sampling` says what is missing
        try:
            return ChatSettings(
                adapter=self.adapter or None,
                adapter_scale=1.0 if self.scale is None else self.scale,
                template=self.template or None,
                system=self.system or "",
                sampling=sampling(preset, self.max_tokens, self.seed),
            )
        except (ValueError, OverflowError) as error:
            raise RequestError("form_value_unknown") from error
