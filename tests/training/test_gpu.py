"""Training on a GPU, its parts run on the CPU: features, variation, losses, schedule, transfer."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training import augment as on_cpu
from training.features import MEL_BINS, log_mel
from training.gpu import augment, lattice, schedule
from training.gpu.bundle import encode_smaller
from training.gpu.decode import word_errors
from training.gpu.features import log_mel_batch
from training.gpu.optimizer import Optimizer
from training.gpu.pieces import unpack_pieces, write_pieces
from training.gpu.pool import Mixture, Pool
from training.gpu.prepare import sentences_of
from training.gpu.sound import SoundShard, read_sound, to_pcm, write_sound
from training.gpu.train import WEIGHTS_NAME, Settings, train_on_gpu
from training.losses import lattice_loss, transducer_loss
from training.model import create_model, save_checkpoint

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).parents[2]


def tone(hz: float, seconds: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(int(16_000 * seconds)) / 16_000)


def test_features_are_those_of_the_extractor() -> None:
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 0.1, n).astype(np.float32) for n in (16_000, 9_130)]
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(s) for s in sounds], batch_first=True, padding_value=0.7
    )
    mel, counts = log_mel_batch(padded, torch.tensor([16_000, 9_130]))
    assert counts.tolist() == [100, 57]
    for row, sound, count in zip(mel, sounds, counts.tolist(), strict=True):
        expected = torch.from_numpy(log_mel(sound).astype(np.float32))
        torch.testing.assert_close(row[:count], expected, atol=2e-2, rtol=0)
        assert not row[count:].any()


def test_a_faster_tone_is_a_higher_tone() -> None:
    played, meant = (torch.from_numpy(tone(hz, 1.0)).float()[None] for hz in (1000.0, 1000.0 * 1.1))
    faster, counts = log_mel_batch(played, torch.tensor([16_000]), hop=176)
    expected, _ = log_mel_batch(meant, torch.tensor([16_000]))
    assert counts.tolist() == [90]
    assert (
        faster[0, 45].argmax()
        == expected[0, 45].argmax()
        != log_mel_batch(played, torch.tensor([16_000]))[0][0, 45].argmax()
    )


def test_batched_variation_equals_that_of_single_utterances() -> None:
    rng = np.random.default_rng(1)
    frames = rng.normal(-9, 3, (60, MEL_BINS)).astype(np.float32)
    mel = torch.zeros(2, 80, MEL_BINS)
    mel[0, :60] = torch.from_numpy(frames)
    counts, new_counts = torch.tensor([60, 80]), torch.tensor([50, 80])
    formants = torch.tensor([1.07, 1.0])
    warped = augment.warp(mel, counts, new_counts, formants, 80)
    expected = on_cpu.shift_formants(on_cpu.change_tempo(frames, 60 / 50), 1.07)
    torch.testing.assert_close(warped[0, :50], torch.from_numpy(expected), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(warped[1], mel[1])

    valid = (torch.arange(80) < counts[:, None])[..., None]
    colour = on_cpu.Colour(
        rng.normal(-8, 1, MEL_BINS).astype(np.float32), rng.uniform(1, 4, MEL_BINS).astype("f4")
    )
    colours = torch.from_numpy(np.stack(colour))[None].repeat(2, 1, 1)
    matched = augment.match_colours(mel, valid, colours, torch.tensor([0.6, 0.0]))
    expected = on_cpu.match_colour(frames, colour, 0.6)
    torch.testing.assert_close(matched[0, :60], torch.from_numpy(expected), atol=1e-3, rtol=1e-4)

    room = augment.reverberate(mel, torch.tensor([0.4, 0.4]), torch.tensor([10**-0.3, 0.0]))
    expected = on_cpu.reverberate(frames, 0.4, 3.0)
    torch.testing.assert_close(room[0, :60], torch.from_numpy(expected), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(room[1], mel[1])

    low, high = torch.tensor([5.0, 0.0]), torch.tensor([60.0, 80.0])
    limited = augment.limit_bands(mel, low, high, torch.tensor([-15.0, -15.0]))
    assert limited[0, :, :5].max() <= -15
    torch.testing.assert_close(limited[0, :, 5:60], mel[0, :, 5:60])
    torch.testing.assert_close(limited[1], mel[1])

    bands, gaps = torch.tensor([[3.0, 7.0], [0.0, 0.0]]), torch.tensor([[10.0, 20.0], [0.0, 0.0]])
    masked = augment.mask_blocks(mel, valid, bands, gaps)
    mean = mel[0, :60].mean()
    assert (masked[0, :, 3:7] == mean).all()
    assert (masked[0, 10:20] == mean).all()
    torch.testing.assert_close(masked[0, 20:, 7:], mel[0, 20:, 7:])
    torch.testing.assert_close(masked[1], mel[1])


def test_without_a_share_nothing_is_varied() -> None:
    counts = np.array([100, 57])
    variation = augment.draw_variation(counts, 0.0, np.random.default_rng(0))
    mel = torch.randn(2, 100, MEL_BINS) - 9
    mel[1, 57:] = 0
    table = torch.from_numpy(variation.table())
    colours = torch.zeros(2, 2, MEL_BINS)
    varied, new_counts = augment.vary(mel, torch.from_numpy(counts), table, 100, colours)
    assert new_counts.tolist() == counts.tolist()
    torch.testing.assert_close(varied, mel, atol=1e-4, rtol=1e-5)


def test_edges_keep_value_and_gradient() -> None:
    sample = lattice.Sample.draw(CPU)
    expected = sample.value_and_gradient(transducer_loss)
    found = sample.value_and_gradient(lattice.by_edges(lattice_loss))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_a_gpu_the_slow_loss_is_chosen() -> None:
    lines: list[str] = []
    loss = lattice.choose_transducer_loss(CPU, lines.append)
    assert "torch" in lines[-1]
    assert torch.isfinite(lattice.Sample.draw(CPU).value_and_gradient(loss)[0]).all()


EMULATION = r"""
#include <barrier>
#include <cmath>
#include <thread>
#include <vector>
struct Index { int x, y, z; };
static thread_local Index threadIdx, blockIdx;
static Index blockDim;
static std::barrier<>* block_barrier;
static float* block_memory;
#define __device__ static
#define __global__
#define __syncthreads() block_barrier->arrive_and_wait()
SOURCE
template <class Kernel> void launch(int columns, int rows, int threads, Kernel kernel) {
    blockDim = {threads, 1, 1};
    std::vector<float> memory(2 * threads, NAN);
    block_memory = memory.data();
    std::barrier<> barrier(threads);
    block_barrier = &barrier;
    for (int x = 0; x < columns; x++)
        for (int y = 0; y < rows; y++) {
            std::vector<std::thread> running;
            for (int i = 0; i < threads; i++)
                running.emplace_back([=] {
                    threadIdx = {i, 0, 0};
                    blockIdx = {x, y, 0};
                    kernel();
                });
            for (auto& thread : running) thread.join();
        }
}
extern "C" void both(const float* blanks, const float* emits, const long long* frames,
    const long long* labels, float* alpha, float* beta, float* total, const float* scale,
    float* grad_blanks, float* grad_emits, int B, int T, int U, int threads) {
    launch(B, 2, threads,
        [=] { sweep(blanks, emits, frames, labels, alpha, beta, total, T, U); });
    launch(T, B, threads, [=] { occupation(blanks, emits, frames, labels, alpha, beta, total,
        scale, grad_blanks, grad_emits, T, U); });
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ with C++20")
def test_the_kernel_run_by_threads_agrees_with_the_slow_loss(tmp_path: Path) -> None:
    import ctypes

    source = lattice.SOURCE.replace(
        "extern __shared__ float shared[]", "float* shared = block_memory"
    )
    (tmp_path / "kernel.cpp").write_text(EMULATION.replace("SOURCE", source))
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-o"]
    subprocess.run([*command, tmp_path / "kernel.so", tmp_path / "kernel.cpp"], check=True)
    batch, frames, labels = 4, 7, 9
    sample = lattice.Sample.draw(CPU, batch, frames, labels)
    edges = [
        e.detach().contiguous().requires_grad_()
        for e in lattice.edges_of(sample.logits, sample.labels, 191)
    ]
    expected = lattice_loss(edges[0], edges[1], sample.frame_counts, sample.label_counts)
    weights = torch.linspace(0.5, 1.5, batch)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), edges)
    nothing = float("nan")
    alpha, beta = (torch.full((batch, frames, labels + 1), nothing) for _ in range(2))
    total = torch.full((batch,), nothing)
    gradients = [torch.full_like(e, nothing) for e in edges]
    tensors = (*edges, sample.frame_counts, sample.label_counts, alpha, beta, total, -weights)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (*tensors, *gradients)]
    ctypes.CDLL(str(tmp_path / "kernel.so")).both(*pointers, batch, frames, labels, 32)
    torch.testing.assert_close(-total, expected.detach())
    torch.testing.assert_close(gradients, list(expected_gradients), rtol=1e-3, atol=1e-5)


