"""Reading YAML into validated, frozen models; every complaint is one line with file, field and rule."""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cmru_hw import __version__
from cmru_hw.errors import ConfigError


class Strict(BaseModel):
    """Base of all configuration: immutable, no unknown keys, no silent type conversion, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader, in C where there is one, that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError if it is missing, not YAML, or not a mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506, a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys to values, got {type(content).__name__}")
    return content


def validate(model: type[Model], content: Any, where: str | Path) -> Model:
    """`content` as `model`; raises ConfigError naming `where`, the field and the rule."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        complaints = []
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"]) or "(whole file)"
            if item["type"] == "extra_forbidden":
                known = ", ".join(sorted(model.model_fields))
                hint = f"; known at the top: {known}" if len(item["loc"]) == 1 else ""
                complaints.append(f"{field}: unknown key{hint}")
            else:
                got = "" if item["type"] == "missing" else f", got {item['input']!r}"
                complaints.append(f"{field}: {item['msg']}{got}")
        raise ConfigError(f"{where}: " + "; ".join(complaints)) from error


def load(model: type[Model], path: Path) -> Model:
    """Read and validate a YAML file as `model`."""
    return validate(model, read_yaml(path), path)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def to_yaml(content: dict[str, Any]) -> str:
    """YAML text in the order given."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


@lru_cache(maxsize=1)
def program_hash() -> str:
    """Short hash of the program and its circuits: what another version made is not mixed with this one's."""
    found = hashlib.sha256(__version__.encode())
    files = [*Path(__file__).parent.rglob("*.py"), *packaged("circuits").rglob("*.*")]
    for path in sorted(files):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


def packaged(*parts: str) -> Path:
    """A file of `circuits/` or `models/`, in the repository or inside the installed wheel."""
    here = Path(__file__).resolve().parent
    for root in (here, here.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise ConfigError(f"{'/'.join(parts)}: not part of this installation")
