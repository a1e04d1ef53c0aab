"""Makes vectors.json: token ids and rendered chats by llama.cpp, an implementation that shares nothing with ours.

    pip install xllamacpp==2026.10.11549        (llama.cpp with its HTTP server, as a wheel)
    python3 vectors.py SMOLLM2.gguf QWEN2.gguf > vectors.json

No string holds "</s>": llama.cpp takes it for a control token in any vocabulary that spells it, also in Qwen2's, whose own
tokenizer.json does not.
"""
import json, sys, urllib.request
import xllamacpp

STRINGS = [
    "", " ", "Hello, world!", "hello  world   with    runs", "\n\n  \n\ttabs\tand\nlines\n", "1234567890 3.14159 1,000,000 0x1F 42nd",
    "def f(x):\n    return {k: v**2 for k, v in x.items() if v != 0}\n", "fn main() { println!(\"{:>8.2}\", x as f64); } // ok",
    "SELECT a.b, COUNT(*) FROM t WHERE x >= 10 AND y LIKE '%z_';", "<div class=\"a-b\">&nbsp;&lt;</div>", "https://example.org/a?b=c&d=%20#e",
    "café naïve façade Ångström", "cafe\u0301 decomposed", "Übergrößenträger straße", "Привет, мир! Как дела?", "Γειά σου Κόσμε",
    "你好，世界！今天天气怎么样？", "こんにちは世界。カタカナとひらがな", "안녕하세요 세계", "שלום עולם", "مرحبا بالعالم", "हिन्दी में लिखा",
    "👋🌍 emoji 👩‍👩‍👧‍👦 🇫🇷 ✈️", "I'm you're he'll WE'VE SHE'D It'S don't", "a\u00a0b\u2003c\u200bd", "\u0000\u0001\u007f", "x" * 100, "=" * 40 + "-" * 40,
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "text <|im_end|> in the middle<|endoftext|>", "<|not_a_marker|> <s> [INST]",
    "The quick brown fox jumps over the lazy dog. " * 5, "MiXeD CaSe wOrDs123abc456", "...?!;:---___***", "ﬁ ligature ½ ² ① Ⅷ",
]
CHATS = [
    [("user", "What is the capital of France?")],
    [("system", "Be brief."), ("user", "Hi")],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "  Bye\n")],
]

def ask(path):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup = 64, 1, False
    server = xllamacpp.Server(params)
    def post(route, body):
        request = urllib.request.Request(server.listening_address + route, data=json.dumps(body).encode(), headers={"content-type": "application/json"})
        return json.load(urllib.request.urlopen(request))
    ids = [post("/tokenize", {"content": s, "add_special": False, "parse_special": True})["tokens"] for s in STRINGS]
    chats = [post("/apply-template", {"messages": [{"role": r, "content": c} for r, c in chat]})["prompt"] for chat in CHATS]
    return {"ids": ids, "chats": chats}

out = {"oracle": "llama.cpp of xllamacpp 2026.10.11549", "strings": STRINGS, "chats": CHATS,
       "smollm2": ask(sys.argv[1]), "qwen2": ask(sys.argv[2])}
print(json.dumps(out, ensure_ascii=True))
