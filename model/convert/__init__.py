"""`python -m model convert`: converts other formats to a folder in the Hugging Face layout.

Each format has a reader, which returns a `Conversion`: a config, lazy tensors and small files.
`convert` writes it into a folder; only one tensor at a time is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from model.convert.conversion import Conversion, read_config_file
from model.convert.source import Source, find_source
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.folders.atomic_folder import check_destination, new_folder
from model.folders.model_folder import read_model_folder
from model.folders.tensor_schema import diff_tensors
from model.folders.weight_writer import nbytes_of, write_weights
from model.progress_bar import Bar
from model.text.tokenizer_files import check_vocab_size, read_tokenizer

FORMAT = 1  # of the folders that are written; an unfinished one of another format is started again


def convert(
    source: str,
    destination: Path,
    *,
    tokenizer: Path | None = None,
    config: Path | None = None,
    bar: Bar,
    log: Callable[[str], None],
) -> None:
    """Converts `source` into the folder `destination`, which appears when it is complete.

    Args:
        source: a .gguf file, a TencentPretrain .bin, a folder with .bin weights, or a hub id.
        tokenizer: replaces the source's own; a .bin of TencentPretrain has none.
        config: a JSON file with settings that the weights do not contain.
        bar: makes a progress bar from a text and a number of bytes.
        log: gets a sentence about each step.

    Raises:
        ModelFolderError: the source cannot be converted.
    """
    from model.weight_loader import check_llama_config

    check_destination(destination)  # before anything is downloaded
    conversion = _open(find_source(source, tokenizer, log), config)
    nbytes = nbytes_of(conversion.tensors)
    with new_folder(destination, _recipe(conversion), nbytes) as folder:
        text = json.dumps(conversion.config, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        conversion.write_extra_files(folder)
        # Before the weights, which take minutes.
        written_tokenizer, _ = read_tokenizer(folder)
        check_vocab_size(written_tokenizer, conversion.config, conversion.exact)
        check_llama_config(folder, conversion.config)
        for problem in diff_tensors(conversion.config, conversion.tensors, conversion.sources[0]):
            raise ModelFolderError(problem)
        with bar("Converting", nbytes) as progress:
            write_weights(conversion.tensors, folder, progress)
        read_model_folder(folder)


def _open(source: Source, config: Path | None) -> Conversion:
    """Opens the source with its format's reader, whose imports can take seconds."""
    config_file = read_config_file(config)
    if source.path.suffix == ".gguf":
        from model.convert.gguf import open_gguf

        return open_gguf(source.path, source.tokenizer, config_file)
    if source.path.is_dir():
        from model.convert.hf import open_hf

        return open_hf(source.path, source.tokenizer, config_file)
    from model.convert.tencent import open_tencent

    if source.tokenizer is None:
        raise folder_error("tokenizer_not_told", file=source.path, count=0)
    return open_tencent(source.path, source.tokenizer, config_file)


def _recipe(conversion: Conversion) -> dict[str, object]:
    """Everything that determines the weight files' content."""
    stats = {str(path.resolve()): path.stat() for path in conversion.sources}
    return {
        "format": FORMAT,
        "config": dict(conversion.config),
        "sources": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
    }
