"""What a person sees before a run: the first lines of help, and what an editor and a shell complete."""

import json
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from resformer.sweeps.config import parse_sweep
from resformer.training import parse_arguments

ROOT = Path(__file__).parents[2]
PROGRAMS = {"train": (parse_arguments, "configs/run.schema.json"), "sweep": (parse_sweep, "sweeps/sweep.schema.json")}
SHIPPED = [(name, file) for name, (_, schema) in PROGRAMS.items()
           for file in sorted((ROOT / "recipes" / schema).parent.glob("*.yaml"))]  # fmt: skip


def printed(parse, capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(list(words))
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_begins_with_what_a_person_needs(name, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    parse = PROGRAMS[name][0]
    lines = printed(parse, capsys, "--help").splitlines()[:40]
    assert lines[0] == f"usage: {name}.py [--config FILE] [--KEY VALUE ...]"
    commands = [line.strip() for line in lines if line.startswith(f"  python recipes/{name}.py")]
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command.partition(" > ")[0])[2:]
        if "--print_completion" not in words:
            parse(words)
    first = "\n".join(lines)
    keys = ["--model.residual", "--run_dir", "--data.source", "--train.max_steps", "--optimizer.learning_rate"]
    for key in keys if name == "train" else ["--dry_run", "--sweep_dir", "--base.", "report.py"]:
        assert key in first


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / "recipes" / PROGRAMS[name][1]).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_shipped_schema_is_that_of_the_keys(name, capsys):
    parse, file = PROGRAMS[name]
    told = printed(parse, capsys, "--print_completion", "jsonschema")
    command = f"python recipes/{name}.py --print_completion jsonschema > recipes/{file}"
    assert json.loads(told) == validator(name).schema, f"keys have changed; write it anew: {command}"


@pytest.mark.parametrize(("name", "file"), SHIPPED, ids=[file.stem for _, file in SHIPPED])
def test_shipped_files_name_their_schema_and_are_what_it_describes(name, file):
    first, text = file.read_text().split("\n", 1)
    (schema,) = file.parent.glob("*.schema.json")
    assert first == f"# yaml-language-server: $schema={schema.name}"
    validator(name).validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("train", "model: {hidden_sise: 3}", ["model"]),
        ("train", "modle: {}", []),
        ("train", "optimizer: {name: adam}", ["optimizer", "name"]),
        ("train", "optimizer: {learning_rate: -1}", ["optimizer", "learning_rate"]),
        ("train", "train: {max_steps: many}", ["train", "max_steps"]),
        ("sweep", "base: {model: {hidden_sise: 3}}", ["base", "model"]),
        ("sweep", "base: {model.hidden_sise: 3}", ["base"]),
        ("sweep", "arms: {one: {model.residul: pre}}", ["arms", "one"]),
        ("sweep", "arms: {one: {train.max_steps: many}}", ["arms", "one", "train.max_steps"]),
        ("sweep", "grid: {model.num_hidden_layers: 3}", ["grid", "model.num_hidden_layers"]),
        ("sweep", "controls: {base_line: pre}", ["controls"]),
    ],
)
def test_a_mistake_is_underlined_where_it_stands(name, text, place):
    (error,) = validator(name).iter_errors(yaml.safe_load(text))
    assert list(error.absolute_path) == place


def test_any_way_to_say_a_connection_is_accepted():
    run, sweep = validator("train"), validator("sweep")
    for residual in ("pre", "post*1,pre*rest", {"attention": "pre", "mlp": "peri"}, ["pre", {"kind": "gru"}]):
        run.validate({"model": {"residual": residual}})
        sweep.validate({"arms": {"one": {"model.residual": residual, "because": "of this"}}})
    sweep.validate({"base": {"model.residual.kind": "layerscale"}})
    kinds = run.schema["properties"]["model"]["properties"]["residual"]["anyOf"][0]["enum"]
    assert {"pre", "hyper", "mix_ln"} <= set(kinds)


def test_a_shell_completes_keys_and_values(capsys, tmp_path):
    pytest.importorskip("shtab")
    (tmp_path / "words").write_text(printed(parse_arguments, capsys, "--print_completion", "shtab-bash"))
    script = """. ./words
    for words in "train.py --model.res" "train.py --schedule.name w"; do
        COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _shtab_train_py
        echo "${COMPREPLY[@]}"
    done"""
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["--model.residual", "wsd"]
