"""Spoken words from the user's own copy of Google Speech Commands."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from cmru_hw.config import write_atomically
from cmru_hw.errors import ConfigError
from cmru_hw.training.tasks.mfcc import COEFFICIENTS, RATE, WINDOW, mfcc
from cmru_hw.training.tasks.task import Split, Task, TaskOptions

LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
OTHER = "other"
LONGEST = 2.0  # s
PRIOR = 10
"""Frames that the training set's mean and variance count as in causal normalisation."""

log = logging.getLogger(__name__)


class SpeechCommands(TaskOptions):
    """Which of `words` is said, from 13 MFCC every 10 ms (Warden 2018, arXiv 1804.03209; CC BY 4.0).

    `folder` has a folder of WAV files for each word, and the lists of validation and test files; what is in
    neither list trains. `words` left empty are all. The other words are a class `other`: all of their files,
    or drawn as many in each set as a word has on average (`balanced`), or they are `left_out`.
    """

    name: Literal["speech_commands"] = "speech_commands"
    folder: str
    words: tuple[str, ...] = Field(default=(), strict=False)
    others: Literal["balanced", "all", "left_out"] = "balanced"
    normalisation: Literal["training_set", "causal", "none"] = "training_set"
    skip_bad: bool = False
    cache: str | None = None

    def load(self, seed: int) -> Task:
        root = Path(self.folder)
        found = _listed(root)
        words = self._chosen_words(root, found)
        chosen = self._chosen_files(found, words, seed)
        paths = sorted(path for files in chosen.values() for path in files)
        features, bad = _features(root, paths, Path(self.cache) if self.cache else None)
        self._judge(root, bad, len(paths))
        names = [*words, *([OTHER] if self._has_other(found, words) else [])]
        splits = {part: _split(files, features, names) for part, files in chosen.items()}
        for part, split in splits.items():
            if len(split) == 0:
                raise ConfigError(f"{root}: no file of these words for the {part} set")
        splits = _normalised(splits, self.normalisation)
        return Task(
            name=self.name,
            input_size=COEFFICIENTS,
            num_classes=len(names),
            class_names=tuple(names),
            train=splits["training"],
            validation=splits["validation"],
            test=splits["test"],
            frame=f"13 MFCC of 25 ms, every 10 ms; normalisation: {self.normalisation}",
        )

    def _chosen_words(self, root: Path, found: Mapping[str, Sequence[str]]) -> list[str]:
        known = sorted({path.split("/")[0] for files in found.values() for path in files})
        unknown = [word for word in self.words if word not in known]
        if unknown:
            raise ConfigError(f"task.words: {root} has no {', '.join(unknown)}; it has {', '.join(known)}")
        if len(set(self.words)) < len(self.words):
            raise ConfigError(f"task.words: a word is given twice in {', '.join(self.words)}")
        words = list(self.words) or known
        if len(words) + self._has_other(found, words) < 2:
            raise ConfigError(f"task.words: {', '.join(words)} is one class only; at least two are needed")
        return words

    def _has_other(self, found: Mapping[str, Sequence[str]], words: Sequence[str]) -> bool:
        return self.others != "left_out" and any(
            path.split("/")[0] not in words for files in found.values() for path in files
        )

    def _chosen_files(
        self, found: Mapping[str, Sequence[str]], words: Sequence[str], seed: int
    ) -> dict[str, list[str]]:
        """The files of each set; those of other words drawn by `seed`."""
        chosen = {}
        for number, (part, files) in enumerate(found.items()):
            named = [path for path in files if path.split("/")[0] in words]
            others = [path for path in files if path.split("/")[0] not in words]
            if self.others == "left_out":
                others = []
            elif self.others == "balanced":
                count = min(len(others), round(len(named) / len(words)))
                random = np.random.default_rng([seed, 5, number])
                others = [others[k] for k in sorted(random.permutation(len(others))[:count])]
            chosen[part] = sorted(named + others)
        return chosen

    def _judge(self, root: Path, bad: Mapping[str, str], count: int) -> None:
        """Tell of bad files: refuse them, or say that they are left out."""
        if not bad:
            return
        listed = "; ".join(f"{path}: {reason}" for path, reason in bad.items())
        counted = f"{root}: {len(bad)} bad of {count} files"
        if not self.skip_bad:
            raise ConfigError(
                f"{counted} ({listed}); mend them, or leave them out with skip_bad (--skip-bad of `train`)"
            )
        log.warning("%s left out (%s)", counted, listed)


