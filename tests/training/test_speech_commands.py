"""Speech Commands: the loader on small WAV files made here, MFCC against its formula."""

from __future__ import annotations

import logging
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmru_hw.config import validate
from cmru_hw.errors import ConfigError
from cmru_hw.training import Task, TaskConfig, load_task
from cmru_hw.training.tasks.mfcc import mfcc
from cmru_hw.training.tasks.speech_commands import causal_normalisation, read_wav

TONES = {"yes": 300.0, "no": 800.0, "up": 1500.0, "down": 3000.0}
"""Hz: a word is a tone in noise."""


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1, width: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes((samples * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}").tobytes())


def tone(hertz: float, seed: int, samples: int = 4000) -> np.ndarray:
    random = np.random.default_rng(seed)
    sound = np.sin(2 * np.pi * hertz * np.arange(samples) / 16000 + random.uniform(0, 6))
    return 0.5 * sound + 0.01 * random.standard_normal(samples)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four words of eight files, the last two for the test, the two before for validation; and noise."""
    root = tmp_path / "speech"
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for number, (word, hertz) in enumerate(TONES.items()):
        for k in range(8):
            write_wav(root / word / f"{k}.wav", tone(hertz, 10 * number + k, 4000 + 160 * k))
            if k >= 4:
                lists["validation_list.txt" if k < 6 else "testing_list.txt"].append(f"{word}/{k}.wav")
    write_wav(root / "_background_noise_" / "hum.wav", np.zeros(100000))
    for name, files in lists.items():
        (root / name).write_text("\n".join(files) + "\n")
    return root


def load(folder: Path, seed: int = 0, **options: Any) -> Task:
    content = {"name": "speech_commands", "folder": str(folder), **options}
    return load_task(validate(TaskConfig, content, "config.yaml"), seed)


def test_mfcc_is_its_formula() -> None:
    samples = tone(700, 1, 900)
    found = mfcc(samples)
    assert found.shape == (1 + (900 - 400) // 160, 13)
    t = 2
    frame = samples[160 * t : 160 * t + 400]
    window = np.array([0.5 - 0.5 * np.cos(2 * np.pi * n / 400) for n in range(400)])
    angles = 2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512
    power = np.abs(np.exp(-angles) @ (frame * window)) ** 2
    top, bottom = (2595 * np.log10(1 + f / 700) for f in (7600, 20))
    edges = [700 * (10 ** ((bottom + (top - bottom) * k / 41) / 2595) - 1) for k in range(42)]
    logs = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        energy = 0.0
        for k, p in enumerate(power):
            f = k * 16000 / 512
            if low < f <= middle:
                energy += p * (f - low) / (middle - low)
            elif middle < f < high:
                energy += p * (high - f) / (high - middle)
        logs.append(np.log(energy + 1e-6))
    for k in range(13):
        scale = np.sqrt((1 if k == 0 else 2) / 40)
        cosines = [np.cos(np.pi * k * (2 * n + 1) / 80) for n in range(40)]
        assert found[t, k] == pytest.approx(scale * np.dot(logs, cosines), rel=1e-9, abs=1e-9)


def test_mfcc_of_silence_is_finite_and_of_a_second_98_frames() -> None:
    found = mfcc(np.zeros(16000))
    assert found.shape == (98, 13)
    assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="N >= 400"):
        mfcc(np.zeros(399))


def test_sets_are_those_of_the_lists(folder: Path) -> None:
    task = load(folder, normalisation="none")
    assert task.class_names == ("down", "no", "up", "yes")
    assert task.validation is not None
    assert [len(split) for split in (task.train, task.validation, task.test)] == [16, 8, 8]
    assert (task.input_size, task.num_classes) == (13, 4)
    assert np.bincount(task.train.y).tolist() == [4] * 4
    samples = np.frombuffer((folder / "no" / "6.wav").read_bytes()[44:], "<i2") / 32768
    expected = mfcc(samples)
    row = 2  # down/6, down/7, no/6
    assert task.test.lengths[row] == len(expected)
    np.testing.assert_allclose(task.test.x[row, : len(expected)], expected, rtol=1e-5, atol=1e-5)
    assert not task.test.x[row, len(expected) :].any()


def test_keywords_and_others(folder: Path) -> None:
    every = load(folder, words=["yes", "up"], others="all")
    assert every.class_names == ("yes", "up", "other")
    assert np.bincount(every.train.y).tolist() == [4, 4, 8]
    balanced = load(folder, words=["yes", "up"])
    assert np.bincount(balanced.train.y).tolist() == [4, 4, 4]
    same, other = (load(folder, seed, words=["yes", "up"]) for seed in (0, 3))
    assert np.array_equal(balanced.train.x, same.train.x)
    assert not np.array_equal(balanced.train.x, other.train.x)
    assert load(folder, words=["yes", "up"], others="left_out").class_names == ("yes", "up")
    assert load(folder, words=["yes"]).class_names == ("yes", "other")


def test_training_set_normalisation(folder: Path) -> None:
    task, raw = load(folder), load(folder, normalisation="none")
    valid = np.arange(task.train.x.shape[1]) < task.train.lengths[:, None]
    np.testing.assert_allclose(task.train.x[valid].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(task.train.x[valid].std(0), 1, atol=1e-4)
    mean, std = raw.train.x[valid].mean(0), raw.train.x[valid].std(0)
    np.testing.assert_allclose(task.test.x[0, 3], (raw.test.x[0, 3] - mean) / std, rtol=1e-3, atol=1e-3)


def test_causal_normalisation_is_a_running_mean_that_no_later_frame_changes(folder: Path) -> None:
    random = np.random.default_rng(0)
    x, mean, variance = 3 + 2 * random.standard_normal((30, 13)), np.full(13, 1.0), np.full(13, 4.0)
    found = causal_normalisation(x, mean, variance)
    past = [np.full(13, 1.0 - 2.0), np.full(13, 1.0 + 2.0)] * 5  # ten frames of that mean and variance
    for t, frame in enumerate(x):
        seen = np.array([*past, *x[: t + 1]])
        np.testing.assert_allclose(found[t], (frame - seen.mean(0)) / seen.std(0), rtol=1e-9)
    np.testing.assert_array_equal(causal_normalisation(x[:12], mean, variance), found[:12])
    assert np.isfinite(load(folder, normalisation="causal").test.x).all()


BAD = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "corrupt": lambda path: path.write_bytes(b"RIFF but not really a wave"),
    "corrupt: 1000 of": lambda path: path.write_bytes(path.read_bytes()[: 44 + 2000]),
    "2 channels, must be mono": lambda path: write_wav(path, tone(300, 0), channels=2),
    "8000 Hz, must be 16000": lambda path: write_wav(path, tone(300, 0), rate=8000),
    "32 bits, must be 16": lambda path: write_wav(path, tone(300, 0), width=4),
    "399 samples, fewer than a window": lambda path: write_wav(path, tone(300, 0, 399)),
    "2.5 s, longer than 2 s": lambda path: write_wav(path, tone(300, 0, 40000)),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_file_is_named_with_its_fault(folder: Path, reason: str) -> None:
    BAD[reason](folder / "up" / "7.wav")
    with pytest.raises(ConfigError, match=rf"1 bad of 32 files \(up/7\.wav: {reason}.*--skip-bad"):
        load(folder)


def test_a_header_without_samples_is_empty(tmp_path: Path) -> None:
    write_wav(tmp_path / "none.wav", np.zeros(0))
    with pytest.raises(ValueError, match=r"^empty$"):
        read_wav(tmp_path / "none.wav")


def test_bad_files_are_counted_and_left_out_on_demand(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "up" / "7.wav").write_bytes(b"")
    (folder / "no" / "0.wav").write_bytes(b"RIFF" + struct.pack("<I", 4) + b"WAVE")
    with pytest.raises(ConfigError, match=r"2 bad of 32 files \(no/0\.wav: corrupt.*; up/7\.wav: empty\)"):
        load(folder)
    with caplog.at_level(logging.WARNING):
        task = load(folder, skip_bad=True)
    assert (len(task.train), len(task.test)) == (15, 7)
    assert "2 bad of 32 files left out (no/0.wav: corrupt" in caplog.text


def test_features_are_kept_until_a_file_changes(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "out" / "features.npz"
    fresh = load(folder)
    first = load(folder, cache=str(cache))
    written = cache.read_bytes()
    again = load(folder, cache=str(cache))
    assert np.array_equal(fresh.train.x, first.train.x)
    assert np.array_equal(first.train.x, again.train.x)
    assert cache.read_bytes() == written
    write_wav(folder / "up" / "0.wav", tone(2000, 9, 5000))
    changed = load(folder, cache=str(cache))
    assert not np.array_equal(changed.train.x, first.train.x)
    assert np.array_equal(changed.train.x, load(folder).train.x)
    cache.write_bytes(b"something else")
    with pytest.raises(ConfigError, match=r"features\.npz is no cache"):
        load(folder, cache=str(cache))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"words": ["yes", "left"]}, r"has no left; it has down, no, up, yes"),
        ({"words": ["yes", "yes"]}, "twice"),
        ({"words": ["yes"], "others": "left_out"}, "one class only"),
        ({"folder": "/nowhere"}, "/nowhere is no folder"),
        ({"validation_fraction": 0.1}, "validation_fraction: unknown key"),
        ({"normalisation": "running"}, "normalisation"),
    ],
)
def test_wrong_options(folder: Path, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(**{"folder": folder} | options)


def test_a_folder_that_is_not_speech_commands(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no folders of words"):
        load(folder / "up")
    (folder / "testing_list.txt").write_text("../secret/0.wav\n")
    with pytest.raises(ConfigError, match=r"'\.\./secret/0\.wav' is not WORD/FILE"):
        load(folder)
    (folder / "testing_list.txt").write_text("yes/5.wav\n")
    with pytest.raises(ConfigError, match=r"yes/5\.wav is in both"):
        load(folder)
    (folder / "testing_list.txt").unlink()
    with pytest.raises(ConfigError, match=r"testing_list\.txt: cannot be read"):
        load(folder)
