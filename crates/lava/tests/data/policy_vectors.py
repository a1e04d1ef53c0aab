#!/usr/bin/env python3
"""Writes policy_vectors.json: what every policy keeps of many small random models, to the last position.

Run: python3 policy_vectors.py      (needs numpy; uses reference.py beside it)

The baselines are those of reference.py. LAVa's ablations, its other scores, layer weights and layer floors are
stated here, on top of reference.py's ranking and budgets. Everything is computed in f64, the crate's scores are f32:
a model is used only if no decision hangs on a relative difference below MARGIN (`Fragile`), which is 100 times what
f32 loses on the way. `main` prints how many were left out.

A row of the file: [method, [L, Hq, Hkv, N, d, b, seed], [kept], [hash]], where `method` is the text that the crate
parses, `kept` counts per layer and head with the window, and `hash` per layer and head is the upper half of FNV-1a-64
over the sorted positions (u32, little-endian).
"""
import json, math, os
import numpy as np
import reference as ref

MARGIN = 2e-5
SEEDS = 64
Q = ref.Q


class Fragile(Exception):
    """A decision hangs on less than MARGIN."""


def stable(values, ranks):
    """Refuses if, around any of the cuts `ranks` of the values in descending order, two different values are closer
    than MARGIN. Equal values are copies of one number, so they stay equal in f32."""
    v = np.sort(np.asarray(values).ravel())[::-1]
    u = np.unique(v)[::-1]
    for k in ranks:
        if not 0 < k < len(v):
            continue
        first = int(np.searchsorted(-u, -v[k - 1]))
        last = int(np.searchsorted(-u, -v[k]))
        for i in range(max(first - 1, 0), min(last + 1, len(u) - 1)):
            if u[i] - u[i + 1] <= MARGIN * u[i]:
                raise Fragile


def stable_floor(low, high):
    if math.floor(low) != math.floor(high):
        raise Fragile
    return math.floor(low)


# ----------------------------------------------------------------------------- LAVa beyond reference.py
def statistics(q, k, rows, n):
    a = ref.window_attention(q, k, rows)[:, :, :n]
    return a.mean(1), a.max(1), np.sqrt((a * a).mean(1))


def pooled(x, c, o):
    """A peak gives its neighbours a share of itself, a max-pool all of it."""
    p = ref.pool1d(x, c.kernel, c.pool)
    return np.maximum(x, p * (o["shoulder"] / 1000)) if c.pool == "max" else p


def value_outputs(v, wo, n):
    """[H, n]: length of the value row behind each query head's projection, mean over the group."""
    H = v.shape[0]
    G = wo.shape[0] // H
    out = np.einsum("hgtd,hgde->hgte", np.repeat(v[:, None, :n], G, 1), wo.reshape(H, G, *wo.shape[1:]))
    return np.sqrt((out * out).sum(-1)).mean(1)


def scores(layer, wo, c, o):
    q, k, v = layer
    score = o["score"]
    H, N, _ = k.shape
    n = N - c.window
    mean, peak, rms = statistics(q, k, o["observers"] or c.window, n)
    norms = np.abs(v[:, :n]).sum(-1).max(-1)[:, None]
    outputs = value_outputs(v, wo, n)
    if score == "lava" and not o["observers"] and o["shoulder"] == 1000:
        return ref.lava_scores(q, k, v, c)
    if score == "lava":
        return ref.group(pooled(mean, c, o), H, c.gqa) * norms
    if score.startswith("max-clamp"):
        s = ref.group(pooled(peak, c, o), H, "max")
        s = np.maximum(s, s.mean(-1, keepdims=True))
        return s * (norms if score == "max-clamp" else outputs)
    s = pooled(mean if score == "value-output" else rms, c, o)
    return ref.group(s, H, c.gqa) * outputs


def weight_q(s, weight):
    e = ref.entropy01(s)
    if weight == "uniform":
        return Q
    return ref.entropy_q(e if weight == "entropy" else math.exp((e - 1) * math.log(s.size)))


