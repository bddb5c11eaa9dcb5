"""`python -m model convert`: other formats to a model folder in the Hugging Face layout.

Every format becomes a `Conversion` (a config, tensors still to be read, small files), and one way
of writing turns that into a folder. Tensors pass through memory one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from model.convert.conversion import Conversion, read_config
from model.convert.source import Source, find_source
from model.diagnostics import folder_error, to_error
from model.folders.atomic_folder import check_destination, new_folder
from model.folders.model_folder import read_model_folder
from model.folders.tensor_schema import diff_tensors
from model.folders.weight_writer import nbytes_of, write_weights
from model.progress_bar import Bar
from model.text.tokenizer_files import check_pieces, read_tokenizer

FORMAT = 1  # of what is written; an unfinished folder of another one is started over


def convert(
    source: str,
    destination: Path,
    *,
    tokenizer: Path | None = None,
    config: Path | None = None,
    bar: Bar,
    say: Callable[[str], None],
) -> None:
    """Convert `source` into the folder `destination`, which appears whole or not at all.

    Args:
        source: a .gguf file, a TencentPretrain .bin, a folder with .bin weights, or a hub id.
        tokenizer: instead of the source's own; a .bin of TencentPretrain has none.
        config: a JSON file with what the weights do not tell.
        bar: makes a progress bar of a text and a number of bytes.
        say: told what is done, in a sentence.

    Raises:
        ModelFolderError: it cannot be done.
    """
    from model.weight_loader import check_llama_config

    check_destination(destination)  # before anything is downloaded
    conversion = _open(find_source(source, tokenizer, say), config)
    nbytes = nbytes_of(conversion.tensors)
    with new_folder(destination, _recipe(conversion), nbytes) as folder:
        text = json.dumps(conversion.config, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        conversion.write_rest(folder)
        # Before the weights, which take minutes.
        tokenizer_read, _ = read_tokenizer(folder)
        check_pieces(tokenizer_read, conversion.config, conversion.exact)
        check_llama_config(folder, conversion.config)
        for problem in diff_tensors(conversion.config, conversion.tensors, conversion.sources[0]):
            raise to_error(problem)
        with bar("Converting", nbytes) as progress:
            write_weights(conversion.tensors, folder, progress)
        read_model_folder(folder)


def _open(source: Source, config: Path | None) -> Conversion:
    """By the source's format. Each imports what it needs, which takes seconds."""
    told = read_config(config)
    if source.path.suffix == ".gguf":
        from model.convert.gguf import open_gguf

        return open_gguf(source.path, source.tokenizer, told)
    if source.path.is_dir():
        from model.convert.hf import open_hf

        return open_hf(source.path, source.tokenizer, told)
    from model.convert.tencent import open_tencent

    if source.tokenizer is None:
        raise folder_error("tokenizer_not_told", file=source.path, count=0)
    return open_tencent(source.path, source.tokenizer, told)


def _recipe(conversion: Conversion) -> dict[str, object]:
    """Everything that decides what the weight files contain."""
    stats = {str(path.resolve()): path.stat() for path in conversion.sources}
    return {
        "format": FORMAT,
        "config": dict(conversion.config),
        "sources": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
    }
