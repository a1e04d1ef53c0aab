"""Makes token_vectors.json: token ids by llama.cpp, which shares no code with the tokenizer library.

    pip install xllamacpp==2026.10.11549
    python3 token_vectors.py SMOLLM2.gguf QWEN2.gguf > token_vectors.json

llama.cpp does not compose characters (NFC) as Qwen2's own tokenizer does, so every text is NFC. It
takes "</s>" for a marker in any vocabulary that has it, so no text has that.
"""
import json
import sys
import unicodedata
import urllib.request

import xllamacpp

ENGLISH = (
    "It was a bright cold day in April, and the clocks were striking thirteen; nobody on the stairs "
    "looked up, since the lift had been out of order for 21 weeks and the notice beside it said as much. Alas!"
)
TEXTS = [
    "",
    " ",
    "\n",
    "Hello, world!",
    "7",
    "1234567890",
    "3.14159 and 1,000,000 or 0x1F, 42nd, 1e-9",
    "def f(x):\n    return {k: v**2 for k, v in x.items() if v != 0}\n",
    'fn main() {\n\tprintln!("{:>8.2}", x as f64); // ok\n}\n',
    "SELECT a.b, COUNT(*) FROM t WHERE x >= 10 AND y LIKE '%z_';",
    '<div class="a-b">&nbsp;&lt;</div>',
    "https://example.org/a?b=c&d=%20#e",
    "café naïve façade Ångström",
    "ÜBERGRÖSSE straße ĳssel œuvre",
    "你好，世界！今天天气怎么样？",
    "こんにちは世界。カタカナとひらがな",
    "안녕하세요 세계",
    "Привет, мир! Γειά σου",
    "مرحبا بالعالم שלום עולם",
    "हिन्दी में लिखा हुआ",
    "👋🌍 emoji 👩‍👩‍👧‍👦 🇫🇷 ✈️",
    "a  b   c    d          e",
    "   leading and trailing   ",
    "\n\n\n  \n\ttabs\t\tand\r\nlines \n \n",
    "a\u00a0b\u2003c\u3000d\u200be",
    "I'm you're he'll they've she'd it's don't",
    "I'M YOU'RE HE'LL THEY'VE SHE'D IT'S DON'T",
    "it'stuff DON'TCARE I'MAX You'REally we'veal",
    "MiXeD CaSe wOrDs123abc456 snake_case camelCase",
    "...?!;:---___***  ($%^&) \\o/",
    "½ ² ① Ⅷ 三 ٣",
    "=" * 40 + "-" * 40,
    "\x00\x01\x7f",
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    "before <|im_end|> after<|endoftext|>",
    "<|not_a_marker|> <s> [INST] <|im_start",
    ENGLISH,
]


def ids(path):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup = 64, 1, False
    server = xllamacpp.Server(params)

    def tokenize(text):
        body = json.dumps({"content": text, "add_special": False, "parse_special": True})
        headers = {"content-type": "application/json"}
        url = server.listening_address + "/tokenize"
        request = urllib.request.Request(url, data=body.encode(), headers=headers)
        return json.load(urllib.request.urlopen(request))["tokens"]

    return [tokenize(text) for text in TEXTS]


assert len(ENGLISH) == 200, len(ENGLISH)
assert all(unicodedata.is_normalized("NFC", text) for text in TEXTS)
cases = [
    {"text": text, "smollm2": smollm2, "qwen2": qwen2}
    for text, smollm2, qwen2 in zip(TEXTS, ids(sys.argv[1]), ids(sys.argv[2]))
]
oracle = f"llama.cpp as bundled in xllamacpp {xllamacpp.__version__}"
rows = ",\n".join(json.dumps(case) for case in cases)
print(f'{{"oracle": {json.dumps(oracle)}, "cases": [\n{rows}\n]}}')
