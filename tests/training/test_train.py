"""Training on artificial utterances: it resumes where it ended, or starts from a checkpoint."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training.augment import Surroundings
from training.batches import Pool, collate, draw_round, load_pool
from training.fast_encoder import encode, subsample_by_products
from training.features import MEL_BINS, Utterance, read_shard, write_shard
from training.model import LOOKAHEADS, VOCAB_SIZE, Batch, create_model, losses
from training.schedule import PHASES, Phase, again, moment, total_hours
from training.text import text_of, train_tokenizer
from training.train import open_trainer, train
from training.workplace import Workplace

SENTENCES = [f"{a} {b}" for a in ("one", "two", "three", "four") for b in ("five", "six", "seven")]
ALPHABET = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
]


def phase(hours: float) -> Phase:
    return Phase(
        "test",
        hours,
        1e-3,
        real_share=0.5,
        max_seconds=9.0,
        objective="transducer",
        batch_seconds=6.0,
    )


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """Write a work folder as preparation does, with noise for speech."""
    place = Workplace(tmp_path / "work")
    rng = np.random.default_rng(0)

    def speech() -> list[tuple[np.ndarray, str]]:
        return [(rng.normal(-9, 3, (90, MEL_BINS)).astype(np.float16), s) for s in SENTENCES]

    for name in ("real-books", "real-digits", "tts-00000", "noise", "dev-books"):
        write_shard(place.features, name, speech())
    text = [w * k for w in "abcdefghijklmnopqrstuvwxyz" for k in range(1, 12)]
    train_tokenizer([*ALPHABET * 9, *SENTENCES, *text], VOCAB_SIZE).save_pretrained(place.tokenizer)
    return place


def looks_and_steps(place: Workplace) -> tuple[list[dict[str, object]], int, float]:
    lines = [json.loads(line) for line in place.log.read_text().splitlines()]
    progress = torch.load(place.state)["progress"]
    return [line for line in lines if "look" in line], progress["steps"], progress["audio_hours"]


def test_a_resumed_run_goes_on_counting(place: Workplace) -> None:
    hours = 40 / 3600
    train(place, (phase(hours),), start=None)
    looks, steps, audio_hours = looks_and_steps(place)
    assert looks
    assert audio_hours == pytest.approx(hours, abs=12 / 3600)
    with pytest.raises(SystemExit, match="has ended"):
        train(place, (phase(hours),), start=None)
    assert looks_and_steps(place)[1:] == (steps, audio_hours)
    train(place, (phase(2 * hours),), start=None)
    _, more_steps, more_hours = looks_and_steps(place)
    assert more_steps > steps
    assert more_hours == pytest.approx(2 * hours, abs=12 / 3600)


def test_without_a_state_the_checkpoint_is_the_start(place: Workplace) -> None:
    train(place, (phase(15 / 3600),), start=None)
    steps = looks_and_steps(place)[1]
    place.state.unlink()
    train(place, (phase(30 / 3600),), start=place.latest)
    assert looks_and_steps(place)[1] > steps


def test_a_checkpoint_past_the_schedule_takes_one_cycle_more(place: Workplace) -> None:
    train(place, (phase(15 / 3600),), start=None)
    place.state.unlink()
    end = total_hours(PHASES)
    (place.latest / "training.json").write_text(json.dumps({"steps": 7, "audio_hours": end + 5}))
    with pytest.raises(SystemExit, match="--extra-hours"):
        train(place, PHASES, start=place.latest)
    progress = open_trainer(place, place.latest).progress
    assert (progress.steps, progress.audio_hours) == (7, end)
    assert progress.earlier_hours == pytest.approx(5)


def test_a_killed_writer_leaves_no_shard(tmp_path: Path) -> None:
    def interrupted():
        yield np.zeros((3, MEL_BINS), np.float16), "one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, "tts-00000", interrupted())
    assert not list(tmp_path.glob("*.tsv"))


def test_shards_give_back_what_was_written(tmp_path: Path) -> None:
    frames = np.arange(5 * MEL_BINS, dtype=np.float16).reshape(5, MEL_BINS)
    write_shard(
        tmp_path, "real-x", [(frames[:2], "one"), (frames[:0], "gone"), (frames[2:], "two")]
    )
    one, two = read_shard(tmp_path / "real-x.tsv")
    assert (one.text, two.text) == ("one", "two")
    np.testing.assert_array_equal(np.concatenate([one.frames, two.frames]), frames)


def test_rounds_repeat_and_keep_to_their_limits(place: Workplace) -> None:
    pool = load_pool(place.features)
    first, again_ = (draw_round(pool, phase(1), seed=4) for _ in range(2))
    assert [[u.text for u in batch] for batch in first] == [[u.text for u in b] for b in again_]
    assert all(len(batch) * max(u.seconds for u in batch) <= 6.0 for batch in first)


def test_a_round_follows_the_mixture() -> None:
    def utterance(text: str) -> Utterance:
        return Utterance(np.zeros((100, MEL_BINS), np.float16), text)

    pool = Pool([utterance("real")], [utterance("digit")], [utterance("synthetic")], Surroundings())
    texts = [u.text for batch in draw_round(pool, phase(1), seed=0) for u in batch]
    assert texts.count("synthetic") / len(texts) == pytest.approx(0.5, abs=0.1)
    assert texts.count("digit") / texts.count("real") == pytest.approx(0.04, abs=0.01)


def test_long_utterances_are_drawn_more_often() -> None:
    def utterance(frames: int) -> Utterance:
        return Utterance(np.zeros((frames, MEL_BINS), np.float16), str(frames))

    pool = Pool([utterance(100), utterance(500)], [], [], Surroundings())
    texts = [u.text for batch in draw_round(pool, phase(1), seed=0) for u in batch]
    assert texts.count("500") / texts.count("100") == pytest.approx(5, rel=0.5)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_fast_encoder_is_the_encoder(lookahead: int) -> None:
    model = create_model(0).eval()
    counts = torch.tensor([611, 400, 55, 9])
    mask = torch.arange(611) < counts[:, None]
    mel = (torch.randn(4, 611, MEL_BINS) * 4 - 9) * mask[..., None]
    with torch.inference_mode():
        expected = model.get_audio_features(
            mel,
            mask,
            num_lookahead_tokens=lookahead,  # pyright: ignore[reportCallIssue]
        )
        frames, frame_counts = encode(model, mel, counts, lookahead)
    valid = expected.attention_mask.bool()
    assert frame_counts.tolist() == valid.sum(1).tolist()
    torch.testing.assert_close(frames[valid], expected.pooler_output[valid], atol=1e-4, rtol=1e-4)


def test_subsampling_by_products_is_the_convolutions() -> None:
    model = create_model(0).eval()
    counts = torch.tensor([611, 400, 55, 9])
    mask = torch.arange(611) < counts[:, None]
    mel = (torch.randn(4, 611, MEL_BINS) * 4 - 9) * mask[..., None]
    with torch.inference_mode():
        expected = model.encoder.subsampling(mel, mask)
        found = subsample_by_products(model.encoder.subsampling, mel, counts)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_padding_does_not_move_the_losses() -> None:
    model = create_model(0).eval()
    torch.manual_seed(0)
    mel = torch.randn(1, 160, MEL_BINS) * 4 - 9
    labels = torch.tensor([[5, 6, 7]])
    alone = Batch(mel, torch.tensor([160]), labels, torch.tensor([3]))
    padded = Batch(
        torch.nn.functional.pad(mel, (0, 0, 0, 77)),
        alone.mel_counts,
        torch.nn.functional.pad(labels, (0, 2)),
        alone.label_counts,
    )
    for objective in ("ctc", "transducer"):
        expected, found = (losses(model, b, 3, objective).total for b in (alone, padded))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_collate_leaves_clean_speech_as_it_is(place: Workplace) -> None:
    tokenizer = ParakeetTokenizer.from_pretrained(place.tokenizer)
    spoken = read_shard(place.features / "real-books.tsv")[:2]
    batch = collate(spoken, tokenizer)
    np.testing.assert_array_equal(batch.mel[0].numpy(), spoken[0].frames.astype(np.float32))
    ids = batch.labels[0, : batch.label_counts[0]].tolist()
    assert text_of(tokenizer, ids) == spoken[0].text


def test_learning_rate_is_continuous_and_ends() -> None:
    phases = PHASES + again(10.0)
    total = sum(p.audio_hours for p in phases)
    rates = []
    for i in range(2000):
        now = moment(total * i / 2000, phases)
        assert now is not None
        rates.append(now.learning_rate)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 2e-4
    assert moment(total, phases) is None
