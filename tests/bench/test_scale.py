"""The measurement of large models on a tiny one: flags, bounds, steps, and what is printed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import reduce
from operator import xor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import scale
from bench.geometry import Geometry
from bench.peers.base import PeerError, PeerMissing
from bench.scaling import alone, forward, memory, rival, room
from bench.scaling.figures import (
    Alone,
    AtContext,
    Figures,
    Load,
    Loading,
    WithAdapters,
    WithUsers,
)
from bench.scaling.loading import memory_bound, weight_sizes
from bench.scaling.options import Options, read_options
from bench.scaling.report import tables
from bench.scaling.source import Source, prepare
from model.engine.kv_cache import SequenceCache
from model.layers.llama import Llama, SequenceSlice
from model.types import SettingsError
from tests.model.layers.kernels.conftest import GROUPED, make_model

SIZES = ["--hidden", "64", "--heads", "4", "--intermediate", "96", "--layers", "2"]
TINY = [*SIZES, "--vocab", "320", "--steps", "1"]
FEW = ["--context", "0,70", "--users", "1,2", "--adapters", "0,3"]
LOADING = Loading(3_000, 500, 9_000, Load(2.5, 8_000, True), Load(0.5, 9_500, False))


def options(*words: str) -> Options:
    return read_options([*TINY, *words])


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return prepare(options(), tmp_path, lambda _: None)


@pytest.fixture
def model() -> Llama:
    """On torch's forward, which needs no compiling."""
    return make_model(GROUPED)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`main` with these words and a cache of its own; compiled code comes from the user's."""
    monkeypatch.setattr(scale, "user_cache_path", lambda _: tmp_path)
    monkeypatch.setattr(scale, "end_cleanly", lambda: None)
    monkeypatch.setattr(memory, "BUFFER_BYTES", 1 << 20)

    def start(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["bench/scale.py", *words])
        return scale.main()

    return start


def test_defaults() -> None:
    found = read_options([])
    assert found.geometry == Geometry(layers=4)
    assert found.context == (0, 512, 2048)
    assert found.users == (1, 2, 4, 8, 12, 16)
    assert found.adapters == (0, 1, 4, 12)
    assert (found.steps, found.llama_cpp, found.json) == (16, True, False)
    assert found.base_model is None


def test_lists_are_put_in_order_and_llama_cpp_can_be_left_out() -> None:
    found = read_options(["--users", "4, 1,4", "--no-llama-cpp"])
    assert found.users == (1, 4)
    assert not found.llama_cpp


def test_as_many_heads_of_keys_as_heads() -> None:
    assert options().geometry.kv_heads == 4
    assert options("--kv_heads", "2").geometry.kv_heads == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layers", "0"], "'0' is not a whole number of at least 1"),
        (["--users", "0"], "at least 1"),
        (["--users", ","], "name at least one number"),
        (["--context", "-1"], "at least 0"),
        (["--adapters", "one"], "'one' is not a whole number"),
        (["--steps", "0"], "at least 1"),
        (["--base_model", "nowhere"], "there is no folder nowhere"),
        (["--base_model", ".", "--layers", "2"], "leave out --layers"),
        (["--layer", "2"], "Unrecognized arguments: --layer 2"),
    ],
)
def test_flags_that_are_wrong_are_one_sentence(
    run: Callable[..., int], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_sizes_and_contexts_that_cannot_be_are_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*TINY, "--heads", "5") == 2
    assert "--heads 5 does not divide --hidden 64" in capsys.readouterr().err
    assert run(*TINY, "--context", "1000000000") == 2
    assert "of memory are free. Choose shorter --context" in capsys.readouterr().err


def test_a_random_model_is_made_once(source: Source, tmp_path: Path) -> None:
    told: list[str] = []
    assert prepare(options(), tmp_path, told.append) == source
    assert not told
    assert "2 layers, hidden 64" in source.about


def test_a_given_model_is_measured_as_it_is(source: Source, tmp_path: Path) -> None:
    words = ["--base_model", str(source.folder.path)]
    given = prepare(read_options(words), tmp_path, lambda _: None)
    assert given.folder == source.folder
    assert given.about == "model"
    assert given.weights == tmp_path  # where the program itself looks
    assert given.kept.parent == tmp_path / "bench"


