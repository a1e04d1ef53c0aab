//! What stands between the products of a layer.

use std::sync::OnceLock;

use bytemuck::cast_slice;
use lava_cuda_on_cpu::{Edit, Fault, Order};
use lava_kernels::cuda::{AddAndNorm, Compute, Embed, SiluProduct, SplitHeads};
use lava_kernels::{add, rms_norm, rotate_halves, silu_product};
use proptest::prelude::*;

use crate::cuda::{ORDERS, Random, Runner, is_found, launch, read};

fn kernels() -> &'static Runner {
    static RUNNER: OnceLock<Runner> = OnceLock::new();
    RUNNER.get_or_init(|| Runner::new("layer.cu"))
}

/// Found and expected numbers.
type Both = (Vec<f32>, Vec<f32>);

/// Rounded to 11 or 8 bits, of numbers that were computed in f32 in another order.
fn are_close((found, expected): &Both, compute: Compute) -> bool {
    let step = match compute {
        Compute::F16 => 1.0 / 1024.0,
        Compute::Bf16 => 1.0 / 128.0,
    };
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() * step + 1e-4;
    found.len() == expected.len() && found.iter().zip(expected).all(close)
}

fn embed(
    compute: Compute,
    tokens: usize,
    hidden: usize,
    seed: u64,
    runner: &Runner,
    order: Order,
) -> Result<Both, Fault> {
    let mut random = Random(seed);
    let table = random.elements(9 * hidden, 3.0, compute);
    let ids: Vec<u32> = (0..tokens).map(|_| random.below(9) as u32).collect();
    let mut gpu = runner.gpu(order);
    let embed = Embed {
        compute,
        tokens,
        hidden,
        ids: gpu.filled("ids", cast_slice(&ids)),
        table: gpu.filled("table", &compute.narrow(&table)),
        x: gpu.undefined("x", 4 * tokens * hidden),
    };
    launch(&mut gpu, &embed.launch());
    let memory = runner.run(gpu)?;
    let rows = ids
        .iter()
        .flat_map(|id| &table[*id as usize * hidden..][..hidden]);
    Ok((read(memory.bytes(embed.x)), rows.copied().collect()))
}

/// What comes out, and the residual stream.
fn norm(
    compute: Compute,
    tokens: usize,
    hidden: usize,
    adds: bool,
    seed: u64,
    runner: &Runner,
    order: Order,
) -> Result<[Both; 2], Fault> {
    let mut random = Random(seed);
    let x: Vec<f32> = (0..tokens * hidden).map(|_| random.unit() * 4.0).collect();
    let y = random.elements(tokens * hidden, 2.0, compute);
    let weight: Vec<f32> = (0..hidden).map(|_| random.unit()).collect();
    let sum = if adds { add(&x, &y) } else { x.clone() };
    let expected = rms_norm(&sum, &weight, 1e-5);
    let mut gpu = runner.gpu(order);
    let norm = AddAndNorm {
        compute,
        tokens,
        hidden,
        epsilon: 1e-5,
        x: gpu.filled("x", cast_slice(&x)),
        y: adds.then(|| gpu.filled("y", &compute.narrow(&y))),
        weight: gpu.filled("weight", cast_slice(&weight)),
        out: gpu.undefined("out", 2 * x.len()),
    };
    launch(&mut gpu, &norm.launch());
    let memory = runner.run(gpu)?;
    Ok([
        (compute.widen(memory.bytes(norm.out)), expected),
        (read(memory.bytes(norm.x)), sum),
    ])
}

#[derive(Clone, Debug)]
struct Heads {
    compute: Compute,
    head_dim: usize,
    q_heads: usize,
    kv_heads: usize,
    tokens: usize,
    has_bias: bool,
    has_norms: bool,
    seed: u64,
}

