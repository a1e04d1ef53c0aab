//! Each kind of fault, and what its message says.

use crate::writer::{Writer, array, open, sample, text};
use lava_gguf::Gguf;

/// Checks that the file is refused with `expected` after "PATH: ".
fn check(writer: &Writer, expected: &str) {
    check_bytes(&writer.bytes(), expected);
}

fn check_bytes(bytes: &[u8], expected: &str) {
    let error = open(bytes).map(|_| "opened").expect_err("a fault");
    assert_eq!(error.fault.to_string(), expected);
    assert!(
        error.to_string().starts_with('/'),
        "the path is named: {error}"
    );
}

/// A sample file with `bytes` written over it at `at`.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = sample().bytes();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Gguf::open("no/such.gguf".as_ref()).unwrap_err();
    assert_eq!(error.to_string(), "no/such.gguf: cannot be read");
}

#[test]
fn another_format_and_other_versions_are_refused_by_name() {
    check_bytes(
        b"version https://git-lfs",
        "is not a GGUF file: it begins with \"vers\", not with \"GGUF\"",
    );
    check_bytes(
        b"GG",
        "is cut off in the magic number: 4 bytes needed, 2 present",
    );
    let versions = "versions 2 and 3 are read (convert the model again)";
    check_bytes(
        &patched(4, &[1, 0, 0, 0]),
        &format!("has GGUF version 1; {versions}"),
    );
    check_bytes(
        &patched(4, &[4, 0, 0, 0]),
        &format!("has GGUF version 4; {versions}"),
    );
    check_bytes(
        &patched(4, &[0, 0, 0, 3]),
        "is a big-endian GGUF file (version 3); only little-endian ones are read",
    );
}

#[test]
fn counts_and_lengths_are_compared_with_the_file_before_they_are_believed() {
    let mut writer = Writer::new();
    writer.tensor_count = Some(1 << 60);
    check(
        &writer,
        "is cut off in 1152921504606846976 tensors: 18446744073709551615 bytes needed, 8 present",
    );
    let mut writer = Writer::new();
    writer.entry_count = Some(3);
    check(
        &writer,
        "is cut off in 3 metadata entries: 39 bytes needed, 8 present",
    );

    let long = [&u64::MAX.to_le_bytes(), &b"abc"[..]].concat();
    let file = Writer::new().entry("k", 8, &long).header();
    check_bytes(
        &file,
        "is cut off in key \"k\": 18446744073709551615 bytes needed, 3 present",
    );
    let file = Writer::new().array("k", 8, 1 << 40, &[]).header();
    let expected = "is cut off in the array of key \"k\": 8796093022208 bytes needed, 0 present";
    check_bytes(&file, expected);
}

#[test]
fn values_that_the_format_does_not_have_are_refused() {
    check(
        &Writer::new().entry("k", 13, &[0; 8]),
        "key \"k\" has value type 13; GGUF has types 0 to 12",
    );
    check(
        &Writer::new().array("k", 77, 1, &[0; 8]),
        "the array of key \"k\" has value type 77; GGUF has types 0 to 12",
    );
    check(
        &Writer::new().entry("k", 7, &[2]),
        "key \"k\" is a bool of value 2; 0 or 1 is allowed",
    );
    let bad = [&2u64.to_le_bytes()[..], &[0xC3, 0x28]].concat();
    check(&Writer::new().entry("k", 8, &bad), "key \"k\" is not UTF-8");
}

#[test]
fn arrays_may_be_nested_four_deep_and_no_deeper() {
    let nested = |depth| (1..depth).fold(array(0, 1, &[9]), |inner, _| array(9, 1, &inner));
    assert!(Writer::new().entry("k", 9, &nested(4)).open().is_ok());
    check(
        &Writer::new().entry("k", 9, &nested(5)),
        "key \"k\" nests arrays more than 4 deep",
    );
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    check(
        &Writer::new().u32("k", 1).string("k", "x"),
        "key \"k\" occurs twice",
    );
    check(
        &Writer::new()
            .tensor("t", &[1], 0, &[0; 4])
            .tensor("t", &[1], 0, &[0; 4]),
        "tensor \"t\" occurs twice",
    );
}