def layer_budgets(all_scores, C, weight, floor_milli):
    """Entries per layer, as profile `exact`; a part of them spread evenly over the layers first."""
    L, H = len(all_scores), all_scores[0].shape[0]
    even = H * C * floor_milli // 1000
    rest = L * (H * C - even)
    eq = [weight_q(s, weight) for s in all_scores]
    if L == 1 or weight == "uniform":
        return [even + rest // L] * L
    S = sum(eq)
    if S <= 4 * L:
        raise Fragile
    # Two units of Q20 are more than f32 scores can move an entropy by.
    return [even + stable_floor(rest * max(e - 2, 0) / (S + 2 * L), rest * (e + 2) / (S - 2 * L)) for e in eq]


def mixed(s, alpha, K):
    H, n = s.shape
    stable(s, range(K - 1, K + H + 2))
    lens = np.bincount(ref.mixed_order(s, alpha)[:K] // n, minlength=H)
    return per_head(s, lens)


def per_head(s, lens):
    for row, x in zip(s, lens):
        stable(row, [x])
    r = ref.head_rank(s)
    return [r[h, : min(x, s.shape[1])] for h, x in enumerate(lens)]


def sinks_first(s, sinks):
    """The scores as they rank: those of the sinks above all others, in their own order."""
    s = s.copy()
    s[:, :sinks] += 2 * s.max()
    return s


def lava(model, wos, c, o):
    """o: the options beyond Cfg. Window included. Budgets follow the scores as they are."""
    N, H = model[0][0].shape[1], model[0][1].shape[0]
    ss = [scores(x, wo, c, o) for x, wo in zip(model, wos)]
    if o["policy"] == "lava-uniform":
        Ks = [H * c.cap] * len(ss)
    else:
        Ks = layer_budgets(ss, c.cap, o["weight"], o["floor"])
    heads = o["policy"] == "lava-heads"
    ss = [sinks_first(s, o["sinks"]) for s in ss]
    kept = [per_head(s, [K // H] * H) if heads else mixed(s, c.alpha, K) for s, K in zip(ss, Ks)]
    return [ref.with_window(x, N, c.window) for x in kept]


# ----------------------------------------------------------------------------- baselines
def check_even(all_scores, caps):
    for s, C in zip(all_scores, caps):
        for row in s:
            stable(row, [C])


def check_ada(all_scores, caps, alpha):
    for s, C in zip(all_scores, caps):
        H, n = s.shape
        if C > n:
            continue
        stable(s, [H * C])
        for row, x in zip(s, ref.ada_lengths(s, C, alpha)):
            stable(row, [x])


def check_cake(model, c, tau1, tau2, gamma):
    L, n = len(model), model[0][0].shape[1] - c.window
    pref, ss = [], []
    for q, k, _ in model:
        a = ref.window_attention(q, k, c.window)[:, :, :n]
        var = a.var(1, ddof=1)
        pref.append((-(a * np.log(a + 1e-10)).sum()) ** (1 / tau1) * var.sum() ** (1 / tau2))
        ss.append(ref.group(ref.pool1d(a.mean(1) + gamma * var, c.kernel, c.pool), k.shape[0], "mean"))
    for p in pref:
        y = p / sum(pref) * L * c.cap
        if L > 1 and abs(y - round(y)) < 1e-3:
            raise Fragile
    check_even(ss, ref.cake_budgets(pref, L * c.cap, n))


def baseline(model, c, o):
    policy, L = o["policy"], len(model)
    n = model[0][0].shape[1] - c.window
    snap = [ref.snap_scores(*x, c) for x in model]
    flat = [c.cap] * L
    pyramid = ref.pyramid_caps(L, c.cap, n, o["beta"]) if "pyramid" in policy else None
    if policy == "snapkv":
        check_even(snap, flat)
        return ref.snapkv(model, c)
    if policy == "pyramidkv":
        check_even(snap, pyramid)
        return ref.pyramidkv(model, c, o["beta"])
    if policy == "ada-snapkv":
        check_ada(snap, flat, c.alpha)
        return ref.adakv(model, c)
    if policy == "ada-pyramidkv":
        check_ada(snap, pyramid, c.alpha)
        return ref.adakv(model, c, o["beta"])
    if policy == "cake":
        taus = o["tau1"] / 1000, o["tau2"] / 1000, o["gamma"] / 1000
        check_cake(model, c, *taus)
        return ref.cake(model, c, *taus)[0]
    if policy == "streaming-llm":
        return ref.streaming(model, c, o["sinks"])
    if policy == "h2o":
        N = model[0][0].shape[1]
        check_even([ref.group(ref.window_attention(q, k, N)[:, :, :n].sum(1), k.shape[0], "mean")
                    for q, k, _ in model], flat)
        return ref.h2o(model, c)
    assert policy == "tova"
    for q, k, _ in model:
        stable(ref.window_attention(q, k, 1)[:, 0, :-1].mean(0), [c.base_capacity - 1])
    return ref.tova(model, c)


# ----------------------------------------------------------------------------- the cases
BASELINES = ("snapkv", "pyramidkv", "ada-snapkv", "ada-pyramidkv", "cake", "streaming-llm", "h2o", "tova")
SCORES = ("lava", "max-clamp", "value-output", "max-clamp-value-output", "rms-value-output")
FAMILIES = [(p, "lava") for p in BASELINES] + [(p, s) for p in ("lava-uniform", "lava-heads") for s in ("lava",)] \
    + [("lava-exact", s) for s in SCORES] + [("lava-peaks", "max-clamp")]


def text(c, o):
    """What the crate parses."""
    out = o["policy"]
    defaults = {**DEFAULTS, **OWN.get(o["policy"], {})}
    for name, value in dict(window=c.window, kernel=c.kernel, pool=c.pool, gqa=c.gqa, alpha=round(c.alpha * 1000),
                            **{k: o[k] for k in ("score", "sinks", "floor", "weight", "beta", "tau1", "tau2",
                                                 "gamma", "observers", "shoulder")}).items():
        if value != defaults[name]:
            out += f"+{name}={value}"
    return out


DEFAULTS = dict(sinks=0, window=32, kernel=7, pool="max", gqa="max", alpha=200, score="lava", floor=0, weight="entropy",
                beta=20, tau1=1000, tau2=1000, gamma=200000, observers=0, shoulder=1000)
# Policies with defaults of their own.
OWN = {"streaming-llm": dict(sinks=4), "lava-peaks": dict(score="max-clamp", kernel=41, shoulder=50, observers=48)}


def case(policy, score, seed):
    g = ref.SplitMix64(seed)
    pick = lambda *xs: xs[g.u64() % len(xs)]
    lava_like, streams = policy.startswith("lava"), policy == "streaming-llm"
    L = pick(2, 2, 3, 4, 5) if "pyramid" in policy else pick(1, 2, 3, 4, 5)
    H, G, N, d = pick(1, 2, 3), pick(1, 2, 3), 20 + g.u64() % 50, 4
    w = 2 + g.u64() % 7 if policy == "cake" else 1 + g.u64() % 8
    o = dict(policy=policy, score=score, sinks=g.u64() % 7 if streams else pick(0, 0, 3) if lava_like else 0,
             floor=pick(0, 0, 100, 333, 1000) if policy in ("lava-exact", "lava-peaks", "lava-heads") else 0,
             weight=pick("entropy", "entropy", "uniform", "perplexity") if policy in ("lava-exact", "lava-peaks") else "entropy",
             beta=pick(1, 2, 5, 10, 20), tau1=pick(500, 1000, 1600, 2000), tau2=pick(400, 1000, 2000),
             gamma=pick(0, 5000, 200000))
    o["observers"] = pick(0, 0, 1, 5, 15) if lava_like else 0
    o["shoulder"] = pick(1000, 1000, 350, 50, 0) if lava_like else 1000
    if "pyramid" not in policy:
        o["beta"] = 20
    if policy != "cake":
        o.update(tau1=1000, tau2=1000, gamma=200000)
    least = (o["sinks"] if streams else w) + 1
    # A third of the budgets leaves room for a few entries only, a third nearly reaches the prompt: then layers and
    # pyramids are limited by what there is.
    room = N - 1 - least
    b = least + pick(g.u64() % (room + 1), g.u64() % (room // 4 + 1), room - g.u64() % (room // 4 + 1))
    c = ref.Cfg(window=w, kernel=41 if policy == "lava-peaks" else pick(1, 3, 5, 7), pool=pick("max", "avg", "none"), base_capacity=b,
                gqa=pick("max", "mean") if lava_like and "clamp" not in score else "max",
                alpha=pick(0, 100, 200, 333, 500, 1000) / 1000)
    model = ref.toy_model(seed, L, H * G, H, N, d)
    projection = ref.SplitMix64(seed ^ 0xFFFFFFFF)
    wos = [projection.tensor(H * G, d, 3) for _ in range(L)] if lava_like else None
    kept = lava(model, wos, c, o) if lava_like else baseline(model, c, o)
    sets = [[sorted(int(t) for t in head) for head in layer] for layer in kept]
    return [text(c, o), [L, H * G, H, N, d, b, seed], [[len(head) for head in layer] for layer in sets],
            [[ref.fnv(head)[:8] for head in layer] for layer in sets]]


def main():
    cases, fragile, seed = [], 0, 0
    for policy, score in FAMILIES:
        found, left_out = 0, 0
        while found < SEEDS:
            seed += 1
            try:
                cases.append(case(policy, score, seed))
                found += 1
            except Fragile:
                left_out += 1
        print(f"{policy:14} {score:24} {found} used, {left_out} left out")
        fragile += left_out
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "policy_vectors.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
    print(f"{len(cases)} cases, {fragile} left out as fragile")


if __name__ == "__main__":
    main()
