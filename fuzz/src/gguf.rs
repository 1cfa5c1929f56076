//! The header of a model file.

use aluco_model::gguf::{Header, Limits, TensorInfo};

/// Takes the bytes for a GGUF file. Whatever they are, the answer is an error or a header that keeps to its bounds.
pub fn gguf_header(data: &[u8]) {
    let limits = Limits {
        string_bytes_max: 4096,
        array_elements_max: 4096,
        array_kept_max: 16,
        array_head: 4,
        elements_kept_max: 64,
        ..Limits::default()
    };
    let read = Header::read(data, &limits);
    let keeping = Header::read(data, &limits.clone().keeping_arrays());
    let (header, whole) = match (read, keeping) {
        (Ok(header), Ok(whole)) => (header, whole),
        (Err(error), Err(_)) => {
            let message = error.to_string();
            assert!(!message.chars().any(char::is_control), "{message:?}");
            return;
        }
        // A text or a truth value inside an array is only looked at where it is kept.
        (Ok(_), Err(_)) => return,
        (Err(error), Ok(_)) => panic!("refused only when less is kept: {error}"),
    };
    assert!(header.header_bytes <= data.len() as u64);
    assert!(header.alignment.is_power_of_two());
    assert!(header.data_offset >= header.header_bytes);
    assert!(header.data_offset.is_multiple_of(header.alignment));
    assert!(header.file_bytes_min() >= header.header_bytes);
    assert!(header.elements() >= header.tensors.first().map_or(0, TensorInfo::elements));
    assert_eq!(header.tensors, whole.tensors);
    assert_eq!(header.header_bytes, whole.header_bytes);
    for ((key, value), (whole_key, whole_value)) in
        header.metadata.iter().zip(whole.metadata.iter())
    {
        assert_eq!(key, whole_key);
        if let (Some(array), Some(whole)) = (value.as_array(), whole_value.as_array()) {
            assert_eq!(array.length, whole.length);
            assert!(array.items.len() <= 64);
            assert!(whole.whole().is_some());
        }
    }
}
