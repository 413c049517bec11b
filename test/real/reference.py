"""First half of the references of smollm2.test.ts: the model's weights as float32, and its conversations as Python's Jinja2
renders them through its chat template. reference.mjs is the other half.

    python test/real/reference.py MODEL.gguf OUT     (with gguf, jinja2 and numpy from PyPI; writes OUT/f32.gguf, OUT/chats.json)

llama.cpp rounds the activations of a product with quantised weights to 8 bits, which Tidepool does not; on the same weights in
float32 both compute the same text.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize
from jinja2.sandbox import ImmutableSandboxedEnvironment

TOOL = {
    "type": "function",
    "function": {
        "name": "berth_of",
        "description": "The berth of a ship",
        "parameters": {"type": "object", "properties": {"ship": {"type": "string"}}, "required": ["ship"]},
    },
}

CHATS = [
    dict(messages=[dict(role="user", content="What is the capital of France?")]),
    dict(messages=[dict(role="user", content="And what is it famous for?")], follows=True),
    dict(messages=[dict(role="user", content="Write one sentence about it in French.")], follows=True),
    dict(
        messages=[
            dict(role="system", content="You are a helpful harbour master. Answer in one short sentence."),
            dict(role="user", content="At which berth does the brig Marlow lie?"),
        ],
        tools=[TOOL],
    ),
]


def metadata(reader):
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        yield key, field


def as_float32(source, target):
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in metadata(reader):
        if key in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape([int(size) for size in reversed(tensor.shape)]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return reader


def main(source, out):
    out.mkdir(parents=True, exist_ok=True)
    reader = as_float32(source, out / "f32.gguf")
    template = reader.fields["tokenizer.chat_template"].contents()
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    (out / "chats.json").write_text(json.dumps(dict(template=template, chats=CHATS)))
    compiled = environment.from_string(template)
    for line in sys.stdin:  # reference.mjs asks for one conversation a line, with the answers so far
        asked = json.loads(line)
        print(json.dumps(compiled.render(add_generation_prompt=True, **asked)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