#[test]
fn an_alignment_must_be_a_power_of_two() {
    check(
        &Writer::new().u32("general.alignment", 48),
        "general.alignment is 48; a power of two is needed",
    );
    check(
        &Writer::new().u32("general.alignment", 0),
        "general.alignment is 0; a power of two is needed",
    );
    check(
        &Writer::new().string("general.alignment", "32"),
        "key \"general.alignment\" is of type string; u32 is needed",
    );
}

#[test]
fn a_shape_must_be_possible() {
    let data = [0; 64];
    let check = |dims: &[u64], kind, expected: &str| {
        check(&Writer::new().tensor("t", dims, kind, &data), expected);
    };
    check(&[], 0, "tensor \"t\" has 0 dimensions; 1 to 4 are allowed");
    check(
        &[1; 5],
        0,
        "tensor \"t\" has 5 dimensions; 1 to 4 are allowed",
    );
    let product = "whose product is zero or too large";
    check(
        &[2, 0],
        0,
        &format!("tensor \"t\" has dimensions [0, 2], {product}"),
    );
    check(
        &[1 << 40, 1 << 40],
        0,
        &format!("tensor \"t\" has dimensions [1099511627776, 1099511627776], {product}"),
    );
    check(
        &[1 << 63],
        0,
        &format!("tensor \"t\" has dimensions [9223372036854775808], {product}"),
    );
    check(
        &[48],
        3,
        "tensor \"t\" has rows of 48 elements; Q4_1 needs a multiple of 32",
    );
    check(
        &[128, 2],
        12,
        "tensor \"t\" has rows of 128 elements; Q4_K needs a multiple of 256",
    );
}

#[test]
fn a_type_that_is_not_read_is_named_with_its_tensor() {
    let supported = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2_K, Q3_K, Q4_K, Q5_K, \
                     Q6_K, Q8_K";
    let check = |kind, name| {
        let expected =
            format!("tensor \"t\" is of type {name}, which is not supported ({supported} are)");
        check(
            &Writer::new().tensor("t", &[256], kind, &[0; 64]),
            &expected,
        );
    };
    check(16, "IQ2_XXS");
    check(39, "MXFP4");
    check(1000, "number 1000");
}

#[test]
fn a_tensor_must_lie_inside_the_file_and_in_its_own_bytes() {
    check(
        &Writer::new().row("t", &[8], 0, 0),
        "tensor \"t\" needs 32 bytes from byte 64; 0 are present",
    );
    check(
        &Writer::new().tensor("t", &[8], 0, &[0; 31]),
        "tensor \"t\" needs 32 bytes from byte 64; 31 are present",
    );
    let far = u64::MAX - 31;
    check(
        &Writer::new().row("t", &[8], 0, far),
        &format!(
            "tensor \"t\" needs 32 bytes from byte {}; 0 are present",
            u64::MAX
        ),
    );
    check(
        &Writer::new().row("t", &[8], 0, 8),
        "tensor \"t\" has offset 8, which is not a multiple of 32",
    );
    check(
        &Writer::new()
            .tensor("a", &[16], 0, &[0; 64])
            .row("b", &[8], 0, 32),
        "tensors \"a\" and \"b\" share bytes of the file",
    );
}

#[test]
fn a_flipped_length_in_the_tensor_table_is_refused() {
    let file = sample().bytes();
    let name = text("plain");
    let at = file
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    let cut = open(&patched(at + 7, &[0x80]))
        .unwrap_err()
        .fault
        .to_string();
    assert!(cut.starts_with("is cut off in the name of tensor 0: 9223372036854775813 bytes"));
    let dims = open(&patched(at + name.len(), &[0x12]))
        .unwrap_err()
        .fault
        .to_string();
    assert_eq!(
        dims,
        "tensor \"plain\" has 18 dimensions; 1 to 4 are allowed"
    );
}
