"""Packed networks: what is read is what was written, whatever else is refused, and the shipped weights are whole."""

import dataclasses
import json
import re
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save

import atlf_jax as atlf
from atlf_jax.array_types import Reconstruction
from atlf_jax.commands import card as card_command
from atlf_jax.commands import pack as pack_command
from atlf_jax.config import Config, to_dict
from atlf_jax.data import DataConfig, PreparedConfig, open_source
from atlf_jax.evaluation.scoring import evaluate
from atlf_jax.evaluation.trial import EvaluationConfig, Trial
from atlf_jax.masks import MaskConfig
from atlf_jax.models import build
from atlf_jax.trained import Network, files, load, network
from atlf_jax.trained.files import FORMAT, shipped
from tests.models.conftest import measure, random_variables, small


@pytest.fixture(scope="module")
def trained():
    """A small network, not trained, with a folder of data in its configuration."""
    config = Config(name="tiny", model=small(), data=DataConfig(PreparedConfig(root="/home/somebody/scans")))
    variables = random_variables(build(config.model), measure()[0])
    return Network(config, variables, {"step": 7, "stage": "joint", "psnr": 20.5})


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    file = tmp_path_factory.mktemp("packed") / "tiny.safetensors"
    trained.save(file)
    return file


def changed(packed, file, *, arrays=lambda arrays: arrays, header=lambda header: header):
    """Write the packed file again with other arrays or another header."""
    found = json.loads(_header(packed)["atlf_jax"])
    file.write_bytes(save(arrays(load_arrays(packed.read_bytes())), {"atlf_jax": json.dumps(header(found))}))
    return file


def _header(file):
    content = file.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def test_what_is_read_is_what_was_packed(trained, packed, tmp_path):
    found = load(packed)
    assert found.facts == trained.facts
    assert found.config.model == trained.config.model and found.config.name == "tiny"
    assert jax.tree.structure(found.variables) == jax.tree.structure(trained.variables)
    jax.tree.map(np.testing.assert_array_equal, found.variables, trained.variables)
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"]))
    assert found.config.data.source.root == "" and b"somebody" not in packed.read_bytes()
    trained.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == packed.read_bytes()


def test_a_file_is_not_replaced_unasked(trained, packed, tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"x\.safetensors is there already; .* --overwrite"):
        trained.save(file)
    assert file.read_bytes() == b"mine"
    trained.save(file, overwrite=True)
    assert file.read_bytes() == packed.read_bytes() and list(tmp_path.iterdir()) == [file]
    with pytest.raises(ValueError, match=r"does not end in \.safetensors"):
        trained.save(tmp_path / "x.npz")


def test_other_files_are_refused(packed, tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="no readable safetensors file"):
        load(file)
    file.write_bytes(packed.read_bytes()[:-4])
    with pytest.raises(ValueError, match="no readable safetensors file"):
        load(file)
    file.write_bytes(save({"a": np.zeros(3, np.float32)}, {"format": "pt"}))
    with pytest.raises(ValueError, match="safetensors file of something else.*pack"):
        load(file)


def test_newer_formats_and_configurations_are_refused(packed, tmp_path):
    file = tmp_path / "x.safetensors"
    newer = FORMAT + 1
    with pytest.raises(ValueError, match=f"of format {newer}, .* reads up to {FORMAT}; install a newer"):
        load(changed(packed, file, header=lambda header: header | {"format": newer}))
    with pytest.raises(ValueError, match=r"x\.safetensors: .* has no field 'sort'; .* another version"):
        load(changed(packed, file, header=lambda header: header | {"config": header["config"] | {"sort": 1}}))


