//! Length-delimited JSON frames, for blocking streams and for bytes that arrive piecemeal.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// Largest payload of a frame, in bytes. A prompt of a million tokens takes about 8 MB.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

const HEADER_BYTES: usize = 4;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed, or ended inside a frame.
    #[error("the worker socket failed: {0}")]
    Io(#[from] io::Error),
    /// The length is over [`FRAME_BYTES_MAX`]: the two sides are out of step, or the peer is not one of ours.
    #[error("a frame of {bytes} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge {
        /// Announced or actual length of the payload.
        bytes: usize,
    },
    /// The payload is not the JSON that was expected.
    #[error("a frame holds no message of this protocol: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// The bytes of one frame, header included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, message)?;
    let payload_bytes = bytes.len() - HEADER_BYTES;
    if payload_bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge {
            bytes: payload_bytes,
        });
    }
    bytes[..HEADER_BYTES].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    Ok(bytes)
}

/// The message in one frame's payload (without its header).
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    Ok(serde_json::from_slice(payload)?)
}

/// Writes one frame to a blocking stream in one call, so that frames of several threads stay whole under one lock.
pub fn write_frame<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    stream.flush()?;
    Ok(())
}

/// Reads one frame from a blocking stream. `None` if the stream ended between frames.
pub fn read_frame<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match stream.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let bytes = payload_length(header)?;
    let mut payload = Vec::new();
    // `take` rather than a buffer of the announced size: a lying header then costs no memory.
    stream.take(bytes as u64).read_to_end(&mut payload)?;
    if payload.len() < bytes {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    decode(&payload).map(Some)
}

fn payload_length(header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    let bytes = u32::from_le_bytes(header) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { bytes });
    }
    Ok(bytes)
}

/// Cuts a byte stream into frames, for readers that are not blocking: push what arrived, then take messages until `None`.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    consumed: usize,
}

impl FrameDecoder {
    /// Adds bytes in the order of their arrival.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes are pushed. After an error the stream is out of step: give it up.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let pending = &self.buffer[self.consumed..];
        let Some((header, rest)) = pending.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let bytes = payload_length(*header)?;
        let Some(payload) = rest.get(..bytes) else {
            return Ok(None);
        };
        self.consumed += HEADER_BYTES + bytes;
        decode(payload).map(Some)
    }

    /// True when bytes of an unfinished frame are waiting: an end of stream here is a torn frame.
    pub fn has_partial_frame(&self) -> bool {
        self.consumed < self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(messages in prop::collection::vec(".{0,200}", 0..20), cuts in prop::collection::vec(1_usize..64, 1..50)) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| encode(message).unwrap()).collect();
            let mut decoder = FrameDecoder::default();
            let mut decoded = Vec::<String>::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                decoder.push(piece);
                while let Some(message) = decoder.next_message().unwrap() {
                    decoded.push(message);
                }
                rest = tail;
            }
            prop_assert_eq!(&decoded, &messages);
            prop_assert!(!decoder.has_partial_frame());

            let mut reader = stream.as_slice();
            let mut read = Vec::<String>::new();
            while let Some(message) = read_frame(&mut reader).unwrap() {
                read.push(message);
            }
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_message::<crate::Command>() {}
            let _ = read_frame::<crate::Event>(&mut bytes.as_slice());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_read() {
        let header = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes();
        let mut decoder = FrameDecoder::default();
        decoder.push(&header);
        assert!(matches!(
            decoder.next_message::<String>(),
            Err(FrameError::TooLarge { .. })
        ));
        assert!(matches!(
            read_frame::<String>(&mut header.as_slice()),
            Err(FrameError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let bytes = encode(&"whole").unwrap();
        for end in 1..bytes.len() {
            assert!(
                matches!(
                    read_frame::<String>(&mut &bytes[..end]),
                    Err(FrameError::Io(_))
                ),
                "cut at {end}"
            );
        }
    }
}