def test_the_learning_rate_rises_and_falls_with_the_clock() -> None:
    rates = [schedule.learning_rate(share, 1e-3) for share in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1e-3, rel=1e-2)
    assert rates[0] < 1e-4
    assert rates[-1] == pytest.approx(schedule.FINAL_RATE)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert schedule.mixture(0.9, 1.0).real_share > schedule.mixture(0.1, 1.0).real_share


def test_an_update_that_is_not_finite_changes_nothing_but_the_count() -> None:
    torch.manual_seed(0)
    model, average = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer = Optimizer(model, average)
    before = model.weight.detach().clone()
    model(torch.full((1, 3), float("inf"))).sum().backward()
    optimizer.step(0.1)
    assert optimizer.skipped == 1
    torch.testing.assert_close(model.weight.detach(), before, atol=5e-3, rtol=0)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step(0.1)
    assert not torch.allclose(model.weight.detach(), before, atol=1e-2)
    assert torch.isfinite(average.weight).all()


def test_pieces_come_back_whole_or_not_at_all(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "weights").write_bytes(np.random.default_rng(0).bytes(300_000))
    pieces = write_pieces(tree, tmp_path / "out", "x.tar", 0.1)
    assert len(pieces) == 3
    unpack_pieces(tmp_path / "out", "x.tar", tmp_path / "back")
    assert (tmp_path / "back" / "weights").read_bytes() == (tree / "weights").read_bytes()
    pieces[1].write_bytes(b"damaged")
    with pytest.raises(ValueError, match="carry it again"):
        unpack_pieces(tmp_path / "out", "x.tar", tmp_path / "again")