def read_wav(path: Path) -> np.ndarray:
    """The samples [N] within -1 .. 1 of a mono 16-bit 16 kHz file. ValueError says what is wrong."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ValueError("missing") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if not raw:
        raise ValueError("empty")
    try:
        with wave.open(io.BytesIO(raw)) as file:
            form, told = file.getparams(), file.getnframes()
            data = file.readframes(told)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"corrupt: {str(error) or 'ends too early'}") from error
    if form.nchannels != 1:
        raise ValueError(f"{form.nchannels} channels, must be mono")
    if form.sampwidth != 2:
        raise ValueError(f"{8 * form.sampwidth} bits, must be 16")
    if form.framerate != RATE:
        raise ValueError(f"{form.framerate} Hz, must be {RATE}")
    if len(data) != 2 * told:
        raise ValueError(f"corrupt: {len(data) // 2} of {told} samples")
    if told == 0:
        raise ValueError("empty")
    if told < WINDOW:
        raise ValueError(f"{told} samples, fewer than a window of {WINDOW}")
    if told > LONGEST * RATE:
        raise ValueError(f"{told / RATE:.3g} s, longer than {LONGEST:g} s")
    return np.frombuffer(data, dtype="<i2") / 2**15


def causal_normalisation(x: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """x [T, I] by the mean and deviation of its frames up to each, as a recorder knows them then.

    m_t = (P m + x_0 + ... + x_t) / (P + t + 1), likewise the squares, with P = 10 frames at the training
    set's `mean` and `variance` [I] as a start; (x_t - m_t) / sqrt(v_t).
    """
    count = PRIOR + np.arange(1, len(x) + 1)[:, None]
    average = (PRIOR * mean + x.cumsum(0)) / count
    square = (PRIOR * (variance + mean**2) + (x**2).cumsum(0)) / count
    return (x - average) / np.sqrt(square - average**2)


def _listed(root: Path) -> dict[str, list[str]]:
    """Files of each set, as WORD/FILE.wav. Folders that begin with _ or . hold no words."""
    if not root.is_dir():
        raise ConfigError(f"task.folder: {root} is no folder")
    wavs = {
        f"{word.name}/{file.name}"
        for word in root.iterdir()
        if word.is_dir() and word.name[0] not in "._"
        for file in word.iterdir()
        if file.suffix.lower() == ".wav"
    }
    if not wavs:
        raise ConfigError(f"task.folder: {root} has no folders of words with WAV files")
    lists = {}
    for part, name in LISTS.items():
        try:
            lists[part] = (root / name).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{root / name}: cannot be read; the folder needs {name}") from error
        for path in lists[part]:
            if len(Path(path).parts) != 2 or ".." in Path(path).parts or Path(path).is_absolute():
                raise ConfigError(f"{root / name}: {path!r} is not WORD/FILE.wav")
    twice = set(lists["validation"]) & set(lists["test"])
    if twice:
        raise ConfigError(f"{root}: {sorted(twice)[0]} is in both {' and '.join(LISTS.values())}")
    held = set(lists["validation"]) | set(lists["test"])
    sets = {"training": wavs - held, "validation": set(lists["validation"]), "test": set(lists["test"])}
    return {part: sorted(files) for part, files in sets.items()}


@dataclass(frozen=True)
class _Cache:
    """Features kept in a file, of just these files at these sizes and times."""

    path: Path
    identity: str

    def read(self) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                if str(archive["identity"]) != self.identity:
                    return None
                names, ends, frames = (archive[key] for key in ("names", "ends", "frames"))
                bad = json.loads(str(archive["bad"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"task.cache: {self.path} is no cache of features; remove it") from error
        parts = np.split(frames, ends[:-1]) if len(ends) else []
        return dict(zip(map(str, names), parts, strict=True)), bad

    def write(self, features: Mapping[str, np.ndarray], bad: Mapping[str, str]) -> None:
        buffer = io.BytesIO()
        parts = list(features.values())
        np.savez(
            buffer, identity=self.identity, names=np.array(list(features), dtype=str),
            ends=np.cumsum([len(one) for one in parts], dtype=np.int64), bad=json.dumps(dict(bad)),
            frames=np.concatenate(parts) if parts else np.zeros((0, COEFFICIENTS), np.float32),
        )  # fmt: skip
        write_atomically(self.path, buffer.getvalue())


def _features(
    root: Path, paths: Sequence[str], cache_path: Path | None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """MFCC [T, 13] of each good file, and what is wrong with each bad one."""
    cache = None
    if cache_path is not None:
        identity = hashlib.sha256(Path(__file__).with_name("mfcc.py").read_bytes())
        for path in paths:
            known = (root / path).stat() if (root / path).is_file() else None
            identity.update(f"{path} {known and (known.st_size, known.st_mtime_ns)}\n".encode())
        cache = _Cache(cache_path, identity.hexdigest())
        if (kept := cache.read()) is not None:
            return kept
    features, bad = {}, {}
    for path in paths:
        try:
            features[path] = mfcc(read_wav(root / path)).astype(np.float32)
        except ValueError as error:
            bad[path] = str(error)
    if cache is not None:
        cache.write(features, bad)
    return features, bad


def _split(files: Sequence[str], features: Mapping[str, np.ndarray], names: Sequence[str]) -> Split:
    good = [path for path in files if path in features]
    lengths = np.array([len(features[path]) for path in good], dtype=np.int64)
    x = np.zeros((len(good), lengths.max(initial=1), COEFFICIENTS), dtype=np.float32)
    for row, path in zip(x, good, strict=True):
        row[: len(features[path])] = features[path]
    spoken = [path.split("/")[0] for path in good]
    y = np.array([names.index(word if word in names else OTHER) for word in spoken], dtype=np.int64)
    return Split(x, y, lengths)


def _normalised(splits: Mapping[str, Split], how: str) -> dict[str, Split]:
    """The same with each coefficient standardised; padding stays zero."""
    if how == "none":
        return dict(splits)
    train = splits["training"]
    valid = np.arange(train.x.shape[1]) < train.lengths[:, None]
    frames = train.x[valid].astype(np.float64)
    mean, variance = frames.mean(0), frames.var(0)
    made = {}
    for part, split in splits.items():
        x = np.zeros_like(split.x)
        for row, raw, length in zip(x, split.x, split.lengths, strict=True):
            said = raw[:length].astype(np.float64)
            if how == "causal":
                row[:length] = causal_normalisation(said, mean, variance)
            else:
                row[:length] = (said - mean) / np.sqrt(variance)
        made[part] = Split(x, split.y, split.lengths)
    return made
