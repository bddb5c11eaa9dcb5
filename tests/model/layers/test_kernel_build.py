"""Compiling the kernels and attaching them to a model; failures and full disks."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from llvmlite.binding import get_host_cpu_features
from platformdirs import user_cache_path

from model import cleanup
from model.cleanup import ChildProcess
from model.config.settings import APP_NAME, CHECKOUT
from model.engine.kv_cache import SequenceCache
from model.layers import kernel_build
from model.layers.kernel_build import DONE, KernelBuild, build_folder, supported
from model.layers.llama import Llama, SequenceSlice
from tests.model.layers.conftest import GROUPED, make_model

HANG_SECONDS = 900  # compiling takes about ten, and minutes on a busy machine


@pytest.fixture
def model() -> Iterator[Llama]:
    made = make_model(GROUPED)
    yield made
    if made.decoder:
        made.decoder.close()


def wait_for_decoder(model: Llama) -> None:
    """Wait for the thread that attaches the decoder."""
    for thread in threading.enumerate():
        if thread.name == "kernels":
            thread.join(HANG_SECONDS)
    assert model.decoder is not None


def logits(model: Llama) -> torch.Tensor:
    cache = SequenceCache(model.cache_format)
    model.forward([SequenceSlice((3, 4, 5), cache)])
    return model.forward([SequenceSlice((6,), cache)])


COPY = "import shutil, sys; shutil.copytree({!r}, sys.argv[1], dirs_exist_ok=True)"


def fake_compiler(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Runs `code` in place of the compiler, with the folder for the machine code as argument."""

    def start(folder: Path) -> ChildProcess:
        return ChildProcess(
            [sys.executable, "-c", code, str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    monkeypatch.setattr(kernel_build, "_compile", start)


def test_model_computes_before_and_after_the_decoder_is_attached(model: Llama) -> None:
    before = logits(model)
    KernelBuild(user_cache_path(APP_NAME)).attach_when_ready(
        model, threads=2, max_rows=8, max_sequences=4
    )
    wait_for_decoder(model)
    after = logits(model)
    assert not torch.equal(before, after), "compiled code was not used"
    torch.testing.assert_close(after, before, rtol=0, atol=0.01 * float(before.abs().max()))


@pytest.mark.slow
def test_empty_cache_is_filled_by_a_child_process(tmp_path: Path, model: Llama) -> None:
    build = KernelBuild(tmp_path)
    assert not (build_folder(tmp_path) / DONE).exists()
    build.attach_when_ready(model, threads=2, max_rows=8, max_sequences=4)
    wait_for_decoder(model)
    assert (build_folder(tmp_path) / DONE).is_file()
    assert KernelBuild(tmp_path).wait()  # it is not compiled a second time


def test_cache_that_cannot_be_written_is_replaced(
    tmp_path: Path, model: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a container's user in a folder of root's: decoding is compiled all the same."""
    compiled = user_cache_path(APP_NAME)
    assert KernelBuild(compiled).wait()
    fake_compiler(monkeypatch, COPY.format(str(build_folder(compiled))))
    (tmp_path / "cache").write_text("no folder")
    KernelBuild(tmp_path / "cache").attach_when_ready(model, threads=2, max_rows=8, max_sequences=4)
    wait_for_decoder(model)
    assert logits(model).isfinite().all()


COMPARE_ON_OTHER_ISA = """
import sys
from numba import config
config.CACHE_DIR = sys.argv[1]
from model.layers.kernels import llvm_ir
llvm_ir.HOST_ISA = getattr(llvm_ir, sys.argv[2])
import torch
from llvmlite.binding import get_host_cpu_features
from tests.model.layers import test_compiled_decoder as test_decoder
from tests.model.layers.conftest import SHAPES, make_model
from tests.model.layers.kernels.test_int8_gemm import bound, exact, int8, multiplier
from model.layers.kernels import weighted_sum_ir
from model.layers.compiled_decoder import Decoder
from model.layers.kernels.int8_gemm import HAS_AVX512
assert not HAS_AVX512 and weighted_sum_ir.TILE_VECTORS == 1, "this is the code for AVX-512"
product = multiplier()
for layer in (int8(torch.randn(41, 100)), int8(torch.randn(41, 2100))):
    for rows in (1, 2, 3, 4, 5, 6, 9):
        x = torch.randn(rows, layer.in_features)
        assert ((product(layer, x) - exact(layer, x)).abs() <= bound(layer, x)).all(), rows
for shape in SHAPES.values():
    model = make_model(shape)
    adapters = test_decoder.loras(model)
    expected = test_decoder.Sequences(model, adapters).prefill()
    decoder = Decoder(model, 2, 128, 8)
    model.set_decoder(decoder)
    sequences = test_decoder.Sequences(model, adapters)
    together = sequences.prefill().clone()
    test_decoder.assert_near(together, expected)
    for at, prompt in enumerate(test_decoder.PROMPTS):
        alone = model.forward([sequences.slice(at, prompt, test_decoder.empty_cache(model))])
        assert torch.equal(alone[0], together[at]), at
    decoder.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["AVX2", "GENERIC"])
def test_other_processors_compute_the_same(tmp_path: Path, isa: str) -> None:
    """The code for processors without vectors of 512 bits, and without those of 256."""
    if isa == "AVX2" and not get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2 either")
    done = subprocess.run(
        [sys.executable, "-c", COMPARE_ON_OTHER_ISA, str(tmp_path), isa],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_failed_compilation_is_logged_once_and_torch_serves(
    tmp_path: Path, model: Llama, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_compiler(monkeypatch, "import sys; print('noise'); sys.exit('no LLVM for this machine')")
    with caplog.at_level(logging.WARNING):
        build = KernelBuild(tmp_path)
        assert not build.wait()
    assert "no LLVM for this machine" in caplog.text
    assert model.decoder is None
    assert logits(model).isfinite().all()


def test_cancelled_build_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_compiler(monkeypatch, "import time; time.sleep(600)")
    build = KernelBuild(tmp_path)
    with caplog.at_level(logging.WARNING):
        build.cancel()
        assert not build.wait()
    assert caplog.text == ""  # an ending program logs nothing
    assert build._child is not None
    assert build._child.stdout is not None
    build._child.stdout.close()
    assert build._child.returncode != 0


@pytest.mark.parametrize("is_end", [True, False])
def test_cancelling_ends_the_thread_that_waits_for_the_compilation(
    is_end: bool, tmp_path: Path, model: Llama, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Python aborted at its end while that daemon thread was waiting."""
    monkeypatch.setattr(cleanup, "_callbacks", {})
    fake_compiler(monkeypatch, "import time; time.sleep(600)")
    build = KernelBuild(tmp_path)
    build.attach_when_ready(model, 1, 8, 2)
    assert "kernels" in {thread.name for thread in threading.enumerate()}
    with caplog.at_level(logging.WARNING):
        cleanup.run_callbacks() if is_end else build.cancel()
    assert "kernels" not in {thread.name for thread in threading.enumerate()}
    assert caplog.text == ""  # as of a compilation that failed
    assert model.decoder is None


def test_changed_sources_are_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "kernels"
    sources.mkdir()
    (sources / "one.py").write_text("a = 1\n")
    monkeypatch.setattr(kernel_build, "SOURCES", sources)
    first = build_folder(tmp_path)
    assert build_folder(tmp_path) == first
    (sources / "one.py").write_text("a = 2\n")
    assert build_folder(tmp_path) != first


@pytest.mark.parametrize(
    ("device", "quantization", "expected"),
    [("cpu", "8bit", True), ("cpu", "none", False), ("cuda", "8bit", False)],
)
def test_only_int8_on_the_cpu_is_compiled(device: str, quantization: str, expected: bool) -> None:
    assert supported(device, quantization) is expected