def test_the_bound_is_of_int8_weights_and_the_largest_tensor(source: Source) -> None:
    int8, largest = weight_sizes(source.folder)
    assert int8 == options().geometry.nbytes // 2
    assert largest == 320 * 64 * 2
    assert memory_bound(13_000_000_000, 512_000_000) == 15_012_000_000


def test_memory_is_for_weights_and_the_longer_of_contexts_and_users(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = 2 * 2 * 2 * 64  # keys and values, float16, layers, hidden
    config = source.folder.config
    few = options("--users", "1", "--adapters", "0", "--context", "0,300")
    assert room.check_memory(config, 1_000, few) == 1_000 + (256 + 768) * position
    many = options("--users", "1,20", "--adapters", "0", "--context", "0")
    assert room.check_memory(config, 1_000, many) == 1_000 + 20 * 256 * position
    monkeypatch.setattr(room, "available_memory", lambda: 1_000)
    with pytest.raises(SettingsError, match="fewer --layers"):
        room.check_memory(config, 1_000, few)


def test_llama_cpp_is_left_out_where_both_do_not_fit(
    source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 20_000_000_000)
    room.check_room(source, 1_000_000, 1_000_000)
    with pytest.raises(PeerMissing, match=r"together take 28\.3 GB and 20\.0 GB"):
        room.check_room(source, 13_000_000_000, 13_000_000_000)
    large = Loading(13_000_000_000, 0, 0, LOADING.source, None)
    with rival.started(source, large, 13_000_000_000, tmp_path, 2, 1) as (found, why):
        assert found is None
        assert "not measured, both models together" in why
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 1_000_000}))
    with pytest.raises(PeerMissing, match="no room for a file"):
        room.check_room(source, 1_000_000, 1_000_000)


