"""The network: its block against the reference, its pooling, and the folder it is saved in."""

import contextlib
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys

import nn_reference as reference
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import cmru_hw.nn
from cmru_hw.config import validate
from cmru_hw.errors import ConfigError
from cmru_hw.nn import Network, NetworkConfig, load_network, pool_scores, save_network

UNITS = ["fq_bmru", "bmru", "cmru", "alpha_cmru", "lru", "min_gru", "gru"]
STEPS = {unit: getattr(reference, unit) for unit in UNITS}
SIZES = {"input_size": 3, "model_size": 4, "hidden_size": 5, "num_layers": 2, "num_classes": 3}


def config(unit="fq_bmru", **options):
    return NetworkConfig(unit=unit, **(SIZES | options))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("unit", UNITS)
def test_network_equals_the_block_equation(unit, skip):
    torch.manual_seed(3)
    network = Network(config(unit, skip=skip)).double()
    u = 2 * torch.randn(2, 8, 3, dtype=torch.float64)
    trace, p = network.trace(u), reference.parameters(network)
    for sequence in range(2):
        x = u[sequence].numpy() @ p["projection.weight"].T + p["projection.bias"]
        for layer in range(2):
            np.testing.assert_allclose(trace["inputs"][layer][sequence].detach(), x, atol=1e-12)
            prefix = f"layers.{layer}.unit."
            unit_p = {name.removeprefix(prefix): v for name, v in p.items() if name.startswith(prefix)}
            h, s = reference.run(STEPS[unit], unit_p, x, unit_p.get("initial_state", np.zeros(5)))
            np.testing.assert_allclose(trace["states"][layer][sequence].detach(), s, atol=1e-12)
            if trace["candidates"]:
                fed = reference.relu(x) if unit == "fq_bmru" else x
                c = fed @ unit_p["candidate.weight"].T + unit_p["candidate.bias"]
                c = reference.relu(c) if unit == "fq_bmru" else c
                np.testing.assert_allclose(trace["candidates"][layer][sequence].detach(), c, atol=1e-12)
            out = f"layers.{layer}.output"
            y = reference.relu(h @ p[f"{out}.weight"].T + p[f"{out}.bias"])
            x = y + x if skip else y
        logits = x @ p["readout.weight"].T + p["readout.bias"]
        np.testing.assert_allclose(trace["logits"][sequence].detach(), logits, atol=1e-12)
    assert len(trace["candidates"]) == (0 if unit in ("lru", "min_gru", "gru") else 2)
    torch.testing.assert_close(network.frame_logits(u), trace["logits"])
    torch.testing.assert_close(network(u), trace["logits"].mean(1))


def test_state_dict_names_are_the_import_format():
    def names(unit, **options):
        network = Network(config(unit, num_layers=1, **options))
        return {k.removeprefix("layers.0.") for k in network.state_dict()}

    common = {"projection.weight", "projection.bias", "readout.weight", "readout.bias"}
    common |= {"output.weight", "output.bias"}
    common |= {"unit.candidate.weight", "unit.candidate.bias", "unit.initial_state"}
    fixed, moving = {"unit.threshold"}, {"unit.threshold.weight", "unit.threshold.bias"}
    amplitude = {"unit.amplitude.weight", "unit.amplitude.bias"}
    assert names("fq_bmru") == common | {"unit.threshold_low", "unit.width", "unit.gain"}
    assert names("bmru") == names("cmru", levels=2) == common | fixed | {"unit.gain"}
    assert names("cmru", input_dependent_threshold=True) == common | moving | {"unit.gain"}
    assert names("alpha_cmru") == names("alpha_cmru", rails=2.0) == common | fixed | amplitude


def test_parameter_count_of_the_design():
    sizes = {"input_size": 12, "model_size": 8, "hidden_size": 8, "num_classes": 9}
    assert Network(config("fq_bmru", **sizes)).num_parameters() == 521


def test_padding_does_not_reach_the_scores():
    torch.manual_seed(0)
    lengths = torch.tensor([3, 7, 5])
    for pool in ("mean", "last", "vote"):
        network = Network(config("cmru", pool=pool))
        x = torch.randn(3, 7, 3)
        padded = x.clone()
        for i, length in enumerate(lengths.tolist()):
            padded[i, length:] = 1e6
        alone = [network(x[i : i + 1, :length])[0] for i, length in enumerate(lengths.tolist())]
        torch.testing.assert_close(network(padded, lengths), torch.stack(alone))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 6), st.integers(1, 4))
def test_pooling_against_numpy(seed, batch, steps, classes):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (batch, steps, classes)).astype(np.float32)
    lengths = rng.integers(1, steps + 1, batch)
    for kind in ("mean", "last", "vote"):
        got = pool_scores(torch.from_numpy(logits), torch.from_numpy(lengths), kind).numpy()
        for i, length in enumerate(lengths):
            frames = logits[i, :length]
            winners = frames.argmax(1)
            want = {
                "mean": frames.mean(0),
                "last": frames[-1],
                "vote": np.bincount(winners, minlength=classes),
            }
            np.testing.assert_allclose(got[i], want[kind], rtol=1e-6, atol=1e-6)


