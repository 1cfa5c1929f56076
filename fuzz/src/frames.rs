//! The bytes on a worker's socket.

use std::fmt::Debug;

use aluco_proto::{Command, Event, FrameDecoder, encode, read_frame};
use serde::{Serialize, de::DeserializeOwned};

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
