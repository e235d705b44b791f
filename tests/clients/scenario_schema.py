"""The JSON Schema of scenario files accepts every fixture, and refuses what is wrong.

usage: scenario_schema.py STEPDOWN_BINARY FOLDER
"""

import copy
import json
import pathlib
import subprocess
import sys
import tomllib

import jsonschema

WRONG_STEPS = [
    {"kil": "a"},
    {"kill": "a", "restart": "a"},
    {"insert": "no_collection", "document": {}},
    {"insert": "a.b", "document": {}, "write_concern": {"w": 1, "jornal": True}},
    {"advance": "10 parsecs"},
    {"wait_for": "a", "state": "HAPPY"},
    {"partition": [["a"]]},
    {"heal": False},
    {"expect": {"primry": "a"}},
]


def main(binary: str, folder: str) -> int:
    text = subprocess.run([binary, "schema"], check=True, capture_output=True, text=True).stdout
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    files = sorted(pathlib.Path(folder).glob("*.toml"))
    assert files, f"no scenario file in {folder}"
    for file in files:
        problems = list(validator.iter_errors(tomllib.loads(file.read_text())))
        assert not problems, f"{file}: {problems[0].json_path}: {problems[0].message}"
    good = tomllib.loads(files[0].read_text())
    for step in WRONG_STEPS:
        bad = copy.deepcopy(good)
        bad["step"].append(step)
        assert list(validator.iter_errors(bad)), f"the schema lets {step} pass"
    print(f"schema: {len(files)} fixtures pass, {len(WRONG_STEPS)} wrong steps are refused")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