def test_arrays_of_another_network_are_refused(packed, tmp_path):
    file = tmp_path / "x.safetensors"
    name = sorted(load_arrays(packed.read_bytes()))[0]
    for change, words in (
        (lambda arrays: arrays | {"params/b/more": np.zeros(2, np.float32)}, r"1 arrays differ, .* wanted None"),
        (lambda arrays: {k: v for k, v in arrays.items() if k != name}, rf"first {name}: there None"),
        (lambda arrays: arrays | {name: arrays[name][None]}, rf"first {name}: there \(\(1, "),
        (lambda arrays: arrays | {name: arrays[name].astype(np.float16)}, rf"first {name}: .*float16.*wanted.*float32"),
    ):
        with pytest.raises(ValueError, match=words):
            load(changed(packed, file, arrays=change))


def digest_changed(header):
    return header | {"sha256": "0" * 64}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (digest_changed, "was changed or damaged since it was packed"),
        (lambda header: {k: v for k, v in header.items() if k != "sha256"}, "was changed or damaged"),
        (lambda header: header | {"step": 8}, "was changed or damaged"),
        (lambda header: [header], "header without a format"),
        (lambda header: None, "header without a format"),
        (lambda header: {k: v for k, v in header.items() if k != "format"}, "header without a format"),
        (lambda header: header | {"format": "2"}, "header without a format"),
        (lambda header: header | {"step": None}, "its step is None"),
        (lambda header: header | {"config": None}, "wanted a dictionary of Config"),
        (lambda header: header | {"config": header["config"] | {"mask": 3}}, "config.mask"),
        (lambda header: header | {"uncertainty": {"scale": "much"}}, "not a readable trained network"),
    ],
)
def test_a_changed_header_is_refused_in_one_sentence(packed, tmp_path, header, words):
    with pytest.raises(ValueError, match=words) as error:
        load(changed(packed, tmp_path / "x.safetensors", header=header))
    assert "x.safetensors" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) <= 250


def test_a_header_without_a_mask_has_the_default(packed, tmp_path):
    def without(header):
        config = {name: value for name, value in header["config"].items() if name != "mask"}
        return {name: value for name, value in header.items() if name != "sha256"} | {"format": 1, "config": config}

    file = changed(packed, tmp_path / "x.safetensors", header=without)
    assert load(file).config.masks == (MaskConfig(),)


def test_files_of_the_first_format_are_read_without_a_digest(packed, tmp_path):
    def first(header):
        return {name: value for name, value in header.items() if name != "sha256"} | {"format": 1}

    file = changed(packed, tmp_path / "old.safetensors", header=first)
    jax.tree.map(np.testing.assert_array_equal, load(file).variables, load(packed).variables)


