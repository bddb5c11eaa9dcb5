"""Values of the page's controls as the browser sends them, validated and turned into settings.

Numbers may be missing: an emptied box, or a control that was never drawn, arrives as null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    create_model,
)

from model.errors import RequestError
from model.sampling import Sampling
from web.chats.store.models import ChatSettings
from web.ui.presets import MAX_TOKENS, SLIDERS

MAX_SYSTEM = 100_000  # characters of a system prompt: no context holds as much
MAX_TEXT = 2_000_000  # and of a message
MAX_NAME = 300
DEFAULTS = Sampling()


def _empty_as_none(choice: str | None) -> str | None:
    return choice or None


Name = Annotated[str, StringConstraints(max_length=MAX_NAME)]
# What is chosen in a drop-down; the widget's "" is the base, or the automatic template.
Choice = Annotated[Name | None, AfterValidator(_empty_as_none)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Finite | None
Integer = Annotated[Finite, AfterValidator(int)] | None  # Gradio sends every number as a float


class Body(BaseModel):
    """A request body of the page's endpoints: strict types, and no unknown field."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


if TYPE_CHECKING:
    SliderValues = Body
else:  # a field for each slider
    SliderValues = create_model(
        "SliderValues",
        __base__=Body,
        **{
            name: (Integer if isinstance(getattr(DEFAULTS, name), int) else Number, None)
            for name in SLIDERS
        },
    )


class FormValues(SliderValues):
    """The controls' values. `loaded_chat` is the chat whose settings the controls show."""

    loaded_chat: Name | None = None
    adapter: Choice = None
    scale: Number = None
    template: Choice = None
    system: Annotated[str, StringConstraints(max_length=MAX_SYSTEM)] | None = None
    max_tokens: Number = None
    seed: Number = None

    def settings(self) -> ChatSettings:
        """Returns the settings that the controls describe.

        Raises:
            RequestError: a number is missing or out of range.
        """
        return ChatSettings(
            adapter=self.adapter,
            adapter_scale=1.0 if self.scale is None else self.scale,
            template=self.template,
            system=self.system or "",
            sampling=self.sampling(),
        )

    def sampling(self) -> Sampling:
        """Returns the sampling. A seed below 0, or none, means a new one for each reply.

        Raises:
            RequestError: a number is missing or out of range.
        """
        return Sampling(
            max_tokens=int(self.max_tokens or MAX_TOKENS),
            seed=None if self.seed is None or self.seed < 0 else int(self.seed),
            **self._slider_values(),
        )

    def _slider_values(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in SLIDERS}
        if None in values.values():
            raise RequestError("setting_number_missing")
        return values