def test_pooling_refuses_wrong_lengths():
    logits = torch.zeros(2, 4, 3)
    for lengths, message in [
        (torch.tensor([1, 5]), "within 1 .. 4, got 5 at index 1"),
        (torch.tensor([0, 4]), "within 1 .. 4, got 0 at index 0"),
        (torch.tensor([1.0, 2.0]), "integers [2], got torch.float32 [2]"),
        (torch.tensor([1]), "integers [2], got torch.int64 [1]"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            pool_scores(logits, lengths, "mean")
    with pytest.raises(ValueError, match="kind must be mean, last or vote, got 'max'"):
        pool_scores(logits, None, "max")
    with pytest.raises(ValueError, match=re.escape("[B, T, C]")):
        pool_scores(logits[0], None, "mean")


def test_wrong_input_shape():
    with pytest.raises(ValueError, match=re.escape("x must be [B, T, 3] with T >= 1, got [2, 5, 4]")):
        Network(config())(torch.zeros(2, 5, 4))


def test_options_for_learning_studies_act():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3)
    network = Network(config("min_gru", norm="layer", glu=True, dropout=0.5))
    assert {"layers.0.norm.weight", "layers.0.gate.weight"} <= network.state_dict().keys()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_annealing_a_network():
    network = Network(config("bmru", epsilon=1.0))
    assert network.anneals
    network.set_epsilon(0.25)
    assert [unit.epsilon for unit in network.units] == [0.25, 0.25]
    assert network.config.epsilon == 0.25
    with pytest.raises(ValueError, match="epsilon must be between 0 and 1, got 2"):
        network.set_epsilon(2)
    counter = Network(config("cmru"))
    assert not counter.anneals
    with pytest.raises(ValueError, match="unit is cmru"):
        counter.set_epsilon(0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "lstm"}, "unit: Input should be 'fq_bmru'"),
        ({"hidden_size": 0}, "hidden_size: Input should be greater than or equal to 1, got 0"),
        ({"hidden_size": 4.5}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 10**12}, "hidden_size"),
        ({"pool": "max"}, "pool"),
        ({"skip": "yes"}, "skip"),
        ({"epsilon": 1.5}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"dropout": 1.0}, "dropout"),
        ({"levels": 0, "unit": "cmru"}, "levels"),
        ({"levels": 2}, "levels belongs to cmru only, unit is fq_bmru"),
        ({"rails": 0.0, "unit": "alpha_cmru"}, "rails: Input should be greater than 0"),
        ({"rails": float("inf"), "unit": "alpha_cmru"}, "rails"),
        ({"rails": 2.0, "unit": "cmru"}, "rails belongs to alpha_cmru only, unit is cmru"),
        ({"input_dependent_threshold": True}, "input_dependent_threshold belongs to bmru and cmru and alpha"),
        ({"epsilon": 0.5, "unit": "cmru"}, "epsilon belongs to fq_bmru and bmru only, unit is cmru"),
        ({"heads": 2}, "heads: unknown key; known at the top: dropout"),
    ],
)
def test_wrong_configuration(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        validate(NetworkConfig, {"unit": "fq_bmru"} | SIZES | change, "network.yaml")
    assert str(caught.value).startswith("network.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", UNITS)
def test_saved_network_loads_equal(tmp_path, unit):
    options = {"cmru": {"levels": 3}, "alpha_cmru": {"rails": 2.5}}.get(unit, {})
    network = Network(config(unit, pool="last", **options))
    if unit == "bmru":
        network.set_epsilon(0.5)
    save_network(network, tmp_path / "run")
    before = torch.random.get_rng_state()
    back = load_network(tmp_path / "run")
    assert torch.equal(before, torch.random.get_rng_state()), "loading draws no random numbers"
    assert back.config == network.config
    assert not back.training
    for name, value in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)
    x = torch.randn(2, 6, 3)
    assert torch.equal(back(x), network.eval()(x))
    back.train()(x).sum().backward()
    assert back.num_parameters() == network.num_parameters()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "network.yaml",
        "weights.safetensors",
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(tmp_path, dtype):
    network = Network(config())
    save_network(network, tmp_path)
    tensors = {name: value.to(dtype).contiguous() for name, value in network.state_dict().items()}
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
    back = load_network(tmp_path)
    assert {value.dtype for value in back.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(back.readout.weight, network.readout.weight, rtol=0.01, atol=0.01)


def write(folder, tensors):
    safetensors.torch.save_file(
        {k: v.contiguous() for k, v in tensors.items()}, folder / "weights.safetensors"
    )


def with_value(name, index, value):
    def change(folder, tensors):
        tensors[name][index] = value
        write(folder, tensors)

    return change


def with_tensor(name, tensor):
    return lambda folder, tensors: write(folder, tensors | {name: tensor})


def without_tensor(name):
    return lambda folder, tensors: write(folder, {k: v for k, v in tensors.items() if k != name})


def with_bytes(name, change):
    def damage(folder, tensors):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def with_key(key, value):
    def change(folder, tensors):
        path = folder / "network.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: value}))

    return change


UNIT = "layers.1.unit"


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (lambda f, t: (f / "network.yaml").unlink(), "network.yaml", "cannot be read: No such file"),
        (lambda f, t: (f / "weights.safetensors").unlink(), "weights.safetensors", "No such file"),
        (with_bytes("network.yaml", lambda b: b[:-20] + b"{"), "network.yaml", "not valid YAML"),
        (with_key("hiden_size", 4), "network.yaml", "hiden_size: unknown key"),
        (with_key("unit", "lstm"), "network.yaml", "unit: "),
        (
            with_key("unit", "cmru"),
            "weights.safetensors",
            f"layers.0.unit.threshold, {UNIT}.threshold: missing",
        ),
        (
            with_key("hidden_size", 6),
            "weights.safetensors",
            "layers.0.output.weight: shape must be [4, 6], got [4, 5]",
        ),
        (with_key("num_layers", 3), "weights.safetensors", "layers.2.output.bias, "),
        (with_key("model_size", 2**20), "weights.safetensors", "shape must be [1048576"),
        (without_tensor("readout.bias"), "weights.safetensors", "readout.bias: missing from the network"),
        (without_tensor(f"{UNIT}.initial_state"), "weights.safetensors", f"{UNIT}.initial_state: missing"),
        (with_tensor("head\nbias", torch.ones(1)), "weights.safetensors", r"'head\nbias': not part"),
        (
            with_tensor("head.bias", torch.ones(1)),
            "weights.safetensors",
            "head.bias: not part of the network",
        ),
        (
            with_tensor("readout.weight", torch.ones(4, 3)),
            "weights.safetensors",
            "readout.weight: shape must be [3, 4], got [4, 3]",
        ),
        (
            with_tensor("readout.bias", torch.ones(3, dtype=torch.int32)),
            "weights.safetensors",
            "readout.bias: must be floating point, got torch.int32",
        ),
        (
            with_value("layers.0.output.weight", (1, 2), float("nan")),
            "weights.safetensors",
            "layers.0.output.weight[1, 2]: must be finite in float32, got nan",
        ),
        (
            with_tensor("readout.bias", torch.tensor([0, 1e300, 0], dtype=torch.float64)),
            "weights.safetensors",
            "readout.bias[1]: must be finite in float32, got inf",
        ),
        (
            with_value(f"{UNIT}.threshold_low", 3, -0.5),
            "weights.safetensors",
            f"{UNIT}.threshold_low[3]: must be >= 0, got -0.5",
        ),
        (with_value(f"{UNIT}.width", 0, -0.5), "weights.safetensors", f"{UNIT}.width[0]: must be >= 0"),
        (with_value(f"{UNIT}.gain", 4, -0.5), "weights.safetensors", f"{UNIT}.gain[4]: must be >= 0"),
        (
            with_value(f"{UNIT}.initial_state", 2, 0.5),
            "weights.safetensors",
            f"{UNIT}.initial_state[2]: must be 0 or 1, got 0.5",
        ),
        (
            with_bytes("weights.safetensors", lambda b: b[:-7]),
            "weights.safetensors",
            "whole safetensors file",
        ),
        (with_bytes("weights.safetensors", lambda b: b[:5]), "weights.safetensors", "whole safetensors file"),
        (with_bytes("weights.safetensors", lambda b: b""), "weights.safetensors", "whole safetensors file"),
        (
            with_bytes("weights.safetensors", lambda b: b"\xff" * len(b)),
            "weights.safetensors",
            "whole safetensors file",
        ),
        (
            with_bytes("weights.safetensors", lambda b: b"PK\x03\x04" + b[4:]),
            "weights.safetensors",
            "whole safetensors file",
        ),
    ],
)
def test_damaged_folder_gives_one_line_that_names_file_and_field(tmp_path, damage, file, message):
    network = Network(config())
    save_network(network, tmp_path)
    damage(tmp_path, {name: value.clone() for name, value in network.state_dict().items()})
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_network(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / file))
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_corruption_of_the_weights_escapes_as_another_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("corrupt")
    save_network(Network(config(num_layers=1)), folder)
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        where = data.draw(st.integers(0, min(len(content), 900) - 1))
        content[where] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    with contextlib.suppress(ConfigError):
        load_network(folder)


def test_saving_refuses_what_loading_would(tmp_path):
    network = Network(config())
    with torch.no_grad():
        network.layers[0].unit.width[1] = -1
    with pytest.raises(ConfigError, match=re.escape("layers.0.unit.width[1]: must be >= 0, got -1")):
        save_network(network, tmp_path)
    network.project_()
    save_network(network, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        save_network(network, tmp_path / "file")


MODULES = [module.name for module in pkgutil.iter_modules(cmru_hw.nn.__path__, "cmru_hw.nn.")]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_importing_the_package_does_not_load_torch():
    code = "import sys, cmru_hw, cmru_hw.config; assert not {'torch', 'numba', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
