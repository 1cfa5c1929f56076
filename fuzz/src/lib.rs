//! What is done with each input, and what must hold for every one of them.

mod machine;
mod prefix;

use std::fmt::Debug;

use aluco_model::gguf::{Header, Limits, TensorInfo};
use aluco_proto::{Command, Event, FrameDecoder, encode, read_frame};
pub use machine::{machine_files, machine_tuned};
pub use prefix::prefix_entry;
use serde::{Serialize, de::DeserializeOwned};

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

/// Takes the bytes for a worker's socket, in both directions.
pub fn proto_frame(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else {
        return;
    };
    frames::<Command>(stream, usize::from(piece) + 1);
    frames::<Event>(stream, usize::from(piece) + 1);
}

/// Both readers must find the same messages, however the bytes arrive, and each message can be sent on.
fn frames<T: Serialize + DeserializeOwned + Debug>(stream: &[u8], piece_bytes: usize) {
    let mut reader = stream;
    let mut blocking = Vec::<T>::new();
    while let Ok(Some(message)) = read_frame(&mut reader) {
        blocking.push(message);
    }
    let piecemeal = piecemeal::<T>(stream, piece_bytes);
    assert_eq!(format!("{blocking:?}"), format!("{piecemeal:?}"));
    for message in &blocking {
        encode(message).expect("a message that was read can be written");
    }
}

fn piecemeal<T: DeserializeOwned>(stream: &[u8], piece_bytes: usize) -> Vec<T> {
    let mut decoder = FrameDecoder::default();
    let mut messages = Vec::new();
    for piece in stream.chunks(piece_bytes) {
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}
