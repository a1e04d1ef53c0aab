//! The machine finds what it says that it finds, and nothing in a kernel that is right.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lava_cuda_on_cpu::{
    CompileError, Edit, Element, Fault, Gpu, Launch, Machine, Order, Product, Program,
};

const THREADS: u32 = 64;
const BLOCKS: u32 = 2;

fn compile(edits: &[Edit<'_>]) -> Result<Program, CompileError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cuda-on-cpu");
    Program::compile(&folder, &["faults.cu"], edits, &cache)
}

fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| compile(&[]).unwrap_or_else(|error| panic!("{error}")))
}

/// Runs the kernel with a fault by its number in `faults.cu`.
fn run(fault: u32, order: Order) -> Result<Vec<u32>, Fault> {
    let count = BLOCKS * THREADS;
    let mut gpu = Gpu::new(order);
    let numbers = (0..count).flat_map(u32::to_le_bytes);
    let input = gpu.filled("in", &numbers.collect::<Vec<u8>>());
    let out = gpu.undefined("out", 4 * count as usize);
    let mut parameters = Vec::new();
    parameters.extend(input.to_le_bytes());
    parameters.extend(out.to_le_bytes());
    parameters.extend(fault.to_le_bytes());
    parameters.extend(count.to_le_bytes());
    gpu.launch("sum_with_mirror", [BLOCKS, 1, 1], THREADS, &parameters);
    let memory = gpu.run(program())?;
    let words = memory.bytes(out).chunks_exact(4);
    Ok(words
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect())
}

#[test]
fn a_kernel_that_is_right_gives_its_answer_in_every_order() {
    for order in [Order::Forward, Order::Backward, Order::Mixed(5)] {
        let expected = |at: u32| {
            let (block, i) = (at / THREADS, at % THREADS);
            let mirrored = 2 * block * THREADS + THREADS - 1;
            let copied = if i % 4 == 0 { i } else { 0 };
            mirrored + copied
        };
        let expected: Vec<u32> = (0..BLOCKS * THREADS).map(expected).collect();
        assert_eq!(run(0, order), Ok(expected), "{order:?}");
    }
}

#[track_caller]
fn check(fault: u32, expected: &str) {
    let found = run(fault, Order::Forward).unwrap_err();
    let found = found.0.strip_prefix("sum_with_mirror").unwrap_or(&found.0);
    assert_eq!(found.trim_start_matches([':', ',']).trim_start(), expected);
}

#[test]
fn an_access_behind_a_buffer_says_which_and_by_how_much() {
    check(
        1,
        "block (0, 0, 0), thread 0 reads 4 bytes at 512 of in, which has 512",
    );
}

#[test]
fn what_nobody_wrote_is_not_read() {
    check(
        2,
        "block (0, 0, 0), thread 5 reads byte 20 of shared memory, which was never written",
    );
}

#[test]
fn a_missing_barrier_is_a_race() {
    // The mirror's owner has yet to write, in this order; in others it has: both are wrong.
    check(
        3,
        "block (0, 0, 0), thread 32 writes byte 128 of shared memory, which thread 31 of block 0 read with no barrier \
         between",
    );
}

#[test]
fn a_barrier_that_half_of_a_block_comes_to_is_found() {
    check(
        4,
        "block (0, 0, 0): a barrier that not all come to: thread 31 waits for its block at faults.cu:50, thread 32 has \
         ended",
    );
}

#[test]
fn a_thread_that_ends_before_the_others_meet_is_found() {
    check(
        5,
        "block (0, 0, 0): a barrier that not all come to: thread 2 waits for its block at faults.cu:52, thread 3 has \
         ended",
    );
}

#[test]
fn wide_steps_have_to_be_aligned() {
    check(
        6,
        "block (0, 0, 0), thread 0 reads 16 bytes at 4 of in, which is not aligned to them",
    );
}

#[test]
fn an_index_behind_an_array_in_shared_memory_is_found() {
    check(
        7,
        "block (0, 0, 0), thread 0: index 127 is out of the bounds of its array at faults.cu:55",
    );
}

#[test]
fn two_blocks_never_write_the_same_byte() {
    check(
        8,
        "block (1, 0, 0), thread 0 writes byte 0 of out, which thread 0 of block 0 wrote with no barrier between",
    );
}

#[test]
fn lanes_meet_as_a_whole_warp() {
    check(
        9,
        "block (0, 0, 0), thread 0: lanes meet under the mask 0000ffff; ours always are all of a warp",
    );
    check(
        12,
        "block (0, 0, 0): a barrier that not all come to: thread 0 waits for its warp at faults.cu:59, thread 1 waits \
         for its block at faults.cu:64",
    );
}

#[test]
fn copies_to_shared_memory_are_not_there_before_they_were_waited_for() {
    check(
        10,
        "block (0, 0, 0), thread 0 reads byte 256 of shared memory, which was never written",
    );
    check(
        11,
        "block (0, 0, 0), thread 0 ends before its copies to shared memory",
    );
}