/// Queries, keys and values.
fn split(case: &Heads, runner: &Runner, order: Order) -> Result<[Both; 3], Fault> {
    let (d, t) = (case.head_dim, case.tokens);
    let heads = [case.q_heads, case.kv_heads, case.kv_heads];
    let width = heads.iter().sum::<usize>() * d;
    let mut random = Random(case.seed);
    let projected = random.elements(t * width, 3.0, case.compute);
    let mut floats = |count: usize| -> Vec<f32> { (0..count).map(|_| random.unit()).collect() };
    let (bias, norms) = (floats(width), [floats(d), floats(d)]);
    let (cosines, sines) = (floats(t * d / 2), floats(t * d / 2));
    let mut first = 0;
    let expected: Vec<Vec<f32>> = (0..3)
        .map(|part| {
            let of_part = first..first + heads[part] * d;
            first = of_part.end;
            let tokens = projected.chunks(width).map(|token| &token[of_part.clone()]);
            let bias = |i: usize| {
                if case.has_bias {
                    bias[of_part.start + i]
                } else {
                    0.0
                }
            };
            let mut rows: Vec<f32> = tokens
                .flat_map(|row| row.iter().enumerate().map(|(i, x)| x + bias(i)))
                .collect();
            if case.has_norms && part < 2 {
                rows = rms_norm(&rows, &norms[part], 1e-6);
            }
            if part < 2 {
                rotate_halves(&mut rows, &cosines, &sines, heads[part], d);
            }
            rows
        })
        .collect();
    let mut gpu = runner.gpu(order);
    let split = SplitHeads {
        compute: case.compute,
        head_dim: d,
        q_heads: case.q_heads,
        kv_heads: case.kv_heads,
        tokens: t,
        epsilon: 1e-6,
        projected: gpu.filled("projected", &case.compute.narrow(&projected)),
        bias: case.has_bias.then(|| gpu.filled("bias", cast_slice(&bias))),
        query_norm: case
            .has_norms
            .then(|| gpu.filled("query norm", cast_slice(&norms[0]))),
        key_norm: case
            .has_norms
            .then(|| gpu.filled("key norm", cast_slice(&norms[1]))),
        cosines: gpu.filled("cosines", cast_slice(&cosines)),
        sines: gpu.filled("sines", cast_slice(&sines)),
        queries: gpu.undefined("queries", 2 * expected[0].len()),
        keys: gpu.undefined("keys", 2 * expected[1].len()),
        values: gpu.undefined("values", 2 * expected[2].len()),
    };
    launch(&mut gpu, &split.launch());
    let memory = runner.run(gpu)?;
    let mut expected = expected.into_iter();
    Ok([split.queries, split.keys, split.values].map(|address| {
        let expected = expected.next().expect("three parts");
        (case.compute.widen(memory.bytes(address)), expected)
    }))
}

fn gate(
    compute: Compute,
    tokens: usize,
    width: usize,
    seed: u64,
    runner: &Runner,
    order: Order,
) -> Result<Both, Fault> {
    let gate_up = Random(seed).elements(2 * tokens * width, 20.0, compute);
    let halves = gate_up.chunks(width);
    let gate: Vec<f32> = halves.clone().step_by(2).flatten().copied().collect();
    let up: Vec<f32> = halves.skip(1).step_by(2).flatten().copied().collect();
    let mut gpu = runner.gpu(order);
    let product = SiluProduct {
        compute,
        tokens,
        intermediate: width,
        gate_up: gpu.filled("gate and up", &compute.narrow(&gate_up)),
        out: gpu.undefined("out", 2 * gate.len()),
    };
    launch(&mut gpu, &product.launch());
    let memory = runner.run(gpu)?;
    Ok((
        compute.widen(memory.bytes(product.out)),
        silu_product(&gate, &up),
    ))
}