def test_sound_shards_give_back_what_was_written(tmp_path: Path) -> None:
    sounds = [to_pcm(np.array([0.0, 0.5, -1.5])), to_pcm(np.array([0.25]))]
    write_sound(tmp_path, "real-x", [(sounds[0], "one"), (sounds[1], "two words")])
    shard = read_sound(tmp_path / "real-x.tsv")
    assert shard.samples.tolist() == [0, 16384, -32768, 8192]
    assert shard.counts.tolist() == [3, 1]
    assert shard.texts == ["one", "two words"]


def test_encoding_keeps_the_length_of_a_recording(tmp_path: Path) -> None:
    source, target = tmp_path / "a.wav", tmp_path / "out" / "a.wav"
    soundfile.write(source, tone(300, 1.0), 16_000)
    encode_smaller(source, target)
    assert target.stat().st_size < source.stat().st_size / 5
    assert len(soundfile.read(target)[0]) == 16_000


def test_each_pass_speaks_every_sentence_once() -> None:
    sentences = [f"sentence {i}" for i in range(300)]
    first, second = (
        [s for number in numbers for s in sentences_of(number, sentences)]
        for numbers in (range(3), range(3, 6))
    )
    assert sorted(first) == sorted(second) == sorted(sentences)
    assert first != second


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [("a b c", "a b c", 0), ("a b c", "", 3), ("a b c", "x a c c", 2), ("", "a", 1)],
)
def test_word_errors(reference: str, hypothesis: str, errors: int) -> None:
    assert word_errors(reference.split(), hypothesis.split()) == errors


def test_a_batch_stays_below_its_limit_and_draws_what_is_asked_for() -> None:
    pool = Pool(CPU, 16_000 * 400, lambda texts: [[3] * len(t.split()) for t in texts])
    rng = np.random.default_rng(0)
    for name in ("noise", "real-x", "dev-x", "tts-00000"):
        counts = rng.integers(16_000, 48_000, 40)
        samples = rng.integers(-999, 999, counts.sum()).astype(np.int16)
        pool.add(name, SoundShard(samples, counts, ["one two three"] * 40))
    batches = pool.draw(Mixture(0.5, 1.0, 20.0), rng)
    assert all(len(b) * pool.counts[b].max() <= 20 * 16_000 for b in batches)
    drawn = np.concatenate(batches)
    assert (pool.real_weights[drawn] > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert not set(drawn) & set(pool.held_out["x"])
    batch = pool.batch(batches[0], 1.0, rng)
    assert torch.isfinite(batch.mel).all()
    assert batch.mel.shape[:2] == (len(batches[0]), batch.mel.shape[1])
    assert int(batch.mel_counts.max()) <= batch.mel.shape[1]


def test_a_run_leaves_a_checkpoint_that_counts_on(tmp_path: Path) -> None:
    start, sound = tmp_path / "start", tmp_path / "sound"
    tokenizer = ParakeetTokenizer.from_pretrained(REPOSITORY / "checkpoints" / "demo")
    save_checkpoint(create_model(0), tokenizer, start)
    (start / "training.json").write_text(json.dumps({"steps": 7, "audio_hours": 3.0}))
    rng = np.random.default_rng(0)
    for name in ("noise", "real-x", "dev-x", "tts-00000"):
        spoken = [(rng.integers(-999, 999, 20_000).astype(np.int16), "one two") for _ in range(4)]
        write_sound(sound, name, spoken)
    train_on_gpu(
        Settings(
            sound=sound,
            start=start,
            run=tmp_path / "run",
            results=tmp_path / "results",
            minutes=10 / 60,
            batch_seconds=3.0,
            peak_rate=1e-4,
            capacity_hours=0.02,
            device=CPU,
        )
    )
    unpack_pieces(tmp_path / "results", WEIGHTS_NAME, tmp_path / "back")
    progress = json.loads((tmp_path / "back" / "training.json").read_text())
    assert progress["steps"] > 7
    assert progress["audio_hours"] > 3
    lines = (tmp_path / "back" / "gpu_log.jsonl").read_text().splitlines()
    assert any("look" in json.loads(line) for line in lines)
