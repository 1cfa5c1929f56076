//! Files that are damaged or lie.

use proptest::prelude::*;

use super::{super::*, read, small};
use crate::gguf::writer::Writer;

const HUGE: u64 = 1 << 60;

/// A header's first 24 bytes with these counts.
fn start(tensors: u64, keys: u64) -> Vec<u8> {
    let mut bytes = Writer::new().header();
    bytes[8..16].copy_from_slice(&tensors.to_le_bytes());
    bytes[16..24].copy_from_slice(&keys.to_le_bytes());
    bytes
}

fn put(bytes: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        bytes.extend_from_slice(piece);
    }
}

fn length(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

/// What a malformed header is malformed in.
fn problem(bytes: &[u8]) -> String {
    match read(bytes) {
        Err(GgufError::Malformed { problem, .. }) => problem,
        other => panic!("expected a malformed header, got {other:?}"),
    }
}

/// What there is too much of.
fn too_much(bytes: &[u8], limits: &Limits) -> &'static str {
    match Header::read(bytes, limits) {
        Err(GgufError::OverLimit { what, .. }) => what,
        other => panic!("expected a header over a limit, got {other:?}"),
    }
}

#[test]
fn a_header_cut_at_any_byte_is_an_error_that_says_where() {
    let bytes = small().header();
    for end in 0..bytes.len() {
        match read(&bytes[..end]) {
            Err(GgufError::HeaderCut { offset, .. }) => assert_eq!(offset, end as u64),
            other => panic!("cut at {end}: {other:?}"),
        }
    }
    assert!(read(&bytes).is_ok());
}

