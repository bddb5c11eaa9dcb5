"""Resolves `--base_model` to a folder, a name that clients see, and its chat templates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from model.config.server_flags import EMBEDDED_DEFAULT
from model.config.settings import CHECKOUT, Settings
from model.default_model import ensure_default_model
from model.diagnostics import folder_error
from model.display import printable_name
from model.errors import ModelFolderError
from model.folders.hub import download, is_hub_id, is_offline, list_files
from model.folders.model_folder import ModelFolder
from model.text.prompt_template import PromptTemplate, load_templates
from model.types import Phase

MODEL_TEMPLATE = "model"  # the name under which the model's own chat template is listed
Report = Callable[[Phase, float], None]


def base_name(settings: Settings) -> str:
    """The base's name that clients see: never a path, and always printable text."""
    return printable_name(Path(settings.base_model).name)


def find_base(settings: Settings, report: Report) -> Path:
    """The base's folder. The default model, or a model of the hub, is downloaded if necessary.

    Raises:
        LinlyError: it cannot be downloaded, or is in another format.
    """
    if settings.base_model == EMBEDDED_DEFAULT:
        return ensure_default_model(settings.cache_dir, report)
    if is_hub_id(settings.base_model):
        report(Phase.FETCHING, 0.0)
        return _download(settings.base_model)
    return local_folder(settings.base_model)


def _download(repo: str) -> Path:
    """Downloads a repository of the hub.

    Raises:
        ModelFolderError: it is in another format, which is checked before the download.
    """
    if not is_offline() and "config.json" not in {file.name for file in list_files(repo)}:
        raise folder_error("needs_conversion", folder=repo, source=repo)
    return download(repo)


def local_folder(name: str) -> Path:
    """The path `name`, or the folder with that name in the checkout's models/."""
    in_models = CHECKOUT / "models" / name
    return in_models if not Path(name).is_dir() and in_models.is_dir() else Path(name)


def available_templates(
    folder: ModelFolder, settings: Settings
) -> tuple[dict[str, PromptTemplate], str]:
    """All templates by name, and the name of this base's default template.

    Raises:
        ModelFolderError: there is no template at all.
    """
    templates = load_templates(settings.prompts_dir)
    if folder.chat_template is not None:
        template = PromptTemplate(
            MODEL_TEMPLATE, folder.chat_template, "The model's own", folder.stop
        )
        return {MODEL_TEMPLATE: template, **templates}, MODEL_TEMPLATE
    if not templates:
        raise ModelFolderError(
            "no_chat_template_anywhere", folder=folder.path, prompts_dir=settings.prompts_dir
        )
    likely = "chinese-alpaca" if "alpaca" in folder.name.lower() else "linly"
    return templates, likely if likely in templates else next(iter(templates))