def test_a_flipped_bit_in_shipped_weights_is_refused(tmp_path):
    content = bytearray(shipped()["aanlib-best"].read_bytes())
    file = tmp_path / "x.safetensors"
    for place in (len(content) - 1, len(content) // 2, 8 + int.from_bytes(content[:8], "little")):
        content[place] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match="was changed or damaged since it was packed"):
            load(file)
        content[place] ^= 1
    file.write_bytes(content)
    assert load(file).facts == load(shipped()["aanlib-best"]).facts


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_absurd_weights_are_refused(trained, tmp_path, value):
    leaves, tree = jax.tree.flatten(trained.variables)
    leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].set(value)
    spoilt = dataclasses.replace(trained, variables=jax.tree.unflatten(tree, leaves))
    with pytest.raises(ValueError, match="weights that are not finite or above 1e.06"):
        spoilt.save(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_folder_comes_before_a_name(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "shipped", lambda: {"tiny": packed})
    assert load("tiny").facts["step"] == 7
    Path("tiny").mkdir()
    with pytest.raises(ValueError, match=r"no 'best' checkpoint under .*tiny"):
        load("tiny")
    with pytest.raises(ValueError, match="nothing is neither a run's folder nor a packed file, .* there are tiny"):
        load("nothing")


def test_the_names_of_earlier_versions_are_other_names_of_load():
    from atlf_jax.models import load_pretrained

    assert atlf.load is atlf.load_model is atlf.load_pretrained is atlf.models.load_pretrained is load_pretrained


def test_what_a_header_holds_is_read_once(packed, monkeypatch):
    """One network is one reading of its file, whatever is asked of it afterwards."""
    opened = []
    monkeypatch.setattr(
        files, "safe_open", lambda *arguments, **options: opened.append(1) or safe_open(*arguments, **options)
    )
    found = load(packed)
    assert found.trained_for.masks == found.config.masks and found.calibration is None and found.parameters
    assert repr(found) == f"Network('tiny', {found.parameters:,} parameters, step 7)"
    assert len(opened) == 1


@pytest.mark.filterwarnings("ignore::atlf_jax.GuardWarning")  # images of 8 x 8 pixels were never trained
def test_a_name_is_a_model(packed, trained, monkeypatch):
    """The names of ``load`` and reconstruct make the same function of the same network."""
    seen = []

    def as_function(config, variables):
        seen.append((config, variables))
        return lambda measurement: Reconstruction(2 * atlf.adjoint(measurement.kspace, measurement.mask))

    monkeypatch.setattr(files, "shipped", lambda: {"tiny": packed})
    monkeypatch.setattr(network, "as_function", as_function)
    kspace, mask = np.asarray(atlf.fft2c(np.ones((8, 8), np.complex64))), np.ones(8, bool)
    for model in (atlf.models.load_pretrained("tiny"), atlf.load_model(packed), "tiny"):
        np.testing.assert_allclose(
            atlf.reconstruct(kspace, mask, model=model, force=True), 2, atol=1e-6
        )  # measured 2e-7
    assert len(seen) == 3
    for config, variables in seen:
        assert config == trained.config.model
        jax.tree.map(np.testing.assert_array_equal, variables, trained.variables)


def test_the_table_of_a_card_is_renewed(tmp_path, capsys):
    summary = {
        "protocol": {
            "dataset": "aanlib", "split": "valid", "slices": 36, "subjects": {"28": 16, "37": 20},
            "profile": "picture", "masks": [{"label": "random 4x", "effective": 4.05, "coverage": 0.39, "hash": "9b"}],
        },
        "methods": {"net": {}},
        "results": [
            {
                "mask": "random 4x", "method": "net", "metric": metric, "mean": mean, "subjects": subjects,
                "worst": 26.8, "worst_name": "37001",
            }
            for metric, mean, subjects in (
                ("psnr", 31.934, {"28": 33.351, "37": 30.504}), ("ssim", 0.928, {}), ("nmse", 0.0122, {}),
                ("hfen", 0.354, {}),
            )
        ],
    }  # fmt: skip
    source, card = tmp_path / "summary.json", tmp_path / "net.md"
    source.write_text(json.dumps(summary))
    card.write_text("# net\n<!-- scores -->\nold\n<!-- /scores -->\nend\n")
    card_command.main([str(source), str(card)])
    text = card.read_text()
    assert text.startswith("# net\n<!-- scores -->\n") and text.endswith("|\n<!-- /scores -->\nend\n")
    row = "| random 4x (4.05x, 0.390, `9b`) | net | 31.93 | 33.35, 30.50 | 26.80 (37001) | 0.9280 | 0.0122 | 0.3540 |"
    assert row in text and "old" not in text and "cases 28, 37" in text
    card_command.main([str(source), str(card)])
    assert card.read_text() == text
    summary["uncertainty"] = [
        {
            "mask": "random 4x", "method": "net", "error": 0.0304, "calibration_error": 0.0012, "coverage": 0.912,
            "pearson": 0.29, "spearman": 0.28, "scale": 2.73, "calibrated": True,
            "fitted": {"scale": 2.5, "bound": 2.1},
        }
    ]  # fmt: skip
    source.write_text(json.dumps(summary))
    card_command.main([str(source), str(card)])
    row = "| random 4x | net | 0.0304 | 0.0012 | 91.2 % | 0.29 | 0.28 | 2.730 |"
    assert card.read_text().replace(row, "").startswith(text.partition(card_command.END)[0]) and row in card.read_text()
    card.write_text("# net\n")
    with pytest.raises(SystemExit, match="2"):
        card_command.main([str(source), str(card)])
    assert "has no <!-- scores -->" in capsys.readouterr().err


def test_a_calibration_is_packed_with_what_it_was_fitted_on(packed, tmp_path, capsys):
    item = {"fitted": {"scale": 2.5, "bound": 2.1}}
    summary = {"protocol": {"dataset": "aanlib", "split": "inner_valid", "subjects": {"41": 20}}, "uncertainty": [item]}
    source, out = tmp_path / "summary.json", tmp_path / "x.safetensors"
    source.write_text(json.dumps(summary))
    assert load(packed).calibration is None
    pack_command.main([str(packed), str(out), "--calibration", str(source)])
    assert load(out).calibration == (2.5, 2.1)
    where = {"dataset": "aanlib", "split": "inner_valid", "subjects": ["41"]}
    assert load(out).facts["uncertainty"] == item["fitted"] | where
    source.write_text(json.dumps(summary | {"uncertainty": [item, item]}))
    with pytest.raises(SystemExit, match="2"):
        pack_command.main([str(packed), str(out), "--overwrite", "--calibration", str(source)])
    assert "calibrations of 2 methods and masks, wanted one" in capsys.readouterr().err


def test_the_command_packs_and_says_mistakes_in_one_line(packed, tmp_path, capsys):
    out = tmp_path / "copy.safetensors"
    pack_command.main([str(packed), str(out)])
    assert out.read_bytes() == packed.read_bytes() and "parameters" in capsys.readouterr().out
    for source, words in (
        (packed, "is there already"),
        (tmp_path / "none", "neither a run's folder nor a packed file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            pack_command.main([str(source), str(out)])
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


def test_shipped_weights_are_whole_and_have_a_card():
    weights = resources.files("atlf_jax") / "weights"
    assert {"aanlib-4x-compact", "aanlib-10x-compact"} <= shipped().keys()
    for name in shipped():
        assert (weights / f"{name}.safetensors").is_file()
        card = (weights / f"{name}.md").read_text(encoding="utf-8")
        found = load(name)
        facts, config = found.facts, found.config
        data = to_dict(config)["data"]
        assert all(
            "root" not in settings or not settings["root"] for settings in data.values() if type(settings) is dict
        )
        for words in (
            f"--config=configs/{config.name}.py", f"seed {config.train.seed}",
            f"step {facts['step']}", f"{facts['psnr']:.2f} dB", f"format {FORMAT}", "No clinical use",
            "research only", "python -m studies.raw" if name == "raw-brain" else "evaluate.py --checkpoint",
        ):  # fmt: skip
            assert words in card, f"{name}.md does not say {words!r}"
        if "uncertainty" in facts:  # fitted where the checkpoint was chosen
            assert facts["uncertainty"]["split"] == config.data.valid_split == "inner_valid"
        assert card.count(card_command.START) == card.count(card_command.END) == (name != "raw-brain")


def test_shipped_weights_fit_their_networks():
    for name, file in shipped().items():
        told = file.with_suffix(".md").read_text(encoding="utf-8")
        assert f"({load(file).parameters:,} parameters, float32)" in told, name


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"), [("aanlib-4x-compact", "compact"), ("aanlib-best", "best"), ("aanlib-best-long", "best_long")]
)
def test_a_card_tells_what_its_weights_do(data_dir, name, method):
    """The worst slice at 4x random lines, scored again."""
    card = shipped()[name].with_suffix(".md").read_text(encoding="utf-8")
    psnr, record = re.search(rf"\| random 4x,.*\| {method} \|.*\| ([\d.]+) \((\d+)\) \|", card).groups()
    trained = load(shipped()[name])
    source = open_source(trained.config.data, "valid")
    example = next(example for example in map(source.__getitem__, range(len(source))) if example.name == record)
    model = jax.tree_util.Partial(build(trained.config.model).apply, trained.variables)
    rows = evaluate(Trial([example], trained.config.masks, {name: model}, config=EvaluationConfig(batch_size=1)))
    assert rows[1].values["psnr"] == pytest.approx(float(psnr), abs=0.006)  # of two digits
