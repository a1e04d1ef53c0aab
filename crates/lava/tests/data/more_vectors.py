#!/usr/bin/env python3
"""Writes more_vectors.json: what the crate must produce for many small requests, to the last integer.

Run: python3 more_vectors.py      (needs numpy; uses reference.py beside it)

Inputs are built from SplitMix64 integers and every score is computed in f32, one operation at a time in a fixed
order, so another language gets the same bits (`scores_fnv`). Ranking, entropies, budgets and selection are those
of reference.py; added here is what it leaves out:
  * a request that fits its budget keeps everything;
  * an entropy weighs at least 2^-20, also in the profiles `paper` and `code`, which would divide zero by zero.
Results that hang on the last bit of an f64 sum are refused (`robust`), so all integers are portable. A refused case
tries other seeds (plus 1000 at a time). Where no seed helps, because equal entropies divide the budget evenly and every
quotient is an integer but for rounding, the case is left out in `paper` and `code`, and `main` prints it.
"""
import json, os, struct
import numpy as np
import reference as ref

F = np.float32


# ----------------------------------------------------------------------------- inputs
def rows(g, kind, heads, n, squarings):
    """Mean attention [heads, n], f32. `random`: 12-bit integers / 4096, squared `squarings` times."""
    x = np.zeros((heads, n), F)
    if kind == "equal":
        x[:] = 0.25
    elif kind == "one_hot":
        x[g.u64() % heads, g.u64() % n] = 0.5
    elif kind == "sharp":                                          # an entropy of a few 2^-20
        i = g.u64() % n
        x[0, i], x[0, (i + 1) % n] = 0.5, 2.0 ** -21
    elif kind == "random":
        x = np.array([[F(g.u64() >> 52) / F(4096) for _ in range(n)] for _ in range(heads)], F)
        for _ in range(squarings):
            x = x * x
    else:
        assert kind == "zero"
    return x


def norms(g, heads):
    """Value norms [heads], f32: 1/8 .. 2."""
    return np.array([F(1 + (g.u64() >> 60)) / F(8) for _ in range(heads)], F)


# ----------------------------------------------------------------------------- scores, f32
def pool(x, kernel, kind):
    if kind == "none":
        return x
    r, n = kernel // 2, x.shape[1]
    pad = np.full((x.shape[0], r), -np.inf if kind == "max" else 0, F)
    p = np.concatenate([pad, x, pad], 1)
    out = p[:, :n]
    for j in range(1, kernel):                                     # left to right
        out = np.maximum(out, p[:, j:j + n]) if kind == "max" else out + p[:, j:j + n]
    return out if kind == "max" else out / F(kernel)


def scores(x, vbar, case):
    H, G = case["Hkv"], case["Hq"] // case["Hkv"]
    a = pool(x, case["kernel"], case["pool"])
    if case["value_norm"] != "off":
        a = a * np.repeat(vbar, G)[:, None]
    a = a.reshape(H, G, -1)
    out = a[:, 0]
    for j in range(1, G):
        out = np.maximum(out, a[:, j]) if case["gqa"] == "max" else out + a[:, j]
    out = out / F(G) if case["gqa"] == "mean" else out
    assert out.dtype == F
    return out


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & ((1 << 64) - 1)
    return f"{h:016x}"


# ----------------------------------------------------------------------------- one request
def near(x, target, eps):
    return abs(x - target) < eps


def robust(layers, c, L):
    """Whether no result changes if an f64 sum is taken in another order."""
    for x in layers:
        if x.e > 1e-9 and near(x.e * ref.Q % 1, 0.5, 1e-5):
            return False
    if c.profile == "exact" or all(x.e == 2.0 ** -20 for x in layers):
        return True                                                # integers, or exact quotients
    for m in range(L):
        S = sum(x.e for x in layers[:m + 1])
        for later in (0, L - 1 - m):
            if m + later == 0:
                continue                                           # e / e is exactly 1
            for x in layers[:m + 1]:
                y = x.e / (S + later) * L * c.cap
                if near(y, round(y), 1e-7):
                    return False
    return True


