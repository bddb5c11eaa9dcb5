"""`bench/scale.py` on a tiny model: flags, limits, steps, and what it prints."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from contextlib import closing
from functools import reduce
from operator import xor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import scale
from bench.common import BenchError, PeerError, PeerMissingError
from bench.random_model import Geometry
from bench.scale import ScaleFigures, read_scale_options, tables
from bench.scaling import decode
from bench.scaling import model as bench_model
from bench.scaling.decode import SingleUser
from bench.scaling.loading import LoadCost, Loading, memory_bound, weight_sizes
from bench.scaling.model import BenchModel, prepare_model
from model.engine.kv_cache import SequenceCache
from model.layers.llama import Llama, SequenceSlice
from tests.bench.conftest import Refuse, RunAsJson, Start
from tests.model.layers.conftest import GROUPED, make_model

SIZES = ["--hidden", "64", "--heads", "4", "--intermediate", "96", "--layers", "2"]
TINY = [*SIZES, "--vocab", "320", "--steps", "1"]
FEW = ["--context", "0,70", "--users", "1,2", "--adapters", "0,3"]
LOADING = Loading(3_000, 500, 9_000, LoadCost(2.5, 8_000, True), LoadCost(0.5, 9_500, False))
GB = 1_000_000_000


def options(*words: str) -> Namespace:
    return read_scale_options([*TINY, *words])


def prepare(cache: Path, *words: str) -> BenchModel:
    found = options(*words)
    return prepare_model(found.base_model, found.geometry, cache)


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "BUFFER_BYTES", 1 << 20)


@pytest.fixture
def random_model(tmp_path: Path) -> BenchModel:
    return prepare(tmp_path)


@pytest.fixture
def llama() -> Llama:
    """On torch's forward, which needs no compiling."""
    return make_model(GROUPED)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for the script; compiled code comes from the user's."""
    monkeypatch.setattr(scale, "user_cache_path", lambda _: tmp_path)


def test_defaults_of_the_flags() -> None:
    found = read_scale_options([])
    assert found.geometry == Geometry(layers=4)
    assert found.context == (0, 512, 2048)
    assert found.users == (1, 2, 4, 8, 12, 16)
    assert found.adapters == (0, 1, 4, 12)
    assert (found.steps, found.llama_cpp, found.json) == (16, True, False)
    assert found.base_model is None


def test_numbers_are_sorted_and_llama_cpp_can_be_left_out() -> None:
    found = read_scale_options(["--users", "4, 1,4", "--no-llama-cpp"])
    assert found.users == (1, 4)
    assert not found.llama_cpp


def test_kv_heads_default_to_the_heads() -> None:
    assert options().geometry.kv_heads == 4
    assert options("--kv_heads", "2").geometry.kv_heads == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "0"], "'0' is not a whole number of at least 1"),
        (["--users", "0"], "at least 1"),
        (["--users", ","], "name at least one number"),
        (["--context", "-1"], "at least 0"),
        (["--adapters", "one"], "'one' is not a whole number"),
        (["--steps", "0"], "at least 1"),
        (["--base_model", "nowhere"], "there is no folder nowhere"),
        (["--base_model", ".", "--layers", "2"], "leave out --layers"),
        (["--layer", "2"], "Unknown flag --layer. Did you mean --layers?"),
    ],
)
def test_wrong_flags_are_one_sentence(refuse: Refuse, words: list[str], message: str) -> None:
    assert message in refuse(scale, *words)


def test_impossible_sizes_are_refused(refuse: Refuse) -> None:
    assert "--heads 5 does not divide --hidden 64" in refuse(scale, *TINY, "--heads", "5")