#[test]
fn an_edit_has_to_find_its_text_once() {
    for (from, times) in [("no such text", 0), ("__syncthreads();", 4)] {
        let error = compile(&[Edit { from, to: "" }]).unwrap_err();
        assert!(
            error.to_string().contains(&format!("stands {times} times")),
            "{error}"
        );
    }
}

#[test]
fn a_source_that_does_not_compile_says_where() {
    let edit = Edit {
        from: "const unsigned far",
        to: "const unsinged far",
    };
    let error = compile(&[edit]).unwrap_err().to_string();
    assert!(error.contains("faults.cu:44"), "{error}");
}

/// A machine, and two buffers of 64 numbers of 16 bits, of which the first counts up.
fn machine() -> (Machine, u64, u64) {
    let mut machine = Machine::start(program(), Order::Forward);
    let [input, out] = ["in", "out"].map(|name| {
        let address = machine.next_address(128);
        machine.allocate(name, address, 128).unwrap();
        address
    });
    // Small integers are exact in bfloat16, which is the upper half of f32.
    let numbers = (0..64).map(|i| (i as f32).to_bits() >> 16);
    let bytes: Vec<u8> = numbers
        .flat_map(|bits| (bits as u16).to_le_bytes())
        .collect();
    machine.write(input, &bytes).unwrap();
    (machine, input, out)
}

fn read(machine: &mut Machine, from: u64, bytes: usize) -> Result<Vec<u8>, Fault> {
    let mut out = vec![0; bytes];
    machine.read(from, &mut out).map(|()| out)
}

#[test]
fn a_machine_multiplies_copies_and_fills() {
    let (mut machine, input, out) = machine();
    // [2, 16] times the transpose of [2, 16].
    let product = Product {
        element: Element::Bf16,
        rows: 2,
        inputs: 16,
        outputs: 2,
        x: input,
        weight: input + 64,
        out,
        is_out_wide: true,
    };
    machine.multiply(&product).unwrap();
    let found = read(&mut machine, out, 16).unwrap();
    let found = found
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    let expected =
        [0, 16].map(|x| [32, 48].map(|w| (0..16).map(|i| (x + i) * (w + i)).sum::<i32>()));
    assert_eq!(
        found.collect::<Vec<_>>(),
        expected
            .concat()
            .iter()
            .map(|&x| x as f32)
            .collect::<Vec<_>>()
    );
    machine.fill(out, 4, 7).unwrap();
    machine.copy(out + 2, input + 2, 2).unwrap();
    assert_eq!(read(&mut machine, out, 4).unwrap(), [7, 7, 0x80, 0x3f]);
    assert_eq!(machine.live_buffers(), 2);
}

#[test]
fn a_machine_knows_more_launches_than_its_stamps_have_numbers() {
    let mut machine = Machine::start(program(), Order::Forward);
    let count = BLOCKS * THREADS;
    let [input, out] = ["in", "out"].map(|name| {
        let address = machine.next_address(4 * count as usize);
        machine.allocate(name, address, 4 * count as usize).unwrap();
        address
    });
    let numbers: Vec<u8> = (0..count).flat_map(u32::to_le_bytes).collect();
    machine.write(input, &numbers).unwrap();
    let mut parameters = [input, out].map(u64::to_le_bytes).concat();
    parameters.extend([0, count].map(u32::to_le_bytes).concat());
    let launch = Launch {
        kernel: "sum_with_mirror".to_owned(),
        grid: [BLOCKS, 1, 1],
        threads: THREADS,
        parameters,
    };
    for _ in 0..1100 {
        machine.launch(&launch).unwrap();
    }
    assert!(read(&mut machine, out, 4 * count as usize).is_ok());
}

#[test]
fn a_machine_says_what_was_used_wrongly_whoever_used_it() {
    let check = |wrong: &dyn Fn(&mut Machine, u64, u64), expected: &str| {
        let (mut machine, input, out) = machine();
        wrong(&mut machine, input, out);
        let fault = read(&mut machine, input, 2).unwrap_err();
        assert_eq!(fault.0, expected);
        // It is of no more use.
        assert_eq!(machine.free(input).unwrap_err(), fault);
    };
    check(
        &|machine, _, out| drop(read(machine, out, 2)),
        "reading: byte 0 of out was never written",
    );
    check(
        &|machine, input, out| machine.copy(input, out, 4).unwrap(),
        "copying: byte 0 of out was never written",
    );
    check(
        &|machine, input, _| machine.write(input + 120, &[0; 9]).unwrap(),
        "writing: 9 bytes at 120 of in, which has 128",
    );
    check(
        &|machine, _, out| {
            machine.free(out).unwrap();
            machine.free(out).unwrap();
        },
        "what is freed is no buffer",
    );
}
