"""What a large model costs on this machine: loading, decoding, and what makes decoding slower.

`python bench/scale.py [--layers N] [--base_model FOLDER] [--json]` makes a random model of
Open-Linly-13B's geometry with a few of its layers (all cost alike), and prints tables. `--help` has
the rest. Exit status 1: something failed; 2: wrong use.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from platformdirs import user_cache_path

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.ending import end_cleanly
from bench.machine import machine
from bench.peers.base import PeerError
from bench.rounds import Say, to_stderr
from bench.scaling.figures import Figures, Loading
from bench.scaling.loading import measure_loading, weight_sizes
from bench.scaling.options import BEHIND, Options, read_options
from bench.scaling.report import tables
from bench.scaling.rival import LlamaCppBaseline, started
from bench.scaling.room import check_memory
from bench.scaling.source import Source, prepare
from model.config.settings import APP_NAME
from model.system_resources import available_cores
from model.types import LinlyError


def main() -> int:
    end_cleanly()
    try:
        options = read_options(sys.argv[1:])
        cache = user_cache_path(APP_NAME)
        with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
            figures = measure(options, cache, Path(scratch), to_stderr)
    except LinlyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except PeerError as error:
        print(f"The measurement broke off: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells tell it
    print(json.dumps(asdict(figures)) if options.json else tables(figures))
    return 0


def measure(options: Options, cache: Path, scratch: Path, say: Say) -> Figures:
    """Everything, in the order of the tables; what is made once stays in `cache`.

    Raises:
        LinlyError: the model cannot be made, or not be measured here.
        PeerError: one of the processes failed.
    """
    source = prepare(options, cache, say)
    sizes = weight_sizes(source.folder)
    needed = check_memory(source.folder.config, sizes[0], options)
    loading = measure_loading(source, sizes, scratch, say)
    threads = available_cores()
    if not options.llama_cpp:
        return _decoding(options, source, loading, threads, None, "left out", say)
    say("llama.cpp …")
    with started(source, loading, needed, scratch, threads, options.steps) as found:
        say(f"  {found[1]}")
        return _decoding(options, source, loading, threads, *found, say)


def _decoding(
    options: Options,
    source: Source,
    loading: Loading,
    threads: int,
    rival: LlamaCppBaseline | None,
    about: str,
    say: Say,
) -> Figures:
    # These import torch, which takes seconds: a wrong flag has been refused by now.
    from bench.scaling import forward
    from bench.scaling.alone import measure_alone
    from bench.scaling.memory import BUFFER_BYTES, reading
    from bench.scaling.serving import serving

    most = max(options.users)
    say("loading once more, to decode …")
    with serving(source, loading, options, threads) as model:
        with reading(threads, BUFFER_BYTES) as reader:
            say("one user …")
            alone = measure_alone(model, reader, rival, about, options.steps)
        say("contexts …")
        contexts = forward.measure_contexts(model, options.context, options.steps)
        say("users …")
        users = forward.measure_users(model, options.users, options.steps)
        say("adapters …")
        adapters = forward.measure_adapters(model, options.adapters, most, options.steps)
    return Figures(
        machine=machine(), model=source.about, threads=threads, steps=options.steps, behind=BEHIND,
        loading=loading, alone=alone, contexts=contexts, users=users, adapters=adapters,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