def test_contexts_beyond_the_memory_are_refused(
    cache: None, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(scale, *TINY, "--context", "1000000000") == 2
    assert "of memory are free. Choose shorter --context" in capsys.readouterr().err


def test_random_model_is_made_once(random_model: BenchModel, tmp_path: Path) -> None:
    made = random_model.folder.path.stat().st_mtime_ns
    found = prepare_model(None, options().geometry, tmp_path)
    assert found == random_model
    assert found.folder.path.stat().st_mtime_ns == made
    assert "2 layers, hidden 64" in found.about


def test_base_model_is_measured_as_it_is(random_model: BenchModel, tmp_path: Path) -> None:
    path = random_model.folder.path
    found = prepare_model(path, options().geometry, tmp_path)
    assert found.folder == random_model.folder
    assert found.about == "model"
    assert found.weights == tmp_path  # where the program itself looks
    assert found.cache.parent == tmp_path / "bench"


def test_memory_bound_adds_int8_weights_and_the_largest_tensor(random_model: BenchModel) -> None:
    int8, largest = weight_sizes(random_model.folder)
    assert int8 == options().geometry.nbytes // 2
    assert largest == 320 * 64 * 2
    assert memory_bound(13_000_000_000, 512_000_000) == 15_012_000_000


def test_memory_includes_the_larger_kv_caches_of_contexts_and_users(
    random_model: BenchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = 2 * 2 * 2 * 64  # keys and values, float16, layers, hidden
    config = random_model.folder.config
    check = bench_model.check_memory
    assert check(config, 1_000, [0, 300], users=1) == 1_000 + (256 + 768) * position
    assert check(config, 1_000, [0], users=20) == 1_000 + 20 * 256 * position
    monkeypatch.setattr(bench_model, "available_memory", lambda: 1_000)
    with pytest.raises(BenchError, match="fewer --layers"):
        check(config, 1_000, [0, 300], users=1)


def test_llama_cpp_is_left_out_without_memory_or_disk(
    random_model: BenchModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_model, "available_memory", lambda: 20 * GB)
    check = bench_model.check_room_for_llama_cpp
    check(random_model, 1_000_000, 1_000_000)
    with pytest.raises(PeerMissingError, match=r"together take 28\.3 GB and 20\.0 GB"):
        check(random_model, 13 * GB, 13 * GB)
    baseline = bench_model.started_llama_cpp(random_model, 13 * GB, 13 * GB, tmp_path, 2, 1)
    with baseline as (found, why):
        assert found is None
        assert "not measured, both models together" in why
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 1_000_000}))
    with pytest.raises(PeerMissingError, match="no space for a file"):
        check(random_model, 1_000_000, 1_000_000)


