"""Checks chat_templates.json: renders every case with Jinja itself and compares.

    pip install jinja2==3.1.6
    python3 chat_templates.py SMOLLM2.gguf QWEN2.gguf

The file is written by hand; this script only reads it. A template called smollm2 or qwen2 is the one
in that model's GGUF file.
"""
import json
import pathlib
import struct
import sys

import jinja2

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


def metadata(path):
    with open(path, "rb") as file:
        def number(kind):
            return struct.unpack("<" + kind, file.read(struct.calcsize("<" + kind)))[0]

        def value(kind):
            if kind == TEXT:
                return file.read(number("Q")).decode()
            if kind == ARRAY:
                element, count = number("I"), number("Q")
                return [value(element) for _ in range(count)]
            return number(SCALARS[kind])

        assert file.read(4) == b"GGUF" and number("I") in (2, 3)
        _tensors, entries = number("Q"), number("Q")
        return {value(TEXT): value(number("I")) for _ in range(entries)}


def refuse(message):
    raise jinja2.TemplateError(message)


def render(source, case):
    # What Hugging Face's transformers gives to templates, cut down to what is used here.
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda _format: case["today"]
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    messages = [{"role": role, "content": content} for role, content in case["messages"]]
    try:
        return {"text": environment.from_string(source).render(
            messages=messages, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )}
    except jinja2.TemplateError as error:
        return {"refusal": str(error)}


templates = {
    name: metadata(path)["tokenizer.chat_template"]
    for name, path in zip(["smollm2", "qwen2"], sys.argv[1:3], strict=True)
}
cases = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())
for case in cases:
    found = render(templates.get(case["template"], case["template"]), case)
    expected = {key: case[key] for key in ("text", "refusal") if key in case}
    assert found == expected, f"{case['name']}: Jinja gives {found}"
print(f"{len(cases)} cases agree with Jinja {jinja2.__version__}")