def expected(case):
    L, H, N, w = case["L"], case["Hkv"], case["N"], case["window"]
    n = max(N - w, 0)
    if N <= case["b"] or N <= w or H * n <= 1:
        return dict(keeps_everything=True)
    g = ref.SplitMix64(case["seed"])
    c = ref.Cfg(window=w, kernel=case["kernel"], pool=case["pool"], base_capacity=case["b"], gqa=case["gqa"],
                alpha=case["alpha_milli"] / 1000, profile=case["profile"])
    layers, hashes = [], []
    for l in range(L):
        kind = case["kinds"][l % len(case["kinds"])]
        x = rows(g, kind, case["Hq"], n, l % 4)
        s = scores(x, norms(g, H), case)
        hashes.append(fnv(b"".join(struct.pack("<f", t) for t in s.ravel())))
        layer = ref.Layer(s.astype(np.float64), c)
        if c.profile != "exact":
            layer.e = max(layer.e, 2.0 ** -20)
        layers.append(layer)
    if not robust(layers, c, L):
        return None
    ref.plan.L = L
    budgets = [ref.plan(layers, c, m) for m in range(L)]
    bounds = [ref.lower_bound(layers, c, m) for m in range(L)]
    kept = [[ref.kept_lengths(x, y) for x, y in zip(layers, b)] for b in budgets]
    certain = [[ref.kept_lengths(x, y) for x, y in zip(layers, b)] for b in bounds]
    order = [[fnv(b"".join(struct.pack("<I", p) for p in x.rank[h, :kept[-1][l][h]])) for h in range(H)]
             for l, x in enumerate(layers)]
    return dict(keeps_everything=False, scores_fnv=hashes, entropy_q20=[x.eq for x in layers],
                budgets=budgets, lower_bounds=bounds, kept=kept, certain=certain, order_fnv=order)


# ----------------------------------------------------------------------------- the cases
BASE = dict(L=4, Hq=4, Hkv=2, N=90, b=24, window=8, kernel=5, pool="max", gqa="max", value_norm="nonwindow",
            alpha_milli=200, kinds=["random"])

VARIANTS = [
    dict(),
    *[dict(pool=p, gqa=g) for p in ("max", "avg", "none") for g in ("max", "mean")],
    *[dict(alpha_milli=a, pool=p) for a in (0, 500, 1000) for p in ("max", "none")],
    *[dict(kernel=k, pool=p) for k in (1, 7, 31) for p in ("max", "avg")],
    *[dict(alpha_milli=a, pool="avg") for a in (1, 333, 999)],
    dict(value_norm="off"), dict(kinds=["equal"], value_norm="off"), dict(kinds=["equal"], value_norm="off", L=1),
    dict(Hkv=1, Hq=1), dict(Hkv=1, Hq=3), dict(Hkv=3, Hq=9, N=101, b=17, window=5),
    dict(Hkv=5, Hq=5, N=37, b=9, window=1, kernel=3), dict(Hkv=8, Hq=32, L=3, N=67, b=33, window=32),
    dict(L=1), dict(L=1, Hkv=1, Hq=2, N=11, b=3, window=2), dict(L=2, b=9), dict(L=13, N=61, b=13),
    dict(L=31, N=43, b=20, alpha_milli=500, Hkv=3, Hq=3), dict(L=7, b=89), dict(L=7, b=88),
    dict(N=25), dict(N=10, b=9), dict(N=3, Hkv=1, Hq=1, window=1, b=2),
    dict(N=24), dict(N=8, b=9), dict(N=5, b=9), dict(N=7, b=3), dict(N=9, Hkv=1, Hq=1, b=5), dict(N=1),
    dict(kinds=["zero"]), dict(kinds=["one_hot"]), dict(kinds=["one_hot"], pool="none"), dict(kinds=["equal"]),
    dict(kinds=["equal"], Hkv=3, Hq=3, L=5, b=23), dict(kinds=["random", "zero", "equal", "one_hot"]),
    dict(kinds=["one_hot", "random"], pool="none"), dict(kinds=["zero", "one_hot"], L=6, Hkv=1, Hq=1),
    dict(kinds=["equal", "random"], alpha_milli=0), dict(kinds=["equal", "random"], alpha_milli=500),
    # Entropies next to the smallest weight; a first budget of exactly n per KV head.
    dict(kinds=["zero", "sharp"], pool="none"), dict(kinds=["sharp", "one_hot", "zero"], pool="none", Hkv=1, Hq=1),
    dict(L=2, b=49), dict(L=2, b=49, alpha_milli=500, pool="none"),
]


def main():
    cases, refused, seed = [], 0, 0
    for variant in VARIANTS:
        for profile in ("exact", "paper", "code"):
            seed += 1
            for attempt in range(40):
                case = dict(BASE, **variant, profile=profile, seed=seed + 1000 * attempt)
                want = expected(case)
                if want is not None:
                    cases.append(dict(case, expected=want))
                    break
            else:
                refused += 1
                print("no seed is robust:", profile, variant)
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "more_vectors.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
    print(f"{len(cases)} cases, {refused} refused as not robust")


if __name__ == "__main__":
    main()