#[test]
fn other_files_are_told_apart_by_their_first_bytes() {
    for (bytes, expected) in [
        (b"version https://git-lfs".as_slice(), "Git LFS"),
        (b"<!doctype html>", "web page"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\0\0\0\0\0\0\0\0", "zeros"),
        (b"\x7fELF1234", "\\x7fELF"),
    ] {
        let error = read(bytes).unwrap_err();
        assert!(matches!(error, GgufError::NotGguf { .. }));
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn other_versions_and_byte_orders_are_refused_by_name() {
    for version in [0, 1, 4, 70_000] {
        let error = read(&Writer::new().version(version).file()).unwrap_err();
        assert!(
            matches!(error, GgufError::UnsupportedVersion { version: told } if told == version)
        );
    }
    let error = read(&Writer::new().version(3_u32.swap_bytes()).file()).unwrap_err();
    assert!(matches!(error, GgufError::BigEndian { version: 3 }));
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    let limits = Limits::default();
    assert_eq!(too_much(&start(HUGE, 0), &limits), "tensors");
    assert_eq!(too_much(&start(0, HUGE), &limits), "keys");

    let mut key = start(0, 1);
    put(&mut key, &[&length(HUGE)]);
    assert_eq!(too_much(&key, &limits), "bytes of text");

    let mut text = start(0, 1);
    put(
        &mut text,
        &[&length(1), b"k", &8_u32.to_le_bytes(), &length(HUGE)],
    );
    assert_eq!(too_much(&text, &limits), "bytes of text");

    let mut array = start(0, 1);
    put(&mut array, &[&length(1), b"k", &9_u32.to_le_bytes()]);
    put(&mut array, &[&10_u32.to_le_bytes(), &length(HUGE)]);
    assert_eq!(too_much(&array, &limits), "elements");

    let mut name = start(1, 0);
    put(&mut name, &[&length(HUGE)]);
    assert_eq!(too_much(&name, &limits), "bytes of text");
}

#[test]
fn counts_within_the_limits_that_the_file_does_not_hold_end_at_its_end() {
    let mut text = start(0, 1);
    put(&mut text, &[&length(1), b"k", &8_u32.to_le_bytes()]);
    put(&mut text, &[&length(60 << 20), b"short"]);
    assert!(matches!(read(&text), Err(GgufError::HeaderCut { .. })));

    let mut array = start(0, 1);
    put(&mut array, &[&length(1), b"k", &9_u32.to_le_bytes()]);
    put(&mut array, &[&8_u32.to_le_bytes(), &length(16 << 20)]);
    assert!(matches!(read(&array), Err(GgufError::HeaderCut { .. })));
}

#[test]
fn each_limit_holds() {
    let limits = Limits {
        keys_max: 2,
        tensors_max: 1,
        key_bytes_max: 20,
        tensor_name_bytes_max: 4,
        string_bytes_max: 5,
        array_elements_max: 3,
        array_nesting_max: 1,
        alignment_max: 64,
        ..Limits::default()
    };
    let within = Writer::new()
        .alignment(64)
        .key("k", vec!["12345", "", "x"])
        .tensor("1234", &[1], TensorType::F32);
    assert!(Header::read(within.file().as_slice(), &limits).is_ok());

    let one = |writer: Writer| too_much(&writer.file(), &limits);
    let new = Writer::new;
    assert_eq!(
        one(new().key("a", 1_u8).key("b", 1_u8).key("c", 1_u8)),
        "keys"
    );
    let two = new().tensor("a", &[], TensorType::F32);
    assert_eq!(one(two.tensor("b", &[], TensorType::F32)), "tensors");
    assert_eq!(one(new().key(&"k".repeat(21), 1_u8)), "bytes of text");
    assert_eq!(
        one(new().tensor("12345", &[], TensorType::F32)),
        "bytes of text"
    );
    assert_eq!(one(new().key("k", "123456")), "bytes of text");
    assert_eq!(one(new().key("k", vec!["123456"])), "bytes of text");
    assert_eq!(one(new().key("k", vec![1_u8; 4])), "elements");
    assert_eq!(
        one(new().key("k", vec![vec![1_u8]])),
        "arrays within each other"
    );
    assert_eq!(one(new().alignment(128)), "bytes of alignment");
}

#[test]
fn arrays_that_are_passed_over_are_held_to_the_same_limits() {
    let limits = Limits {
        array_kept_max: 0,
        array_head: 0,
        string_bytes_max: 5,
        array_elements_max: 3,
        array_nesting_max: 2,
        ..Limits::default()
    };
    let one = |value: Value| too_much(&Writer::new().key("k", value).file(), &limits);
    assert_eq!(one(vec!["123456"].into()), "bytes of text");
    assert_eq!(one(vec![vec![1_u8; 4]].into()), "elements");
    assert_eq!(
        one(vec![vec![vec![1_u8]]].into()),
        "arrays within each other"
    );
}

#[test]
fn a_header_longer_than_the_limit_is_not_read_on() {
    let bytes = small().header();
    for header_bytes_max in 0..bytes.len() as u64 {
        let limits = Limits {
            header_bytes_max,
            ..Limits::default()
        };
        assert_eq!(too_much(&bytes, &limits), "bytes of header");
    }
}

#[test]
fn keys_and_tensors_that_come_twice_are_refused() {
    let keys = Writer::new().key("again", 1_u8).key("again", 2_u8);
    assert_eq!(problem(&keys.file()), "there is already a key again");
    let tensors =
        Writer::new()
            .tensor("again", &[1], TensorType::F32)
            .tensor("again", &[1], TensorType::F32);
    assert_eq!(problem(&tensors.file()), "there is already a tensor again");
}

#[test]
fn keys_that_are_empty_or_not_text_are_refused() {
    assert_eq!(problem(&Writer::new().key("", 1_u8).file()), "it is empty");
    let mut bytes = Writer::new().key("k", 1_u8).file();
    bytes[32] = 0xff;
    assert_eq!(problem(&bytes), "it is not UTF-8");
    let mut bytes = Writer::new().tensor("t", &[1], TensorType::F32).file();
    bytes[32] = 0xff;
    assert_eq!(problem(&bytes), "it is not UTF-8");
}

#[test]
fn types_and_truth_values_that_do_not_exist_are_refused() {
    let mut bytes = Writer::new().key("k", true).file();
    let end = bytes.len();
    bytes[end - 1] = 2;
    assert_eq!(problem(&bytes), "a truth value is 0 or 1, not 2");
    bytes[end - 5] = 13;
    assert_eq!(problem(&bytes), "there is no value type 13");
}

#[test]
fn a_wrong_alignment_is_refused() {
    for alignment in [0_u32, 3, 48] {
        let file = Writer::new().key("general.alignment", alignment);
        assert_eq!(
            problem(&file.file()),
            format!("{alignment} is not a power of two")
        );
    }
    let file = Writer::new().key("general.alignment", "32");
    assert_eq!(problem(&file.file()), "it is not a 32-bit number");
}

#[test]
fn tensors_that_overlap_or_leave_gaps_are_refused() {
    let first = Writer::new().tensor("a", &[8], TensorType::F32);
    let at = |offset| {
        let file = first.clone().tensor_at("b", &[8], TensorType::F32, offset);
        problem(&file.file())
    };
    assert_eq!(at(0), "it begins at 0 and the tensor before it ends at 32");
    assert_eq!(
        at(64),
        "it begins at 64 and the tensor before it ends at 32"
    );
    assert_eq!(
        at(40),
        "it begins at 40, which is no multiple of the alignment 32"
    );
    assert!(at(u64::MAX - 31).starts_with("it begins at"));
}

#[test]
fn shapes_that_make_no_sense_are_refused() {
    let shape = |dimensions: &[u64], tensor_type| {
        problem(&Writer::new().tensor("t", dimensions, tensor_type).header())
    };
    let q8 = TensorType::Q8_0;
    assert!(shape(&[31], q8).contains("no whole number of blocks of 32 (Q8_0)"));
    assert!(shape(&[], q8).contains("no whole number of blocks"));
    assert!(shape(&[1; 5], TensorType::F32).contains("5 dimensions"));
    let large = 1 << 40;
    assert!(shape(&[large, large], q8).contains("too large"));
    assert!(shape(&[0, 1 << 63], q8).contains("too large"));
    assert!(shape(&[i64::MAX as u64], TensorType::F32).contains("too large"));
}

#[test]
fn tensors_whose_sizes_add_up_to_too_much_are_refused() {
    let sizes = [1_u64 << 62, 1 << 62, 1 << 62, 1 << 62];
    let mut file = Writer::new();
    for (index, size) in sizes.into_iter().enumerate() {
        file = file.tensor(&format!("t{index}"), &[size], TensorType(24));
    }
    assert!(problem(&file.header()).contains("beyond what a file can hold"));
    let mut file = Writer::new();
    for index in 0..3_u64 {
        let size = i64::MAX as u64;
        file = file.tensor_at(&format!("t{index}"), &[size], TensorType(999), index * 32);
    }
    assert!(problem(&file.header()).contains("can be counted"));
}

#[test]
fn names_in_messages_carry_no_control_characters() {
    let file = Writer::new()
        .key("bad\u{1b}[2J\nkey", 1_u8)
        .key("bad\u{1b}[2J\nkey", 1_u8);
    let message = read(&file.file()).unwrap_err().to_string();
    assert!(!message.chars().any(char::is_control), "{message:?}");
    let file = Writer::new().tensor("bad\r\u{7}", &[31], TensorType::Q8_0);
    let message = read(&file.header()).unwrap_err().to_string();
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

proptest! {
    #[test]
    fn random_bytes_after_the_magic_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(bytes);
        let _ = read(&file);
    }

    #[test]
    fn damage_gives_an_error_or_a_header_within_its_bounds(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        keep_length in any::<bool>(),
    ) {
        let mut bytes = small().file();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if !keep_length {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(header) = read(&bytes) {
            prop_assert!(header.header_bytes <= bytes.len() as u64);
            prop_assert!(header.alignment.is_power_of_two());
            prop_assert!(header.data_offset >= header.header_bytes);
            prop_assert!(header.file_bytes_min() >= header.header_bytes);
            prop_assert!(header.tensors.len() < bytes.len() && header.metadata.len() < bytes.len());
            let _ = header.elements();
        }
    }

    #[test]
    fn eight_bytes_of_any_value_anywhere_never_panic(at in any::<prop::sample::Index>(), value in any::<u64>(), shift in 0_u32..64) {
        let mut bytes = small().header();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&(value >> shift).to_le_bytes());
        if let Ok(header) = read(&bytes) {
            let _ = (header.elements(), header.file_bytes_min());
        }
    }
}
