//! Files as they should be.

use super::{super::*, Dripping, read, small};
use crate::gguf::writer::Writer;

#[test]
fn versions_2_and_3_are_read_alike() {
    for version in [2, 3] {
        let header = read(&small().version(version).file()).unwrap();
        assert_eq!(header.version, version);
        assert_eq!(header.metadata.len(), 15);
        assert_eq!(header.metadata.str("general.architecture"), Some("llama"));
        assert_eq!(header.tensors.len(), 3);
    }
}

#[test]
fn values_of_every_type_come_back_as_written() {
    let metadata = read(&small().file()).unwrap().metadata;
    assert_eq!(metadata.u64("test.u8"), Some(200));
    assert_eq!(metadata.get("test.i8"), Some(&Value::I8(-100)));
    assert_eq!(metadata.u64("test.i8"), None);
    assert_eq!(metadata.u64("test.u16"), Some(60_000));
    assert_eq!(metadata.get("test.i16"), Some(&Value::I16(-30_000)));
    assert_eq!(metadata.u64("test.u32"), Some(4_000_000_000));
    assert_eq!(metadata.f64("test.i32"), Some(-2e9));
    assert_eq!(metadata.u64("test.u64"), Some(u64::MAX));
    assert_eq!(metadata.get("test.i64"), Some(&Value::I64(i64::MIN)));
    assert_eq!(metadata.f64("test.f32"), Some(0.5));
    assert_eq!(metadata.f64("test.f64"), Some(0.25));
    assert_eq!(metadata.bool("test.bool"), Some(true));
    let numbers = metadata.array("test.numbers").unwrap().whole().unwrap();
    assert_eq!(numbers, [Value::U32(1), Value::U32(2), Value::U32(3)]);
    let texts = metadata.array("test.texts").unwrap();
    assert_eq!(texts.element_type, ValueType::String);
    assert_eq!(texts.items[1].as_str(), Some("two"));
    let nested = metadata.array("test.nested").unwrap();
    assert_eq!(nested.items[0].as_array().unwrap().length, 2);
    assert_eq!(nested.items[1].as_array().unwrap().length, 1);
}

#[test]
fn tensors_are_laid_out_one_behind_the_other() {
    let bytes = small().file();
    let header = read(&bytes).unwrap();
    let [first, second, third] = header.tensors.as_slice() else {
        panic!("three tensors, not {}", header.tensors.len());
    };
    assert_eq!(
        (first.name(), first.elements(), first.bytes()),
        ("first", 64, Some(68))
    );
    assert_eq!(
        (second.offset(), second.elements(), second.bytes()),
        (96, 3, Some(12))
    );
    assert_eq!(
        (third.offset(), third.dimensions(), third.bytes()),
        (128, [64, 1, 2].as_slice(), Some(80))
    );
    assert_eq!(header.elements(), 64 + 3 + 128);
    assert_eq!(header.data_offset % 32, 0);
    assert_eq!(header.file_bytes_min(), bytes.len() as u64);
}

#[test]
fn a_file_may_choose_its_alignment() {
    for alignment in [1, 8, 4096] {
        let file = small().alignment(alignment);
        let header = read(&file.file()).unwrap();
        assert_eq!(header.alignment, u64::from(alignment));
        assert_eq!(header.data_offset % u64::from(alignment), 0);
        assert_eq!(header.file_bytes_min(), file.file().len() as u64);
    }
}

#[test]
fn a_file_without_keys_and_tensors_is_a_header_only() {
    let header = read(&Writer::new().file()).unwrap();
    assert!(header.metadata.is_empty());
    assert_eq!(header.elements(), 0);
    assert_eq!(header.file_bytes_min(), 24);
}

#[test]
fn a_stream_that_drips_and_is_interrupted_gives_the_same_header() {
    let bytes = small().file();
    let dripping = Dripping {
        bytes: &bytes,
        interrupted: false,
    };
    let header = Header::read(dripping, &Limits::default()).unwrap();
    assert_eq!(header, read(&bytes).unwrap());
}

#[test]
fn of_long_arrays_the_length_and_the_beginning_are_kept() {
    let tokens: Vec<String> = (0..2000).map(|number| format!("token {number}")).collect();
    let bytes = Writer::new()
        .key("tokens", tokens)
        .key("scores", vec![1_f32; 3000])
        .key("short", vec![7_u8; 10])
        .file();
    let header = read(&bytes).unwrap();
    let tokens = header.metadata.array("tokens").unwrap();
    assert_eq!((tokens.length, tokens.items.len()), (2000, 8));
    assert_eq!(tokens.whole(), None);
    assert_eq!(header.metadata.array("scores").unwrap().length, 3000);
    assert!(header.metadata.array("short").unwrap().whole().is_some());

    let all = Header::read(bytes.as_slice(), &Limits::default().keeping_arrays()).unwrap();
    assert_eq!(
        all.metadata
            .array("tokens")
            .unwrap()
            .whole()
            .map(<[_]>::len),
        Some(2000)
    );
}

#[test]
fn when_the_kept_elements_are_used_up_arrays_keep_their_length_only() {
    let limits = Limits {
        elements_kept_max: 4,
        ..Limits::default()
    };
    let bytes = Writer::new()
        .key("a", vec![1_u8, 2, 3])
        .key("b", vec!["x", "y", "z"])
        .key("c", vec![vec![1_u8], vec![2]])
        .key("last", 5_u8)
        .file();
    let metadata = Header::read(bytes.as_slice(), &limits).unwrap().metadata;
    assert_eq!(metadata.array("a").unwrap().items.len(), 3);
    assert_eq!(metadata.array("b").unwrap().items.len(), 1);
    assert_eq!(metadata.array("c").unwrap().items.len(), 0);
    assert_eq!(metadata.array("c").unwrap().length, 2);
    assert_eq!(metadata.u64("last"), Some(5));
}

#[test]
fn text_that_is_not_utf8_is_replaced_and_not_refused() {
    let mut bytes = Writer::new().key("text", "ab").file();
    let at = bytes.len() - 1;
    bytes[at] = 0xff;
    assert_eq!(
        read(&bytes).unwrap().metadata.str("text"),
        Some("a\u{fffd}")
    );
}

#[test]
fn a_tensor_of_an_unknown_type_keeps_its_shape() {
    let file = Writer::new()
        .tensor("future", &[100], TensorType(999))
        .tensor_at("after", &[4], TensorType::F32, 320);
    let header = read(&file.header()).unwrap();
    assert_eq!(header.tensors[0].elements(), 100);
    assert_eq!(header.tensors[0].bytes(), None);
    assert_eq!(header.file_bytes_min(), header.data_offset + 320 + 16);
}
