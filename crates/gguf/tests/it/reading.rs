//! What a good file gives.

use crate::writer::{Writer, on_disk, sample};
use lava_gguf::{Array, Fault, GgmlType, Gguf, Value, optional};

#[test]
fn every_scalar_type_is_read_as_what_it_is() {
    let gguf = sample().open().unwrap();
    let check = |key, expected| assert_eq!(gguf.get(key), Some(&expected), "{key}");
    check("a.u8", Value::U8(200));
    check("a.i8", Value::I8(-2));
    check("a.u16", Value::U16(40_000));
    check("a.i16", Value::I16(-300));
    check("general.alignment", Value::U32(32));
    check("a.i32", Value::I32(-70_000));
    check("a.f32", Value::F32(1.5));
    check("a.bool", Value::Bool(true));
    check("general.architecture", Value::String("llama".to_owned()));
    check("a.u64", Value::U64(1 << 40));
    check("a.i64", Value::I64(-1));
    check("a.f64", Value::F64(2.5));
}

#[test]
fn arrays_keep_the_type_of_their_elements() {
    let gguf = sample().open().unwrap();
    assert_eq!(
        gguf.strings("a.strings").unwrap(),
        ["", "naïve", "<|im_end|>"]
    );
    assert_eq!(gguf.f32s("a.f32s").unwrap(), [0.25, 4.0]);
    assert_eq!(gguf.u32s("a.u32s").unwrap(), [7]);
    assert_eq!(
        gguf.get("a.bools"),
        Some(&Value::Array(Array::Bool(vec![true, false, true])))
    );
    let nested = vec![Array::I32(vec![1, -1]), Array::String(vec!["x".to_owned()])];
    assert_eq!(
        gguf.get("a.nested"),
        Some(&Value::Array(Array::Array(nested)))
    );
}

#[test]
fn integers_are_given_in_any_width_that_holds_them() {
    let gguf = sample().open().unwrap();
    assert_eq!(gguf.u32("a.u8").unwrap(), 200);
    assert_eq!(gguf.u64("a.u64").unwrap(), 1 << 40);
    assert_eq!(gguf.usize("a.u16").unwrap(), 40_000);
    assert_eq!(gguf.f32("a.f64").unwrap(), 2.5);

    let too_large = gguf.u32("a.u64").unwrap_err();
    assert!(
        too_large
            .to_string()
            .ends_with("key \"a.u64\" is 1099511627776, which is no u32")
    );
    let negative = gguf.usize("a.i64").unwrap_err();
    assert!(
        negative
            .to_string()
            .ends_with("key \"a.i64\" is -1, which is no usize")
    );
}

#[test]
fn a_missing_key_and_a_key_of_another_type_are_told_apart() {
    let gguf = sample().open().unwrap();
    let missing = gguf.str("a.none").unwrap_err();
    assert!(missing.to_string().ends_with("has no key \"a.none\""));
    let wrong = gguf.str("a.strings").unwrap_err();
    assert!(
        wrong
            .to_string()
            .ends_with("key \"a.strings\" is of type array of strings; string is needed")
    );

    assert_eq!(optional(gguf.bool("a.none")).unwrap(), None);
    assert_eq!(optional(gguf.bool("a.bool")).unwrap(), Some(true));
    let error = optional(gguf.bool("a.u8")).unwrap_err();
    assert!(matches!(
        error.fault,
        Fault::WrongType {
            found: "u8",
            expected: "bool",
            ..
        }
    ));
    assert!(gguf.contains("a.u8") && !gguf.contains("a.none"));
}

#[test]
fn tensors_have_row_major_shapes_and_their_own_bytes() {
    let gguf = sample().open().unwrap();
    let plain = gguf.tensor("plain").unwrap();
    assert_eq!(
        (plain.dims.as_slice(), plain.kind, plain.bytes),
        (&[2, 3][..], GgmlType::F32, 24)
    );
    assert_eq!(gguf.read(plain).unwrap(), (0..24).collect::<Vec<u8>>());

    let quantised = gguf.tensor("quantised").unwrap();
    assert_eq!(
        (quantised.dims.as_slice(), quantised.kind),
        (&[1, 2, 32][..], GgmlType::Q4_1)
    );
    assert_eq!(gguf.read(quantised).unwrap(), [7; 40]);

    let names: Vec<&str> = gguf
        .tensors()
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    assert_eq!(names, ["plain", "quantised", "half"]);
    assert!(matches!(
        gguf.tensor("none").unwrap_err().fault,
        Fault::MissingTensor { .. }
    ));
}

#[test]
fn version_2_and_a_larger_alignment_are_read_as_well() {
    let mut writer = Writer::new().u32("general.alignment", 64);
    (writer.version, writer.alignment) = (2, 64);
    let gguf = writer
        .tensor("a", &[1], 0, &[1; 4])
        .tensor("b", &[1], 0, &[2; 4])
        .open()
        .unwrap();
    assert_eq!(gguf.version(), 2);
    let (a, b) = (gguf.tensor("a").unwrap(), gguf.tensor("b").unwrap());
    assert_eq!((b.offset - a.offset, a.offset % 64), (64, 0));
    assert_eq!(gguf.read(b).unwrap(), [2; 4]);
}

#[test]
fn a_file_that_shrank_after_it_was_opened_is_an_error() {
    let file = on_disk(&sample().bytes());
    let gguf = Gguf::open(file.path()).unwrap();
    let half = gguf.tensor("half").unwrap();
    file.as_file().set_len(half.offset + 3).unwrap();
    let error = gguf.read(half).unwrap_err();
    assert!(
        matches!(
            error.fault,
            Fault::TensorCut {
                needed: 4,
                present: 3,
                ..
            }
        ),
        "{error}"
    );
}