def test_widths_that_q8_0_does_not_take_are_an_error(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    odd = prepare(tmp_path, "--hidden", "72")
    message = r"llama.cpp: .* multiples of 32. --no_llama_cpp leaves it out"
    baseline = bench_model.started_llama_cpp(odd, 3_000, 0, tmp_path, 2, 1)
    with pytest.raises(PeerError, match=message), baseline:
        pass


def test_steps_alternate_and_the_first_one_does_not_count() -> None:
    calls: list[str] = []
    seconds = decode.interleave([lambda: calls.append("a"), lambda: calls.append("b")], rounds=2)
    assert calls == ["a", "b"] * 3
    assert len(seconds) == 2


def test_forward_step_leaves_the_caches_unchanged(llama: Llama) -> None:
    caches = [decode.random_cache(llama, 5, room=1) for _ in range(3)]
    before = contents(caches[0])
    step = decode.next_tokens(llama, caches, 1)
    step()
    step()
    assert [cache.length for cache in caches] == [5, 5, 5]
    assert all(stored.isfinite().all() for stored in before)
    for stored, expected in zip(contents(caches[0]), before, strict=True):
        assert torch.equal(stored, expected)


def contents(cache: SequenceCache) -> list[Tensor]:
    """The filled positions of every layer: keys and values, [kv_heads, length, head_dim]."""
    nothing = torch.empty(0, GROUPED.num_kv_heads, GROUPED.head_dim)
    layers = range(GROUPED.num_layers)
    return [part.clone() for at in layers for part in cache.append(at, nothing, nothing)]


def test_users_are_spread_over_the_adapters_side_by_side(
    llama: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[SequenceSlice]] = []
    monkeypatch.setattr(llama, "forward", lambda slices: batches.append(list(slices)))
    monkeypatch.setattr(decode, "interleave", lambda steps, _: [step() or 0.5 for step in steps])
    found = decode.measure_adapters(llama, [0, 2, 5], users=4, steps=1)
    assert [(row["adapters"], row["users"], row["tokens_per_second"]) for row in found] == [
        (0, 5, 10), (2, 5, 10), (5, 5, 10),
    ]  # fmt: skip
    groups = [[id(part.lora) for part in batch] for batch in batches]
    assert [len(set(group)) for group in groups] == [1, 2, 5]
    assert batches[0][0].lora is None
    assert groups[1] == sorted(groups[1], key=groups[1].index)
    pairs = batches[1][0].lora.pairs if batches[1][0].lora else {}
    assert len(pairs) == 7 * GROUPED.num_layers
    assert {len(pair.scale) for pair in pairs.values()} == {16}


def test_token_reads_every_linear_layer_and_no_embedding(llama: Llama) -> None:
    linears = [x.linear for layer in llama.layers for x in (layer.qkv, layer.o, layer.gate_up,
        layer.down)]  # fmt: skip
    expected = sum(x.packed.nbytes + x.scale.nbytes for x in [*linears, llama.lm_head])
    assert decode.bytes_per_token(llama) == expected


@pytest.mark.parametrize("places", decode.PLACES)
def test_read_loop_reads_every_word(places: int) -> None:
    words = np.random.default_rng(0).integers(1 << 60, size=60)
    assert decode.read_loop(places)(words) == reduce(xor, words.tolist())


def test_reader_measures_a_speed() -> None:
    with closing(decode.MemoryReader(threads=2)) as reader:
        assert reader.bytes_per_second() > 0


def figures(llama_cpp_ms: float | None = 3.0) -> ScaleFigures:
    ratio = llama_cpp_ms and llama_cpp_ms / 2
    return ScaleFigures(
        machine="a machine", model="a model", threads=2, steps=16, behind=128, loading=LOADING,
        alone=SingleUser(2.0, 10**9, 5e11, 10**12, 0.5, "why", llama_cpp_ms, ratio),
        contexts=[{"context": 512, "ms": 12.5, "prefill_tokens_per_second": 250.0}],
        users=[{"users": 4, "ms": 20.0, "tokens_per_second": 200.0}],
        adapters=[{"adapters": 12, "users": 16, "ms": 40.0, "tokens_per_second": 400.0}],
    )  # fmt: skip


def test_tables_have_a_line_for_each_figure() -> None:
    lines = [" ".join(line.split()) for line in tables(figures()).splitlines()]
    assert "from the model's files 2.50 0.000 0.000" in lines
    assert "from the cache of int8 weights 0.500 0.000 0.000 MORE THAN IT MAY" in lines
    assert "ours 2.00 500" in lines
    assert "llama.cpp 3.00 333" in lines
    assert "Ours is 1.50x as fast as llama.cpp." in lines
    assert any("500 GB/s: 50% of the 1000 GB/s" in line for line in lines)
    assert {"512 12.5 250", "4 20.0 200", "12 16 40.0 400"} < set(lines)
    assert lines[-1].startswith("Medians; GB are 10^9 bytes. a machine, 2 threads; a model;")


def test_tables_say_what_was_not_measured() -> None:
    found = figures(llama_cpp_ms=None)
    found = dataclasses.replace(found, loading=dataclasses.replace(LOADING, cache=None))
    text = tables(found)
    assert "there was no room to keep it" in text
    assert "llama.cpp: why" in text
    assert "as fast as" not in text


@pytest.mark.slow
def test_scale_measures_everything_as_json(cache: None, run_as_json: RunAsJson) -> None:
    printed = run_as_json(scale, *TINY, *FEW, "--no_llama_cpp")
    assert printed.keys() == {field.name for field in dataclasses.fields(ScaleFigures)}
    loading = printed["loading"]
    assert loading["bound_bytes"] == memory_bound(loading["int8_bytes"], loading["largest_bytes"])
    for kind in ("source", "cache"):
        assert loading[kind]["in_bounds"]
        assert 100_000_000 < loading[kind]["peak_bytes"] <= loading["bound_bytes"]
    assert printed["alone"]["llama_cpp_ms"] is None
    assert 0 < printed["alone"]["share"] < 1
    assert [row["context"] for row in printed["contexts"]] == [0, 70]
    assert [row["users"] for row in printed["users"]] == [1, 2]
    assert [(row["adapters"], row["users"]) for row in printed["adapters"]] == [(0, 3), (3, 3)]
    rows = [*printed["contexts"], *printed["users"], *printed["adapters"]]
    assert all(row["ms"] > 0 for row in rows)


@pytest.mark.slow
def test_llama_cpp_takes_turns_with_this_program(
    random_model: BenchModel, llama: Llama, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    with bench_model.started_llama_cpp(random_model, 3_000, 0, tmp_path, 2, 2) as (found, about):
        assert found is not None
        assert "Q8_0" in about
        with closing(decode.MemoryReader(threads=1)) as reader:
            measured = decode.measure_single_user(llama, reader, found, about, steps=2)
    assert measured.llama_cpp_ms is not None
    assert measured.times_as_fast == pytest.approx(measured.llama_cpp_ms / measured.ms)
