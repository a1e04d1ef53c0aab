"""Writes metric_vectors.json: what the published scripts and packages give.

    pip install rouge==1.0.1 rouge-score==0.1.2 fuzzywuzzy==0.18.0 python-Levenshtein
    python metric_vectors.py LONGBENCH_METRICS INFINITEBENCH_SCORES > metric_vectors.json

The two arguments are `LongBench/metrics.py` of THUDM/LongBench (2e00731) and `src/compute_scores.py` of
OpenBMB/InfiniteBench (88b3daa). They are loaded, not copied; jieba and evaluate are stubbed.
"""

import importlib.util
import json
import random
import sys
import types

from rouge_score import rouge_scorer


class Stub(types.ModuleType):
    def load(self, _):
        return self

    def compute(self, predictions, references, use_aggregator):
        scorer = rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=False)
        pairs = zip(predictions, references)
        return {"rougeLsum": [scorer.score(r, p)["rougeLsum"].fmeasure for p, r in pairs]}

    parse_args = None
    tqdm = staticmethod(lambda x: x)


for name in ["jieba", "evaluate", "args", "tqdm"]:
    sys.modules[name] = Stub(name)


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


long = load("longbench", sys.argv[1])
infinite = load("infinitebench", sys.argv[2])
cases = []


def case(metric, prediction, answers, expected):
    cases.append({"metric": metric, "prediction": prediction, "answers": answers, "expected": float(expected)})


def best(function, prediction, answers, **more):
    return max([0.0] + [function(prediction, answer, **more) for answer in answers])


PAIRS = [
    ("", "something"), ("something", ""), ("", ""), ("...", "..."), ("The cat.", "a cat"), ("a an the", "the"),
    ("It's the U.S.A.", "its usa"), ("a.n apple", "apple"), ("“the” end", "“ ” end"), ("Paris, France", "paris"),
    ("Straße im Öl", "straße IM öl"), ("x x x y", "x y y"), ("the quick brown fox", "the brown quick fox jumps"),
    ("One two three. Four five.", "Four five. One three two."), ("a b c. a b. ", "b c a.\n"),
    ("end. \n", "start. \n"), ("same words same words", "same words"), ("line one\nline two", "line two\nline one"),
    ("naïve café 42", "naive café 42"), ("日本 語", "日本 人"), ("tab\tand\nnewline", "tab and newline"),
]
random.seed(5)
WORDS = "a b c d the of to. in. on, it's X x y\n z. ü 7".split(" ")
for _ in range(60):
    text = lambda: " ".join(random.choice(WORDS) for _ in range(random.randrange(1, 30)))
    PAIRS.append((text(), text()))

scorer = rouge_scorer.RougeScorer(["rouge1", "rougeLsum"], use_stemmer=False)
for p, r in PAIRS:
    case("token_f1", p, [r], long.qa_f1_score(p, r))
    case("rouge_l", p, [r], long.rouge_score(p, r))
    case("rouge1", p, [r], scorer.score(r, p)["rouge1"].fmeasure)
    case("rouge_lsum", p, [r], infinite.get_score_one(p, r, "longbook_sum_eng", ""))
    case("code_similarity", p, [r], long.code_sim_score(p, r))
case("token_f1", "blue sky", ["red", "the blue sky", "sky"], best(long.qa_f1_score, "blue sky", ["red", "the blue sky", "sky"]))
case("rouge_l", "blue sky", ["red", "blue sea sky"], best(long.rouge_score, "blue sky", ["red", "blue sea sky"]))

for p in ["\n\n# note\nx = 1", "```\nx = 1\n```", "// a\n/ b", "\n\n\nx = 12\ny", "    return x", "x" * 300 + "y", "# only"]:
    for r in ["x = 1", "return x", "", "x" * 300]:
        case("code_similarity", p, [r], long.code_sim_score(p, r))

CHINESE = ["", "他在北京。", "北京，中国", "「北京」 的Abc", "abc 北京!", "没有", "北北北京京"]
for p in CHINESE:
    for r in CHINESE:
        case("char_f1", p, [r], infinite.qa_f1_score_zh(p, [r]))

CLASSES = ["city", "Other location", "location", "Individual", "Group of people", "people", "Other", "er"]
for p in ["", "city", "Other location", "a location", "people", "Group of people, city", "Other", "er er", "CITY", "xer locationer"]:
    for r in ["Other location", "city", "people", "Group of people", "er", "unlisted"]:
        case({"classification": {"classes": CLASSES}}, p, [r], long.classification_score(p, r, all_classes=CLASSES))

for p in ["", "Paragraph 3", "3, 4 and 3", "para 33", "the third", "-3", "3.3", "段落3", "7"]:
    for r in ["Paragraph 3", "Paragraph 33"]:
        case("retrieval", p, [r], long.retrieval_score(p, r))
    case("retrieval", p, ["段落3"], long.retrieval_zh_score(p, "段落3"))
    for r in ["3", "33"]:
        case("count", p, [r], long.count_score(p, r))
        case("first_number", p, [r], infinite.get_score_one(p, [r], "passkey", ""))
        case("first_number", p, [r], infinite.get_score_one(p, r, "number_string", ""))

for p in ["", "abc-1", "key: 'abc-1'.", "{abc-1}", "abc-12", "ABC-1", "JOHN", "John, I think", "It is john!", "johnny"]:
    for r in ["abc-1", "JOHN"]:
        case("word", p, [r], infinite.get_score_one(p, r, "kv_retrieval", ""))
        case("upper_word", p, [r], infinite.get_score_one(p, [r], "longdialogue_qa_eng", ""))

CHOICES = [
    "", "  ", "A", "B. The boat", "The boat", "the boat", "The answer is: B", "The answer is B", "answer:B", "answer: The boat",
    "the answer is:", "I say option is  B", "Maybe B or A", "Maybe A or B", "AB then B", "no idea", "Éclair", "\nB", "so: \"B\"",
]
for p in CHOICES:
    case("choice", p, ["The boat", "B"], infinite.get_score_one(p, ["The boat", "B"], "longbook_choice_eng", ""))

for p in ["", "7", "7.5", "x7.", "-7", "07", "7 8", "seven", ".5", "the number is 7.50"]:
    case("math_find", p, ["7.5"], infinite.get_score_one(p, [7.5], "math_find", ""))
    if p not in ["7.5", "the number is 7.50"]:  # The script fails on a fraction where a whole number is expected.
        case("math_find", p, ["7"], infinite.get_score_one(p, [7], "math_find", ""))
for p in ["", "7", "The result is: -7.", "`7`", "7 apples", "x=7", "7\n"]:
    for r in [7, -7]:
        case("last_number", p, [str(r)], infinite.get_score_one(p, [r], "code_run", ""))

print("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]")