def test_widths_that_q8_0_does_not_take_are_told(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    odd = prepare(options("--hidden", "72"), tmp_path, lambda _: None)
    wanted = r"llama.cpp: .* multiples of 32. --no_llama_cpp leaves it out"
    with pytest.raises(PeerError, match=wanted), rival.started(odd, LOADING, 0, tmp_path, 2, 1):
        pass


def test_turns_alternate_and_the_first_one_does_not_count() -> None:
    taken: list[str] = []
    seconds = forward.in_turn([lambda: taken.append("a"), lambda: taken.append("b")], rounds=2)
    assert taken == ["a", "b"] * 3
    assert len(seconds) == 2


def test_a_batch_leaves_the_caches_as_they_were(model: Llama) -> None:
    caches = [forward.filled(model, 5, room=1) for _ in range(3)]
    before = contents(caches[0])
    taken = forward.batch(model, caches, 1)
    taken()
    taken()
    assert [cache.length for cache in caches] == [5, 5, 5]
    assert all(stored.isfinite().all() for stored in before)
    for stored, kept in zip(contents(caches[0]), before, strict=True):
        assert torch.equal(stored, kept)


def contents(cache: SequenceCache) -> list[Tensor]:
    """The filled positions of every layer: keys and values, [kv_heads, length, head_dim]."""
    nothing = torch.empty(0, GROUPED.num_kv_heads, GROUPED.head_dim)
    layers = range(GROUPED.num_layers)
    return [part.clone() for at in layers for part in cache.append(at, nothing, nothing)]


def test_users_are_spread_over_the_adapters_side_by_side(
    model: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[SequenceSlice]] = []
    monkeypatch.setattr(model, "forward", lambda spans: asked.append(list(spans)))
    monkeypatch.setattr(forward, "in_turn", lambda turns, _: [turn() or 0.5 for turn in turns])
    found = forward.measure_adapters(model, [0, 2, 5], users=4, steps=1)
    assert [(row.adapters, row.users, row.tokens_per_second) for row in found] == [
        (0, 5, 10), (2, 5, 10), (5, 5, 10),
    ]  # fmt: skip
    groups = [[id(span.lora) for span in spans] for spans in asked]
    assert [len(set(group)) for group in groups] == [1, 2, 5]
    assert asked[0][0].lora is None
    assert groups[1] == sorted(groups[1], key=groups[1].index)
    pairs = asked[1][0].lora.pairs if asked[1][0].lora else {}
    assert len(pairs) == 7 * GROUPED.num_layers
    assert {len(pair.scale) for pair in pairs.values()} == {16}


def test_a_token_reads_every_linear_layer_and_no_embedding(model: Llama) -> None:
    linears = [x.linear for layer in model.layers for x in (layer.qkv, layer.o, layer.gate_up,
        layer.down)]  # fmt: skip
    expected = sum(x.packed.nbytes + x.scale.nbytes for x in [*linears, model.lm_head])
    assert alone.bytes_a_token(model) == expected


@pytest.mark.parametrize("places", memory.PLACES)
def test_the_reader_reads_every_word(places: int) -> None:
    words = np.random.default_rng(0).integers(1 << 60, size=60)
    assert memory.loop(places)(words) == reduce(xor, words.tolist())


def test_a_readers_attempt_is_a_speed() -> None:
    with memory.reading(threads=2, nbytes=1 << 20) as reader:
        assert reader.attempt() > 0


def figures(llama_cpp_ms: float | None = 3.0) -> Figures:
    ratio = llama_cpp_ms and llama_cpp_ms / 2
    return Figures(
        machine="a machine", model="a model", threads=2, steps=16, behind=128, loading=LOADING,
        alone=Alone(2.0, 10**9, 5e11, 10**12, 0.5, "why", llama_cpp_ms, ratio),
        contexts=[AtContext(512, 12.5, 250)],
        users=[WithUsers(4, 20, 200)],
        adapters=[WithAdapters(12, 16, 40, 400)],
    )  # fmt: skip


def test_the_tables_have_a_line_for_each_figure() -> None:
    lines = [" ".join(line.split()) for line in tables(figures()).splitlines()]
    assert "from the model's files 2.50 0.000 0.000" in lines
    assert "from the cache of int8 weights 0.500 0.000 0.000 MORE THAN IT MAY" in lines
    assert "ours 2.00 500" in lines
    assert "llama.cpp 3.00 333" in lines
    assert "Ours is 1.50x as fast as llama.cpp." in lines
    assert any("500 GB/s: 50% of the 1000 GB/s" in line for line in lines)
    assert {"512 12.5 250", "4 20.0 200", "12 16 40.0 400"} < set(lines)
    assert lines[-1].startswith("Medians; GB are 10^9 bytes. a machine, 2 threads; a model;")


def test_the_tables_say_what_was_not_measured() -> None:
    found = figures(llama_cpp_ms=None)
    found = dataclasses.replace(found, loading=dataclasses.replace(LOADING, cache=None))
    text = tables(found)
    assert "there was no room to keep it" in text
    assert "llama.cpp: why" in text
    assert "as fast as" not in text


@pytest.mark.slow
def test_all_of_it_in_json(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*TINY, *FEW, "--no_llama_cpp", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {field.name for field in dataclasses.fields(Figures)}
    loading = told["loading"]
    assert loading["bound_bytes"] == memory_bound(loading["int8_bytes"], loading["largest_bytes"])
    for kind in ("source", "cache"):
        assert loading[kind]["in_bounds"]
        assert 100_000_000 < loading[kind]["peak_bytes"] <= loading["bound_bytes"]
    assert told["alone"]["llama_cpp_ms"] is None
    assert 0 < told["alone"]["share"] < 1
    assert [row["context"] for row in told["contexts"]] == [0, 70]
    assert [row["users"] for row in told["users"]] == [1, 2]
    assert [(row["adapters"], row["users"]) for row in told["adapters"]] == [(0, 3), (3, 3)]
    rows = [*told["contexts"], *told["users"], *told["adapters"]]
    assert all(row["ms"] > 0 for row in rows)


@pytest.mark.slow
def test_llama_cpp_takes_turns_with_ours(source: Source, model: Llama, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    with rival.started(source, LOADING, 0, tmp_path, 2, 2) as (found, about):
        assert found is not None
        assert "Q8_0" in about
        with memory.reading(threads=1, nbytes=1 << 20) as reader:
            measured = alone.measure_alone(model, reader, found, about, steps=2)
    assert measured.llama_cpp_ms is not None
    assert measured.times_as_fast == pytest.approx(measured.llama_cpp_ms / measured.ms)