fn fails(fault: Fault) -> TestCaseError {
    TestCaseError::fail(fault.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn they_are_those_of_the_cpu(
        compute in prop::sample::select(vec![Compute::F16, Compute::Bf16]), tokens in 1usize..9,
        eights in 1usize..400, adds in any::<bool>(), seed in any::<u64>(),
        order in prop::sample::select(ORDERS.to_vec()),
    ) {
        let width = 8 * eights;
        let embedded = embed(compute, tokens, width, seed, kernels(), order).map_err(fails)?;
        prop_assert_eq!(embedded.0, embedded.1);
        let [normed, stream] = norm(compute, tokens, width, adds, seed, kernels(), order).map_err(fails)?;
        prop_assert!(are_close(&normed, compute));
        prop_assert_eq!(stream.0, stream.1);
        prop_assert!(are_close(&gate(compute, tokens, width, seed, kernels(), order).map_err(fails)?, compute));
    }

    #[test]
    fn heads_are_those_of_the_cpu(
        compute in prop::sample::select(vec![Compute::F16, Compute::Bf16]), wide_dim in any::<bool>(),
        kv_heads in 1usize..4, group in 1usize..5, tokens in 1usize..9, has_bias in any::<bool>(),
        has_norms in any::<bool>(), seed in any::<u64>(), order in prop::sample::select(ORDERS.to_vec()),
    ) {
        let head_dim = if wide_dim { 128 } else { 64 };
        let case = Heads {
            compute, head_dim, q_heads: kv_heads * group, kv_heads, tokens, has_bias, has_norms, seed,
        };
        for part in split(&case, kernels(), order).map_err(fails)? {
            prop_assert!(are_close(&part, compute));
        }
    }
}

#[track_caller]
fn check_norm(from: &str, to: &str) {
    is_found(
        "layer.cu",
        &["LAYER(Bf16, bf16)\n"],
        Edit { from, to },
        |runner, order| {
            let [normed, stream] = norm(Compute::F16, 3, 2200, true, 4, runner, order)?;
            Ok(are_close(&normed, Compute::F16) && stream.0 == stream.1)
        },
    );
}

#[test]
fn a_missing_barrier_is_found() {
    let sums = "s.sums[warp()] = sum;\n";
    check_norm(&format!("{sums}    __syncthreads();\n"), sums);
}

#[test]
fn a_stream_that_is_not_written_back_is_found() {
    check_norm("x[at + i] = sum_of_both;", "x[at + i] = added[i];");
}

#[track_caller]
fn check_heads(from: &str, to: &str) {
    let case = Heads {
        compute: Compute::F16,
        head_dim: 128,
        q_heads: 6,
        kv_heads: 3,
        tokens: 3,
        has_bias: true,
        has_norms: true,
        seed: 8,
    };
    is_found(
        "layer.cu",
        &["LAYER(Bf16, bf16)\n"],
        Edit { from, to },
        |runner, order| {
            let parts = split(&case, runner, order)?;
            Ok(parts.iter().all(|part| are_close(part, Compute::F16)))
        },
    );
}

#[test]
fn values_that_are_turned_are_found() {
    check_heads("is_value ? 0.0f : p.sines[angle]", "p.sines[angle]");
}

#[test]
fn keys_with_the_norm_of_queries_are_found() {
    check_heads(
        "is_value ? nullptr : p.key_norm",
        "is_value ? nullptr : p.query_norm",
    );
}

#[test]
fn heads_of_a_token_that_is_not_there_are_found() {
    check_heads(
        "if (index >= p.tokens * heads)",
        "if (index >= (p.tokens + 1) * heads)",
    );
}

#[test]
fn a_gate_of_the_next_token_is_found() {
    let edit = Edit {
        from: "(2 * token + 1) * p.intermediate",
        to: "(2 * token + 2) * p.intermediate",
    };
    is_found(
        "layer.cu",
        &["LAYER(Bf16, bf16)\n"],
        edit,
        |runner, order| {
            Ok(are_close(
                &gate(Compute::F16, 3, 264, 5, runner, order)?,
                Compute::F16,
            ))
        },
    );
}
